"""Stated sides (left, right, above, below) of the 80 COCO classes against the boxes, English and Korean.

boxes + turns -> the first side that they contradict; only classes with exactly one box are judged
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from vistune.grounding.claims import YES
from vistune.grounding.lexicon import class_of
from vistune.grounding.mentions import Mention, loose_mentions
from vistune.grounding.statements import asserted
from vistune.types import AnnotatedImage, Box

TOLERANCE = 0.05  # share of the picture by which a stated side may be missed


def wrong_position(image: AnnotatedImage, turns: tuple[tuple[str, str], ...], language: str) -> str:
    """The first stated side that the boxes contradict, as words; only of classes with exactly one box."""
    counts = Counter(class_of(box.label) for box in image.boxes)
    crowds = {class_of(label) for label in image.crowds}
    named = ((class_of(box.label), box) for box in image.boxes)
    single = {label: box for label, box in named if counts[label] == 1 and label not in crowds}
    for question, answer in turns:
        for statement in _statements(question.split("\n")[0].rstrip("?"), answer, language):
            if fault := _misplaced(statement, single, language):
                return fault
    return ""


_SIDE_FIRST = re.compile(r"((?:^|[.!]\s)(?:to|on) the (?:left|right)(?: side)? of [^,.]{1,40}), ", re.IGNORECASE)
_WHAT_IS = re.compile(r"^what (?:is|are|stands|lies|sits|hangs) ((?:(?:to|on) the (?:left|right)|above|below)\b.*)$")
BRIEF_WORDS = 6


def _statements(question: str, answer: str, language: str) -> list[str]:
    """What is claimed: the answer's clauses, and a question together with its brief answer."""
    # a side named first keeps its clause: "To the left of the bus, there is a bicycle"
    said = list(asserted(_SIDE_FIRST.sub(r"\1 ", answer), language))
    brief = len(answer.split()) <= BRIEF_WORDS and bool(said)
    if YES.match(answer):
        said.append(question)
    elif brief and re.search(r"\bwhere\b|어디", question.lower()):
        said.append(f"{question} {answer}")
    elif brief and (match := _WHAT_IS.match(question.lower())):
        said.append(f"{answer.rstrip('.')} is {match.group(1)}")
    elif brief and language == "ko" and "무엇" in question:
        said.append(f"{question.split('무엇')[0]}{answer}")
    return said


def _misplaced(statement: str, single: Mapping[str, Box], language: str) -> str:
    lowered = statement.lower()
    found = loose_mentions(statement, language)
    side_between = _ko_side if language == "ko" else _en_side
    for first, second in pairwise(found):
        if first.label in single and second.label in single and first.label != second.label:
            side = side_between(lowered, first, second)
            if side and _contradicts(single[first.label], single[second.label], side):
                return f"{first.label} {side} {second.label}"
    if len(found) == 1 and found[0].label in single:
        for side in _ko_places(lowered) if language == "ko" else _en_places(lowered):
            if _off_side(single[found[0].label], side):
                return f"{found[0].label} at the {side}"
    return ""


_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above", "on": "under", "under": "on"}
_EN_RELATION = re.compile(r"\b(?:(?:to|on) the (left|right) (?:side )?of|(left|right) of|(above|below))\b")
_EN_NOUN_AHEAD = re.compile(r"^\s*(?:the|a|an|another)?\s*(?:\w+\s+){0,2}$")
_EN_SIDE_FIRST = re.compile(
    r"(?:^|\band |\bwhile )\s*(?:(?:to|on) the )?(left|right) (?:side )?of (?:the |a |an )?(?:\w+ )?$"
)
_EN_STANDS = re.compile(
    r"^\s*(?:,\s*)?(?:there |you can see |we see |one can see )?(?:is|are|\w+s)?"
    r"\s*(?:the|a|an|another)\s+(?:\w+\s+){0,2}$"
)
WORDS_BETWEEN = 9


def _en_side(lowered: str, first: Mention, second: Mention) -> str:
    """The side of `second` on which `first` is said to be."""
    between = lowered[first.end : second.start]
    ahead = _EN_SIDE_FIRST.search(lowered[: first.start])
    if ahead and _EN_STANDS.match(between):  # "to the left of the bus stands a bicycle"
        return _OPPOSITE[ahead.group(1)]
    matches = list(_EN_RELATION.finditer(between))
    if len(matches) != 1 or len(between.split()) > WORDS_BETWEEN:
        return ""
    if not _EN_NOUN_AHEAD.match(between[matches[0].end() :]):
        return ""
    return next(group for group in matches[0].groups() if group)


