"""Find the things that captions name and boxes rarely mark: "man", "water", "snow"; see `caption_things.json`.

"Is there …?" may be answered with "no" only if no caption names the thing or makes it likely. A caption names few parts
of an image, so this needs `ENOUGH` captions.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources

from vistune.grounding import en, ko

ENOUGH = 3


@cache
def caption_things() -> Mapping[str, tuple[re.Pattern[str], re.Pattern[str]]]:
    """Return for each thing a pattern of the words that name it, and one of the words that make it likely."""
    text = (resources.files("vistune.grounding") / "caption_things.json").read_text(encoding="utf-8")
    lists = json.loads(text)
    return {
        label: (_pattern(entry["words"]), _pattern(_with_lists(entry["evidence"], lists)))
        for label, entry in lists["things"].items()
    }


def _with_lists(terms: Iterable[str], lists: Mapping[str, Sequence[str]]) -> list[str]:
    return [each for term in terms for each in (lists[term] if term.isupper() else (term,))]


def _pattern(terms: Iterable[str]) -> re.Pattern[str]:
    english = "|".join(re.escape(form) for term in terms if term.isascii() for form in en.inflections(term))
    korean = "|".join(re.escape(term) for term in terms if not term.isascii()) or "(?!)"
    return re.compile(f"{en.WORD_START}(?:{english}){en.WORD_END}|{ko.WORD_START}(?:{korean}){ko.WORD_END}")


def named_things(captions: Sequence[str]) -> list[str]:
    """Return the things that at least two of enough captions name."""
    counts = Counter(label for caption in captions for label in _matching(caption, 0))
    return [label for label, count in counts.items() if count >= 2 and len(captions) >= ENOUGH]


def possible_things(captions: Sequence[str]) -> frozenset[str]:
    """Return the things that the captions name or make likely."""
    return frozenset(label for caption in captions for number in (0, 1) for label in _matching(caption, number))


def _matching(caption: str, number: int) -> list[str]:
    text = caption.lower()
    return [label for label, patterns in caption_things().items() if patterns[number].search(text)]
