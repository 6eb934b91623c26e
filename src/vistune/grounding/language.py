"""Types that the English and the Korean rules share, and the interface that a language provides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class NamedClass:
    """A word in a text that names one of the 80 COCO classes; `narrow`: it names a sort within the class ("puppy")."""

    label: str
    start: int
    end: int
    narrow: bool = False


@dataclass(frozen=True, slots=True)
class CountClaim:
    """A number that a text states for a class.

    - is_total: the number covers all objects of the class in the image, not a part of them
    - only_at: class of the object at which there are no more ("only one person at the table"), or ""
    """

    label: str
    number: int
    is_total: bool
    only_at: str = ""


class Language(Protocol):
    """The grammar that the checks need from a language; `en` and `ko` implement it as modules.

    Texts are in lower case. The patterns match words of negation and of hedging, the ends of a clause, a part of a
    clause that denies only the object next to it ("without a dog"), the first number of an answer, and the characters
    that may precede and follow a class name.
    """

    NEGATION: re.Pattern[str]
    HEDGE: re.Pattern[str]
    CLAUSE_BREAK: re.Pattern[str]
    DENIED_PART: re.Pattern[str]
    FIRST_NUMBER: re.Pattern[str]
    WORD_START: str
    WORD_END: str

    def inflections(self, word: str) -> list[str]:
        """Return the word and its regular plural."""

    def is_noun(self, text: str, match: re.Match[str]) -> bool:
        """Return whether a matched word is used as a noun, not as a verb, a counting word or part of an idiom."""

    def continues_list(self, clause: str) -> bool:
        """Return whether a clause after a comma continues a list, so that a negation before it applies to it too."""

    def is_generic(self, clause: str, named: NamedClass) -> bool:
        """Return whether a word stands for the kind in general, or for something that is only drawn or printed."""

    def is_presupposed(self, question: str, named: NamedClass) -> bool:
        """Return whether a question takes the object for granted: "What is the dog doing?"."""

    def number(self, word: str) -> int:
        """Return the value of a number word or of digits."""

    def asks_total(self, question: str, named: NamedClass) -> bool:
        """Return whether a question asks how many objects of the class are in the image."""

    def count_claim(self, clause: str, named: NamedClass, others: Sequence[NamedClass]) -> CountClaim | None:
        """Return the number that a clause states for a class; `others`: all classes that the clause names."""

    def side_between(self, statement: str, first: NamedClass, second: NamedClass) -> str:
        """Return the side of `second` on which `first` is said to be, or ""."""

    def places(self, statement: str) -> list[str]:
        """Return the sides of the image that a statement names, if it names one place."""

    def with_brief_answer(self, question: str, answer: str) -> str:
        """Return a question and its brief answer as one statement about a position, or ""."""