_KO_RELATION = re.compile(r"(?:의|보다)?\s*(왼쪽|오른쪽|위쪽|위|아래쪽|아래)에")
_KO_SIDES = {"왼쪽": "left", "오른쪽": "right", "위쪽": "above", "아래쪽": "below", "위": "on", "아래": "under"}


def _ko_side(lowered: str, first: Mention, second: Mention) -> str:
    """ "개는 고양이의 왼쪽에 있다", "고양이 왼쪽에는 개가 있다"."""
    topic = re.match(r"(?:은|는|이|가)\s", lowered[first.end :])
    if topic and (match := _KO_RELATION.match(lowered, second.end)):
        return _KO_SIDES[match.group(1)]
    match = _KO_RELATION.match(lowered, first.end)
    follows = match and re.match(r"(?:는|도)?\s(?:[가-힣]+[은는한인운]\s)?$", lowered[match.end() : second.start])
    return _OPPOSITE[_KO_SIDES[match.group(1)]] if match and follows else ""


def _contradicts(first: Box, second: Box, side: str) -> bool:
    dx, dy = (a - b for a, b in zip(first.center, second.center, strict=True))
    return {
        "left": dx > TOLERANCE, "right": dx < -TOLERANCE, "above": dy > TOLERANCE, "below": dy < -TOLERANCE,
        # what lies on a table may lie lower in the picture than the table's middle, but not past its edge
        "on": first.y0 > second.y1, "under": first.y1 < second.y0,
    }[side]  # fmt: skip


_EN_PLACE = re.compile(
    r"\b(?:(?:on|at|to|in|towards?|near) the )?(?:(?:far|lower|upper) )?(?:(top|bottom|upper|lower)[ -])?"
    r"(left|right|top|bottom)\b"
)
_EN_OF_A_THING = re.compile(
    r"(?:[- ](?:side|edge|corner|half|part|hand side))? of (?!the (?:picture|image|photo|photograph|scene|frame)\b)"
    r"| (?:hand|arm|foot|leg|turn|now|over|behind|eye|ear|shoulder|wing|lane|next|in front|away|paw|knee|wheel|sleeve)"
)
_EN_TURNS = re.compile(
    r"\b(?:look|turn|fac|head|mov|point|lean|gaz|swing|swerv|run|walk|driv|go|step|tilt|bend|veer|glanc|star)(?:e?s|ing|ed|e)?\b"
)


def _en_places(lowered: str) -> list[str]:
    """Sides of the picture that a statement names, where it names one place; sides of things are not among them."""
    matches = list(_EN_PLACE.finditer(lowered))
    if len(matches) != 1 or _EN_OF_A_THING.match(lowered[matches[0].end() :]):
        return []
    words = matches[0].group()
    if words.startswith(("to", "toward")) and not words.startswith("top") and _EN_TURNS.search(lowered):
        return []
    placed = words.startswith(("on", "at", "in", "to the", "near", "toward"))
    return [side for side in matches[0].groups() if side] if placed else []


_KO_PLACE = re.compile(r"(왼|오른)쪽(?: (위|아래))?쪽?(?:에|$)")
_KO_OF_A_THING = re.compile(r"(?<!사진)(?<!그림)(?<!이미지)(?<!화면)의\s*$|더\s*$")
_KO_PLACES = {"왼": "left", "오른": "right", "위": "top", "아래": "bottom"}


def _ko_places(lowered: str) -> list[str]:
    found = [match for match in _KO_PLACE.finditer(lowered) if not _KO_OF_A_THING.search(lowered[: match.start()])]
    return [_KO_PLACES[side] for side in found[0].groups() if side] if len(found) == 1 else []


def _off_side(box: Box, side: str) -> bool:
    """Whether the box's centre lies clearly in the other half."""
    x, y = box.center
    if box.area > 0.5:
        return False
    return {
        "left": x > 0.6, "right": x < 0.4, "top": y > 0.6, "upper": y > 0.6, "bottom": y < 0.4, "lower": y < 0.4,
    }[side]  # fmt: skip
