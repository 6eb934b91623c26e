"""Decide whether a reply matches the right answer: the rules for `match` of the task `file`, and their text measures.

reply + right answer + match -> the part of the reply that is compared -> points from 0 to 1
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from vistune.evaluation.parsing import NUMBERS, evalai_form
from vistune.evaluation.task import bare, same_text

ANLS_THRESHOLD = 0.5  # of the DocVQA challenge (https://arxiv.org/abs/2007.00398, section 5.1)
_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)|(?<![\d.])[-−]?\d+(?:\.\d+)?|[^\W\d_]+")
_TEENS = (
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen"),
    *("sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_ENGLISH = NUMBERS | {word: str(number) for number, word in enumerate(_TEENS, start=11)}
_COUNTED = ("하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉", "열")
_KOREAN = {word: str(number) for number, word in enumerate(_COUNTED, start=1)}
_BEFORE_COUNTERS = {"한": "1", "두": "2", "세": "3", "네": "4", **{word: _KOREAN[word] for word in _COUNTED[4:]}}
# A Korean numeral directly before one of these counts things: "세 마리", "두 명".
_COUNTERS = "개|명|마리|대|장|권|송이|그루|사람|곳|가지|번|채|척|켤레|벌|잔|병|조각|줄|층|살"
_KOREAN_COUNT = re.compile(rf"(?<![가-힣])({'|'.join(_BEFORE_COUNTERS)}) ?(?:{_COUNTERS})")
_KOREAN_WORD = re.compile(rf"({'|'.join(_KOREAN)})(?:입니다|이에요|예요|이다|다|이|가|을|를|은|는)?")


@dataclass(frozen=True, slots=True)
class Match:
    """A rule for a reply.

    Attributes:
        about: A description of the comparison.
        points: Points of a reply, from 0 to 1, by reply and right answer.
        metric: The name of its figure; matches that are right or wrong share `accuracy`.
        answer_in: Returns the part of a reply that is compared, None if the reply has none.
    """

    about: str
    points: Callable[[str, str], float]
    metric: str = "accuracy"
    answer_in: Callable[[str], str | None] = str


def normalised(text: str) -> str:
    """Return a text in VQA's form: lower case, no articles and punctuation, number words as digits."""
    return evalai_form(unicodedata.normalize("NFKC", text).replace("。", "."))


def numbers_in(text: str) -> list[Decimal]:
    """Return the numbers of a text in order: digits, English words up to twenty, Korean numerals before a counter.

    Thousands separators are read ("1,234"); units and percent signs are ignored.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    counted = _KOREAN_COUNT.sub(lambda match: f" {_BEFORE_COUNTERS[match[1]]} ", plain)
    numbers = []
    for token in _NUMBER.findall(counted):
        word = _KOREAN_WORD.fullmatch(token)
        written = _ENGLISH.get(token) or (_KOREAN[word[1]] if word else token)
        if written[-1].isdigit():
            numbers.append(Decimal(written.replace(",", "").replace("−", "-")))
    return numbers


def only_number(text: str) -> str | None:
    """Return the number of a text; None if it has no number, or different ones."""
    numbers = set(numbers_in(text))
    return f"{numbers.pop().normalize():f}" if len(numbers) == 1 else None


def words(text: str) -> list[str]:
    """Return the lower-case words of a text in any script, as ROUGE compares them, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence (Hyyrö's bit-parallel algorithm)."""
    positions: dict[str, int] = {}
    for index, item in enumerate(left):
        positions[item] = positions.get(item, 0) | 1 << index
    full = (1 << len(left)) - 1
    row = full
    for item in right:
        matches = row & positions.get(item, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(left) - row.bit_count()


def edit_distance(left: str, right: str) -> int:
    """Return the Levenshtein distance of two texts (Myers' bit-parallel algorithm)."""
    if len(left) < len(right):
        left, right = right, left
    if not right:
        return len(left)
    positions: dict[str, int] = {}
    for index, sign in enumerate(left):
        positions[sign] = positions.get(sign, 0) | 1 << index
    full, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    plus, minus, distance = full, 0, len(left)
    for sign in right:
        equal = positions.get(sign, 0)
        vertical = equal | minus
        horizontal = (((equal & plus) + plus) ^ plus) | equal
        up = minus | ~(horizontal | plus) & full
        down = plus & horizontal
        distance += bool(up & last) - bool(down & last)
        up, down = (up << 1 | 1) & full, down << 1 & full
        plus, minus = down | ~(vertical | up) & full, up & vertical
    return distance


def rouge_l(reply: str, answer: str) -> float:
    """Return ROUGE-L (Lin 2004): the F1 score of the longest common subsequence of words."""
    left, right = words(reply), words(answer)
    if not left or not right:
        return 0.0
    return 2 * common_subsequence(left, right) / (len(left) + len(right))


def anls(reply: str, answers: Sequence[str], threshold: float = ANLS_THRESHOLD) -> float:
    """Return the best normalised Levenshtein similarity with any of the answers; 0 below the threshold.

    As in the DocVQA challenge's scorer, case and extra spaces do not count for the distance, but spaces do for the
    length by which it is divided.
    """
    distances = []
    text = " ".join(reply.lower().split())
    for answer in answers:
        longest = max(len(answer.upper()), len(reply.upper()))
        right = " ".join(answer.lower().split())
        is_far = abs(len(right) - len(text)) > (1 - threshold) * longest + 1  # so the similarity is below the threshold
        distance = longest if is_far else edit_distance(right, text)
        distances.append(distance / longest if longest else 0.0)
    similarity = 1 - min(distances, default=1.0)
    return similarity if similarity >= threshold else 0.0


def _is_same_number(reply: str, answer: str) -> float:
    return float(reply == only_number(answer))


CHOICE, JUDGE, NUMBER = "choice", "judge", "number"
MATCHES: Mapping[str, Match] = {
    "exact": Match("the same text, except for case, spaces and a final full stop", lambda r, a: float(same_text(r, a))),
    "normalised": Match(
        "the same text without articles and punctuation, with number words as digits",
        lambda reply, answer: float(normalised(reply) == normalised(answer)),
    ),
    "contains": Match("the reply contains the answer", lambda reply, answer: float(bare(answer) in bare(reply))),
    NUMBER: Match("the only number of the reply is that of the answer", _is_same_number, answer_in=only_number),
    CHOICE: Match("the reply selects the option of the answer", lambda reply, answer: float(reply == answer)),
    "rouge-l": Match("ROUGE-L: the F1 score of the longest common sequence of words", rouge_l, "rouge_l"),
    "anls": Match("similarity by edit distance, 0 below one half", lambda reply, answer: anls(reply, [answer]), "anls"),
    JUDGE: Match("a judge model decides whether reply and answer mean the same", lambda reply, answer: 0.0),
}
# The matches that need nothing except the two texts; a table shows all of them next to the chosen one.
PLAIN = ("exact", "normalised", "contains", "rouge-l", "anls")


def plain_points(replies: Sequence[tuple[str | None, str]]) -> dict[str, tuple[float, int]]:
    """Return the mean points in per cent by each plain match, over (reply, right answer); a missing reply has 0."""
    table = {}
    for name in PLAIN:
        points = sum(MATCHES[name].points(reply, answer) for reply, answer in replies if reply is not None)
        table[name] = (100 * points / max(len(replies), 1), len(replies))
    return table
