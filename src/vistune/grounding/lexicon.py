"""The words for what boxes say, in English and Korean: names, plurals, counters, places, particles.

Words are data (`lexicon.json`); a label that is not there keeps its own name in both languages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from vistune.types import Box

LANGUAGES = ("en", "ko")
KO_NUMBERS = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열")
_EN_AT = {"left": "on", "right": "on", "center": "in"}
EN_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@cache
def lexicon() -> Mapping[str, Any]:
    return json.loads((resources.files("vistune.grounding") / "lexicon.json").read_text(encoding="utf-8"))


def is_shape(label: str) -> bool:
    return bool(_entry(label).get("shape"))


@cache
def _names() -> Mapping[str, str]:
    """Every name of an object, English, plural or Korean -> its label."""
    names: dict[str, str] = {}
    for label, entry in lexicon()["objects"].items():
        also = entry.get("also", ())
        for name in (label, plural(label, "en"), f"{label}s", entry["ko"], *also, *(f"{other}s" for other in also)):
            names.setdefault(name.casefold(), label)
    return names


def known(label: str) -> str:
    """The lexicon's label for any of its names ("자전거", "Bicycles", "traffic_light"); others stay as they are."""
    return _names().get(" ".join(label.replace("_", " ").casefold().split()), label)


def head_of(label: str) -> str:
    """The lexicon's label of a longer name, whose last word says what it is: "흰 강아지" -> "puppy"."""
    name = known(label)
    if name in lexicon()["objects"] or not label.split():
        return name
    head = known(label.split()[-1])
    return head if head in lexicon()["objects"] else label


@lru_cache(1 << 12)  # every check of every reply asks it of every box
def class_of(label: str) -> str:
    """The widest class that a label belongs to: "puppy" -> "dog"; an unknown label is its own class."""
    head = head_of(label)
    return str(_entry(head).get("of", head))


def spoken(label: str, language: str) -> str:
    """The label under which a box is spoken of: a name that the lexicon lacks keeps to its own language.

    "검은 고양이" stays so in Korean and is a "cat" in English; what has no known head stays as it is in both.
    """
    name = known(label)
    own = "ko" if re.search("[가-힣]", name) else "en"
    return name if own == language else head_of(name)


def _entry(label: str) -> Mapping[str, Any]:
    entry: Mapping[str, Any] = lexicon()["objects"].get(label, {})
    return entry


def group(label: str) -> str:
    """person, animal, vehicle, furniture, fruit; empty where none is known."""
    return str(_entry(class_of(label)).get("group", ""))


def is_person(label: str) -> bool:
    return group(label) == "person"


def noun(label: str, language: str) -> str:
    """The label's word: "traffic light" · "신호등"."""
    return str(_entry(label).get(language, label))


def plural(label: str, language: str) -> str:
    """ "people"; Korean nouns do not change."""
    if language == "ko":
        return noun(label, "ko")
    return str(_entry(label).get("plural", f"{noun(label, 'en')}s"))


def color_word(color: str, language: str) -> str:
    return str(lexicon()["colors"].get(color, color)) if language == "ko" else color


def size_word(size: str, language: str, *, answer: bool = False) -> str:
    entry = lexicon()["sizes"].get(size, {})
    return str(entry.get("ko_answer" if answer else "ko", size)) if language == "ko" else size


def place_word(place: str, language: str) -> str:
    return str(lexicon()["places"][place]) if language == "ko" else place


def at_place(place: str, language: str) -> str:
    """Where in a photograph: "on the left", "at the top left", "in the center" · "왼쪽"."""
    if language == "ko":
        return place_word(place, "ko")
    return f"{_EN_AT.get(place, 'at')} the {place}"


def name(box: Box, language: str) -> str:
    """Colour and label, "red circle" · "빨간색 원"; the label alone where no colour is known."""
    word = noun(box.label, language)
    color = box.attributes.get("color")
    return f"{color_word(color, language)} {word}" if color else word


def one(text: str, label: str) -> str:
    """With an English indefinite article: "a red circle", "an orange star", "a pair of skis"."""
    if text == noun(label, "en") and "one" in _entry(label):
        return str(_entry(label)["one"])
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def counter(label: str) -> str:
    """The Korean counting word: 명 for people, 마리 for animals, 개 where nothing else is known."""
    return str(_entry(label).get("counter") or _entry(class_of(label)).get("counter", "개"))


def is_plain(label: str) -> bool:
    """Whether "a NAME is" can be said; of skis and scissors it cannot."""
    return "one" not in _entry(label)


def amount(count: int, label: str) -> str:
    """A Korean number with its counting word: "두 마리"; digits, above ten, stand close: "11권"."""
    return f"{KO_NUMBERS[count]} {counter(label)}" if count < len(KO_NUMBERS) else f"{count}{counter(label)}"


def number(count: int) -> str:
    """An English number, above ten in digits."""
    return EN_NUMBERS[count] if count < len(EN_NUMBERS) else str(count)


def counted(count: int, label: str, language: str) -> str:
    """ "two dogs" · "개 두 마리"; above ten in digits."""
    if language == "ko":
        return f"{noun(label, 'ko')} {amount(count, label)}"
    return one(noun(label, "en"), label) if count == 1 else f"{number(count)} {plural(label, 'en')}"


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
