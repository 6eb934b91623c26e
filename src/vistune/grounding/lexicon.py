"""Look up the words for objects, colours, places and numbers in English and Korean.

`lexicon.json` is the only list of objects; `en/` and `ko/` have each language's other words and its sentences.
A label that is not in the lexicon is its own name in both languages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from vistune.types import Box

LANGUAGES = ("en", "ko")
EN_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
KO_NUMBERS = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열")
HANGUL = re.compile("[가-힣]")
_EN_AT = {"left": "on", "right": "on", "center": "in"}


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one language for an object; the note in `lexicon.json` explains each field."""

    name: str = ""
    one: str = ""
    article: str = ""
    mass: bool = False
    plural: str = ""
    counter: str = ""
    synonyms: tuple[str, ...] = ()
    in_text: tuple[str, ...] = ()
    narrower: tuple[str, ...] = ()
    loosely: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of the lexicon. `group`, `of` and `within` are labels of wider groups, classes and wholes."""

    words: Mapping[str, Words]
    group: str = ""
    of: str = ""
    within: tuple[str, ...] = ()
    shape: bool = False


_UNKNOWN = Entry({language: Words() for language in LANGUAGES})


Tree = Mapping[str, Any]  # a JSON file of this room


def _read(path: str) -> Tree:
    tree: Tree = json.loads((resources.files("vistune.grounding") / path).read_text(encoding="utf-8"))
    return tree


# Every object by its label, if a run adds labels; see `grounding.labels`.
OBJECTS: ContextVar[Mapping[str, Entry] | None] = ContextVar("objects", default=None)


def objects() -> Mapping[str, Entry]:
    """Return every object by its label: those of `lexicon.json`, and the labels of the run."""
    return OBJECTS.get() or _built_in()


def forget() -> None:
    """Clear everything that was computed from other objects."""
    _labels.cache_clear()
    class_of.cache_clear()
    shapes.cache_clear()


@cache
def _built_in() -> Mapping[str, Entry]:
    def tuples(fields: Tree) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}

    return {
        label: Entry({language: Words(**tuples(entry.pop(language))) for language in LANGUAGES}, **tuples(entry))
        for label, entry in _read("lexicon.json")["objects"].items()
    }


@cache
def word_lists(language: str) -> Tree:
    """Return a language's words other than objects: places, colours, and words that only look like a class."""
    return _read(f"{language}/words.json")


@cache
def sentences(language: str) -> Tree:
    """Return a language's sentence forms for questions, paragraphs, drawings and reasoning."""
    return _read(f"{language}/sentences.json")


def colors() -> tuple[str, ...]:
    """Return the colours that drawn scenes use and questions ask about."""
    return tuple(word_lists("ko")["colors"])


def entry_of(label: str) -> Entry:
    """Return the entry of a label, or an empty one."""
    return objects().get(label, _UNKNOWN)


def is_shape(label: str) -> bool:
    return entry_of(label).shape


@cache
def shapes() -> tuple[str, ...]:
    """Return the labels of shapes."""
    return tuple(filter(is_shape, objects()))


@cache
def _labels() -> Mapping[str, str]:
    """Map every name of an object, singular, plural or Korean, to its label."""
    labels = {label.casefold(): label for label in objects()}
    for label, entry in objects().items():
        synonyms = [name for language in LANGUAGES for name in entry.words[language].synonyms]
        names = (label, plural(label, "en"), f"{label}s", noun(label, "ko"), *synonyms, *(f"{s}s" for s in synonyms))
        for name in names:
            labels.setdefault(name.casefold(), label)
    return labels


def canonical_label(label: str) -> str:
    """Return the lexicon's label for any of its names ("자전거", "Bicycles", "traffic_light"), or `label` itself."""
    return _labels().get(" ".join(label.replace("_", " ").casefold().split()), label)


def head_of(label: str) -> str:
    """Return the lexicon's label for a longer name, which its last word decides: "흰 강아지" -> "puppy"."""
    name = canonical_label(label)
    if name in objects() or not label.split():
        return name
    head = canonical_label(label.split()[-1])
    return head if head in objects() else label


@lru_cache(1 << 12)  # called for every box by every check of every reply
def class_of(label: str) -> str:
    """Return the widest class of a label: "puppy" -> "dog". An unknown label is its own class."""
    head = head_of(label)
    return entry_of(head).of or head


def label_in(label: str, language: str) -> str:
    """Return the label that names a box in a language.

    A name outside the lexicon stays in its own language; the other language uses its known head: "검은 고양이" stays in
    Korean and becomes "cat" in English. A name without a known head stays in both.
    """
    name = canonical_label(label)
    own = "ko" if HANGUL.search(name) else "en"
    return name if own == language else head_of(name)


