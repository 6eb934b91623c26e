"""Compute VQA scores: two text processors, whose quirks are kept because published figures depend on them, and points.

`vqa_form` is VQA's own evaluation (vqaEval.py, Goyal et al., arXiv:1612.00837). `evalai_form` is that of the evaluation
server and of TextVQA (m4c_evaluators.py), which treats commas, question marks and 's differently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
# Each is also known without any one of its apostrophes. The official table's entries that start with "I", such as
# "I'm", are absent: they contain a capital, so they never match the lower-cased words.
CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've "
    "you'll you're you've"
)
# The last entry is reversed in the official table.
SPELLED = {
    whole[:k] + whole[k + 1 :]: whole for whole in CONTRACTIONS.split() for k in range(len(whole)) if whole[k] == "'"
} | {"somebody'd": "somebodyd"}

_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The official pattern is meant to keep "3." too, but its look-behind is written as a look-ahead and does nothing.
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # the official call passes re.UNICODE in place of the count


def _without_punctuation(text: str) -> str:
    """Remove signs that are next to a space somewhere in the text; replace the others by a space."""
    joined = _DIGIT_COMMA_DIGIT.search(text) is not None
    result = text
    for sign in PUNCTUATION:
        if sign in text:
            remove = joined or f"{sign} " in text or f" {sign}" in text
            result = result.replace(sign, "" if remove else " ")
    return _PERIOD.sub("", result, count=_PERIODS)


def _plain_words(text: str) -> str:
    """Normalise words: lower case, numbers as digits, no articles, contractions with their apostrophes."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(SPELLED.get(word, word) for word in words if word not in ARTICLES)


def one_line(text: str) -> str:
    """Apply what VQA's evaluation does to every answer, even if all people agree."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 17)
def vqa_form(text: str) -> str:
    """Return VQA's form of an answer that `one_line` returned."""
    return _plain_words(_without_punctuation(text))


@lru_cache(maxsize=1 << 17)
def evalai_form(text: str) -> str:
    """Return the server's form of any answer."""
    bare = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return _plain_words(_without_punctuation(one_line(bare.strip())))


def soft_points(answer: str, people: Sequence[str]) -> float:
    """Return the mean over people of min(1, number of the others who said `answer` / 3).

    If n of ten people said it, that is 0, 0.3, 0.6, 0.9 and 1 for n = 0, 1, 2, 3 and more (arXiv:1612.00837).
    """
    same, total = people.count(answer), len(people)
    if not same:
        return 0.0
    return (same * min(1, (same - 1) / 3) + (total - same) * min(1, same / 3)) / total
