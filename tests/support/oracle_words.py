"""The words of the oracle: places, colours, nouns, counters and particles, none of them from `vistune.grounding`."""

from __future__ import annotations

import unicodedata

EN_PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
KO_PLACES = ("왼쪽 위", "위쪽", "오른쪽 위", "왼쪽", "가운데", "오른쪽", "왼쪽 아래", "아래쪽", "오른쪽 아래")
KO_COLORS = {
    "red": "빨간색",
    "orange": "주황색",
    "yellow": "노란색",
    "green": "초록색",
    "blue": "파란색",
    "purple": "보라색",
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
# label: English plural, Korean noun, Korean counter
WORDS = {
    "circle": ("circles", "원", "개"),
    "square": ("squares", "사각형", "개"),
    "triangle": ("triangles", "삼각형", "개"),
    "star": ("stars", "별", "개"),
    "cross": ("crosses", "십자가", "개"),
    "heart": ("hearts", "하트", "개"),
    "person": ("people", "사람", "명"),
    "dog": ("dogs", "개", "마리"),
    "bus": ("buses", "버스", "대"),
    "knife": ("knives", "칼", "자루"),
    "sheep": ("sheep", "양", "마리"),
    "traffic light": ("traffic lights", "신호등", "개"),
    "skis": ("pairs of skis", "스키", "벌"),
    "robot": ("robots", "robot", "개"),  # in no lexicon
}


def with_particle(word: str, closed: str, opened: str) -> str:
    """A Hangul syllable with a final consonant decomposes into three letters; of Latin ones only n, m, l, r close."""
    last = word[-1]
    ends = len(unicodedata.normalize("NFD", last)) == 3 if last >= "가" else last in "lmnr013678"
    return word + (closed if ends else opened)


def eun(word: str) -> str:
    return with_particle(word, "은", "는")


def i(word: str) -> str:
    return with_particle(word, "이", "가")


def article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