def group(label: str) -> str:
    """Return person, animal, vehicle, furniture, fruit, or "" for an object without a group."""
    return entry_of(class_of(label)).group


def is_person(label: str) -> bool:
    return group(label) == "person"


def noun(label: str, language: str) -> str:
    """Return the word for a label: "traffic light", "신호등"."""
    return entry_of(label).words[language].name or label


def plural(label: str, language: str) -> str:
    """Return the plural, such as "people"; Korean nouns do not change."""
    if language == "ko":
        return noun(label, "ko")
    return entry_of(label).words["en"].plural or f"{noun(label, 'en')}s"


def _translated(name: str, language: str, table: str) -> str:
    return str(word_lists("ko")[table].get(name, name)) if language == "ko" else name


def color_word(color: str, language: str) -> str:
    return _translated(color, language, "colors")


def size_word(size: str, language: str, *, answer: bool = False) -> str:
    """Return the word before a noun ("큰"), or the one that answers a question ("큽니다")."""
    return _translated(size, language, "size_answers" if answer else "sizes")


def place_word(place: str, language: str) -> str:
    return _translated(place, language, "places")


def at_place(place: str, language: str) -> str:
    """Return a place in an image with its preposition: "on the left", "at the top left", "in the center", "왼쪽"."""
    if language == "ko":
        return place_word(place, "ko")
    return f"{_EN_AT.get(place, 'at')} the {place}"


def name(box: Box, language: str) -> str:
    """Return colour and noun, "red circle" or "빨간색 원"; only the noun if the colour is unknown."""
    word = noun(box.label, language)
    color = box.attributes.get("color")
    return f"{color_word(color, language)} {word}" if color else word


def one(text: str, label: str) -> str:
    """Add the English indefinite article: "a red circle", "an orange star", "a pair of skis"."""
    words = entry_of(label).words["en"]
    if text == noun(label, "en"):
        if words.one or words.mass:
            return words.one or text
        if words.article:
            return f"{words.article} {text}"
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def counter(label: str) -> str:
    """Return the Korean counting word: 명 for people, 마리 for animals, 개 by default."""
    return entry_of(label).words["ko"].counter or entry_of(class_of(label)).words["ko"].counter or "개"


def has_singular(label: str) -> bool:
    """Return whether "a NAME is" is correct English; skis and scissors have no singular."""
    return not entry_of(label).words["en"].one


def amount(count: int, label: str) -> str:
    """Return a Korean number with its counting word: "두 마리", and in digits above ten: "11권"."""
    return f"{KO_NUMBERS[count]} {counter(label)}" if count < len(KO_NUMBERS) else f"{count}{counter(label)}"


def number(count: int) -> str:
    """Return an English number, in digits above ten."""
    return EN_NUMBERS[count] if count < len(EN_NUMBERS) else str(count)


def counted(count: int, label: str, language: str) -> str:
    """Return a number of objects: "two dogs", "개 두 마리"; in digits above ten."""
    if language == "ko":
        return f"{noun(label, 'ko')} {amount(count, label)}"
    return one(noun(label, "en"), label) if count == 1 else f"{number(count)} {plural(label, 'en')}"


def many(label: str, language: str) -> str:
    """Return an unknown number of objects: "many people", "사람 여러 명"."""
    return f"{noun(label, 'ko')} 여러 {counter(label)}" if language == "ko" else f"many {plural(label, 'en')}"


_PARTICLE = re.compile(r"(.)\[([^/\]]+)/([^\]]+)\]")


def particles(text: str) -> str:
    """Choose Korean particles by the sound before them: "원[은/는]" -> "원은", "하트[은/는]" -> "하트는"."""

    def choose(match: re.Match[str]) -> str:
        before, after_consonant, after_vowel = match.groups()
        return before + (after_consonant if _ends_in_consonant(before) else after_vowel)

    return _PARTICLE.sub(choose, text)


def finished(text: str, language: str) -> str:
    """Complete a sentence: choose Korean particles, or capitalise the first English letter."""
    return particles(text) if language == "ko" else text[:1].upper() + text[1:]


def _ends_in_consonant(char: str) -> bool:
    if "가" <= char <= "힣":
        return (ord(char) - ord("가")) % 28 != 0
    # Latin letters and digits as Koreans read them: 1 일, 3 삼, 6 육, 7 칠, 8 팔, 0 영, and the letters l, m, n, r.
    return char.lower() in "013678lmnr"
