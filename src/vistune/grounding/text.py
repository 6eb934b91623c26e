"""Find the COCO classes that a text names, and the clauses that claim something about the image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from vistune.grounding import en, ko
from vistune.grounding.language import Language, NamedClass
from vistune.grounding.lexicon import objects, word_lists


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A pattern that matches class names and their look-alikes; `labels` maps a word to its class ("": look-alike)."""

    pattern: re.Pattern[str]
    labels: Mapping[str, str]
    narrower: frozenset[str]


def language_code(language: str) -> str:
    """Return the language whose words and grammar are used: "ko" for Korean, "en" for every other one."""
    return "ko" if language == "ko" else "en"


def grammar(language: str) -> Language:
    return ko if language == "ko" else en


def find_classes(text: str, language: str) -> list[NamedClass]:
    """Return every class that a text names, from left to right, without look-alikes such as "hot dog" for "dog"."""
    return list(_find(text.lower(), language_code(language), False))


def find_classes_loosely(text: str, language: str) -> list[NamedClass]:
    """Like `find_classes`, also by looser names ("skier", "ball"), which are counted and located but prove nothing."""
    return list(_find(text.lower(), language_code(language), True))


@cache
def _vocabulary(language: str, loosely: bool) -> _Vocabulary:
    inflections = grammar(language).inflections
    named, narrower, loose, lookalikes = (dict[str, str]() for _ in range(4))
    for label, entry in objects().items():
        words = entry.words[language]
        narrower.update((form, label) for word in words.narrower for form in inflections(word))
        named.update((form, label) for word in (*words.in_text, *words.narrower) for form in inflections(word))
        loose.update((form, label) for word in words.loosely for form in inflections(word))
    lookalikes.update((form, "") for word in word_lists(language)["not_the_class"] for form in inflections(word))
    labels = {**lookalikes, **named}
    if loosely:
        labels = {**loose, **labels}
        narrower |= loose
    return _Vocabulary(_pattern(labels, grammar(language)), labels, frozenset(narrower))


def _pattern(words: Mapping[str, str], language: Language) -> re.Pattern[str]:
    """Match the longest words first, so that "hot dog" and "bus stop" are found before "dog" and "bus".

    The alternatives are grouped by first letter: hundreds of words then cost one comparison at most positions.
    """
    rests: dict[str, list[str]] = {}
    for word in sorted(words, key=len, reverse=True):
        rests.setdefault(word[0], []).append(re.escape(word[1:]))
    first_letter = f"(?=[{re.escape(''.join(rests))}])"
    listed = "|".join(f"{re.escape(letter)}(?:{'|'.join(tails)})" for letter, tails in rests.items())
    return re.compile(f"{first_letter}{language.WORD_START}(?:{listed}){language.WORD_END}")


@lru_cache(1 << 12)  # the captions of an image are read for every reply about it, by several checks
def _find(text: str, language: str, loosely: bool) -> tuple[NamedClass, ...]:
    vocabulary, is_noun = _vocabulary(language, loosely), grammar(language).is_noun
    found = []
    for match in vocabulary.pattern.finditer(text):
        word = match.group()
        if (label := vocabulary.labels[word]) and is_noun(text, match):
            found.append(NamedClass(label, match.start(), match.end(), word in vocabulary.narrower))
    return tuple(found)


# English parentheses between commas, which would otherwise end a clause.
_PARENTHESIS = re.compile(
    r",\s+((?:by|in) contrast|however|of course|in general|for example|on the other hand|in turn),", re.IGNORECASE
)


def is_negated(clause: str, language: str) -> bool:
    return bool(grammar(language).NEGATION.search(clause.lower()))


def is_hedged(clause: str, language: str) -> bool:
    return bool(grammar(language).HEDGE.search(clause.lower()))


def asserted(text: str, language: str) -> Iterator[str]:
    """Yield the clauses that claim something, without those that are denied, asked, hedged or meant in general.

    A negation continues through a list: "no cars, trucks or buses" denies all three.
    """
    rules = grammar(language)
    for sentence in re.split(r"(?<=[.!?])\s+|\n", _PARENTHESIS.sub(r" \1 ", text)):
        is_claimed = True
        for clause in filter(str.strip, rules.CLAUSE_BREAK.split(sentence)):
            claim = rules.DENIED_PART.sub("", clause)
            is_question = claim.rstrip().endswith("?")
            is_statement = not (is_question or is_negated(claim, language) or is_hedged(claim, language))
            is_claimed = is_statement and (is_claimed or not rules.continues_list(clause.lower()))
            if is_claimed:
                yield claim
            is_claimed = is_claimed and claim == clause
