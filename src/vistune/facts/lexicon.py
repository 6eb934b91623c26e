"""The words for what boxes say, in English and Korean: names, plurals, counters, places, particles.

Words are data (`lexicon.json`); a label that is not there keeps its own name in both languages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from vistune.types import Box

LANGUAGES = ("en", "ko")
KO_NUMBERS = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열")
EN_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@cache
def lexicon() -> Mapping[str, Any]:
    return json.loads((resources.files("vistune.facts") / "lexicon.json").read_text(encoding="utf-8"))


def is_shape(label: str) -> bool:
    return bool(lexicon()["objects"].get(label, {}).get("shape"))


def noun(label: str, language: str) -> str:
    """The label's word: "traffic light" · "신호등"."""
    return str(lexicon()["objects"].get(label, {}).get("ko", label)) if language == "ko" else label


def plural(label: str, language: str) -> str:
    """ "people"; Korean nouns do not change."""
    if language == "ko":
        return noun(label, "ko")
    return str(lexicon()["objects"].get(label, {}).get("plural", f"{label}s"))


def color_word(color: str, language: str) -> str:
    return str(lexicon()["colors"].get(color, color)) if language == "ko" else color


def size_word(size: str, language: str, *, answer: bool = False) -> str:
    entry = lexicon()["sizes"].get(size, {})
    return str(entry.get("ko_answer" if answer else "ko", size)) if language == "ko" else size


def place_word(place: str, language: str) -> str:
    return str(lexicon()["places"][place]) if language == "ko" else place


def name(box: Box, language: str) -> str:
    """Colour and label, "red circle" · "빨간색 원"; the label alone where no colour is known."""
    word = noun(box.label, language)
    color = box.attributes.get("color")
    return f"{color_word(color, language)} {word}" if color else word


def one(text: str, label: str) -> str:
    """With an English indefinite article: "a red circle", "an orange star", "a pair of skis"."""
    if text == label and "one" in lexicon()["objects"].get(label, {}):
        return str(lexicon()["objects"][label]["one"])
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def counter(label: str) -> str:
    """The Korean counting word: 명 for people, 마리 for animals, 개 where nothing else is known."""
    return str(lexicon()["objects"].get(label, {}).get("counter", "개"))


def is_plain(label: str) -> bool:
    """Whether "a NAME is" can be said; of skis and scissors it cannot."""
    return "one" not in lexicon()["objects"].get(label, {})


def counted(count: int, label: str, language: str) -> str:
    """ "two dogs" · "개 두 마리"; above ten in digits."""
    if language == "ko":
        return f"{noun(label, 'ko')} {KO_NUMBERS[count] if count < len(KO_NUMBERS) else count} {counter(label)}"
    if count == 1:
        return one(label, label)
    return f"{EN_NUMBERS[count] if count < len(EN_NUMBERS) else count} {plural(label, 'en')}"


def many(label: str, language: str) -> str:
    """ "many people" · "사람 여러 명", where nobody has counted."""
    return f"{noun(label, 'ko')} 여러 {counter(label)}" if language == "ko" else f"many {plural(label, 'en')}"


_PARTICLE = re.compile(r"(.)\[([^/\]]+)/([^\]]+)\]")


def particles(text: str) -> str:
    """Choose Korean particles by the sound before them: "원[은/는]" -> "원은", "하트[은/는]" -> "하트는"."""

    def choose(match: re.Match[str]) -> str:
        before, closed, open_ = match.groups()
        return before + (closed if _ends_closed(before) else open_)

    return _PARTICLE.sub(choose, text)


def _ends_closed(char: str) -> bool:
    if "가" <= char <= "힣":
        return (ord(char) - ord("가")) % 28 != 0
    # Latin letters and digits as Koreans read them: 1 일, 3 삼, 6 육, 7 칠, 8 팔, 0 영; l, m, n, r close.
    return char.lower() in "013678lmnr"
