"""Stated numbers of the 80 COCO classes against the boxes, English and Korean.

boxes + turns -> the first number that they contradict
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vistune.grounding.lexicon import EN_NUMBERS, KO_NUMBERS, class_of
from vistune.grounding.mentions import KO_PARTICLES, Mention, loose_mentions
from vistune.grounding.statements import asserted
from vistune.types import AnnotatedImage, Box

_VALUES = {word: value for words in (EN_NUMBERS, KO_NUMBERS) for value, word in enumerate(words) if word}
_VALUES |= {"eleven": 11, "twelve": 12, "하나": 1, "둘": 2, "셋": 3, "넷": 4}
_EN_WORD = "|".join(word for word in _VALUES if word.isascii() and word != "no")
_KO_WORD = "|".join(word for word in KO_NUMBERS if word)
_COUNTERS = "마리|대|명|개|척|병|권|자루|잔|송이|벌|사람|분|쌍|그루|채"
_OF_PEOPLE = ("명", "사람", "분", "쌍")


@dataclass(frozen=True, slots=True)
class Stated:
    """A number said of a class; `whole` where all of them in the picture are meant, not a part."""

    label: str
    number: int
    whole: bool
    only_at: str = ""  # class of the thing at which there are no more: "only one person at the table"


def wrong_count(image: AnnotatedImage, turns: tuple[tuple[str, str], ...], language: str) -> str:
    """The first stated number of a class that its boxes contradict, as words; empty where there is none.

    A smaller number may speak of a part ("two people on the left"); it is wrong only where it speaks of all.
    A number that a caption gives is never wrong.
    """
    boxes = [replace(box, label=class_of(box.label)) for box in image.boxes if box.label not in image.crowds]
    counts = Counter(box.label for box in boxes)
    told = {(stated.label, stated.number) for caption in image.captions for known in ("en", "ko")
            for stated in _counted(caption, known)}  # fmt: skip
    for question, answer in turns:
        answered = _answered(question, answer, language)
        said = [stated for clause in asserted(answer, language) for stated in _counted(clause, language)]
        for stated in [*answered, *said]:
            have = counts[stated.label]
            if not have or (stated.label, stated.number) in told:
                continue
            fewest = have if stated.whole else _at(stated, boxes)
            if stated.number > have or stated.number < fewest:
                return f"{stated.number} {stated.label}, boxes: {max(have, fewest)}"
    return ""


def _at(stated: Stated, boxes: list[Box]) -> int:
    """How many boxes of the class meet the only box of the thing that they are said to be at."""
    things = [box for box in boxes if box.label == stated.only_at]
    if len(things) != 1:
        return 0
    thing = things[0]
    return sum(box.label == stated.label and box.x0 < thing.x1 and box.x1 > thing.x0 and box.y0 < thing.y1
               and box.y1 > thing.y0 for box in boxes)  # fmt: skip


_FIRST_NUMBER = {
    "en": re.compile(rf"\b(?:\d{{1,3}}|no|{_EN_WORD})\b"),
    "ko": re.compile(
        rf"\d{{1,3}}|(?<![가-힣])(?:{_KO_WORD})(?=\s)|(?<![가-힣])(?:하나|둘|셋|넷|다섯|여섯)(?=[입이예. ])"
    ),
}
_ABOUT = re.compile(r"\b(?:about|around|least|over|more than|roughly|approximately)\b|약 |정도|이상|대략|쯤")


def _answered(question: str, answer: str, language: str) -> list[Stated]:
    """The number that answers "how many", where it is asked of all in the picture or could be too many for it."""
    mention = _asked(question, language)
    first = _FIRST_NUMBER["ko" if language == "ko" else "en"].search(answer.lower())
    if mention is None or first is None or _ABOUT.search(answer.lower()):
        return []
    return [Stated(mention.label, _value(first.group()), not mention.narrow)]


def _value(word: str) -> int:
    return int(word) if word.isdigit() else _VALUES[word]


_KO_PART_ASKED = re.compile(
    r"없애|없으면|남|제외|빼|왼|오른|앞|뒤|위|아래|가운데|옆|입|들고|쓰|타고|앉|서 있|누워|자는|자고|먹|걷"
)
_EN_ALL_ASKED = re.compile(
    r"^(?: are there| can you see| are| do you see| is there)?(?: visible)?"
    r"(?: in (?:the|this) (?:picture|image|photo|scene)| visible| in total| altogether)?\s*\??(?:\n.*)?$"
)


def _asked(question: str, language: str) -> Mention | None:
    """The class of whose whole number alone is asked."""
    lowered = question.lower()
    found = loose_mentions(question, language)
    if len(found) != 1:
        return None
    before, after = lowered[: found[0].start], lowered[found[0].end :]
    if language == "ko":
        return found[0] if "몇" in after and not _KO_PART_ASKED.search(lowered) else None
    return found[0] if re.search(r"\bhow many\s+$", before) and _EN_ALL_ASKED.match(after) else None


def _counted(clause: str, language: str) -> Iterator[Stated]:
    """Each counted class of a clause."""
    lowered = clause.lower()
    found = loose_mentions(clause, language)
    for mention in found:
        stated = _ko_counted(lowered, mention) if language == "ko" else _en_counted(lowered, mention, found)
        if stated:
            yield stated


_EN_COUNT = re.compile(rf"\b({_EN_WORD}|\d{{1,3}})\s+((?:[\w-]+\s+){{0,2}})$")
_EN_ROUGHLY = re.compile(
    r"\b(?:least|about|around|than|over|nearly|almost|approximately|roughly|another|first|last|every|each|up to|to|"
    r"some|number)\s+(?:other\s+)?$"
)
_EN_IMAGE = r"(?:in|on) (?:the|this) (?:picture|image|photo|photograph|scene)"
_EN_ENDS = re.compile(
    rf"^\s*(?:{_EN_IMAGE}|visible|in total|altogether|in all|can be seen|are visible|to be seen)?\s*[.!]?\s*$"
)
_EN_EXISTS = re.compile(
    r"\b(?:there (?:are|is)|(?:picture|photo|image|scene) (?:shows|contains|has)|see)\s+(?:only |just |exactly )?$"
)
_EN_ONLY = re.compile(r"\b(?:only|just)\s+(?:the\s+)?$")
_EN_AT = re.compile(r"^\s+(?:\w+ing )?(?:at|around|on) (?:the|this) (?:\w+ )?$")


def _en_counted(lowered: str, mention: Mention, found: list[Mention]) -> Stated | None:
    """ "two dogs", "the two skiers … are the only people", "only one person at the table"."""
    before, after = lowered[: mention.start], lowered[mention.end :]
    match = _EN_COUNT.search(before)
    if not match or _EN_ROUGHLY.search(before[: match.start()]):
        return None
    number, ahead = _value(match.group(1)), before[: match.start()]
    only = bool(_EN_ONLY.search(ahead))
    whole = not match.group(2) and not mention.narrow and bool(_EN_ENDS.match(after)) and (
        only or (number > 1 and bool(_EN_EXISTS.search(ahead))))  # fmt: skip
    later = [other for other in found if other.start > mention.start]
    no_others = any(other.label == mention.label and re.search(r"\bare the only\s+$", lowered[: other.start])
                    for other in later)  # fmt: skip
    at = later[0].label if only and later and _EN_AT.match(lowered[mention.end : later[0].start]) else ""
    return Stated(mention.label, number, whole or no_others, at)


_KO_AFTER = re.compile(
    rf"^(?:{KO_PARTICLES})?\s*(모두 |총 |전부 )?({_KO_WORD}|\d{{1,3}})\s?({_COUNTERS})(만)?(?!의|\s?(?:이상|정도|쯤))"
)
_KO_BEFORE = re.compile(rf"(?<![가-힣])({_KO_WORD}|\d{{1,3}})\s?({_COUNTERS})의\s+$")
_KO_DIRECT = re.compile(rf"(?<![가-힣])({_KO_WORD})\s$")  # "두 사람", "세 남자"
_KO_SHOWN = re.compile(r"^\s*(?:이 |그 )?(?:사진|그림|이미지|장면|화면)?(?:에는|에|에서|속에는|속에)?\s*$")
_KO_EXISTS = re.compile(r"^[가-힣]*\s?(?:있습니다|있다|있어요|보입니다|보인다|보여요|입니다|이다)?\s*[.!]?\s*$")


def _ko_counted(lowered: str, mention: Mention) -> Stated | None:
    """ "개 두 마리", "두 마리의 개", "두 사람"; all, where no more is said than that they are there."""
    before, after = lowered[: mention.start], lowered[mention.end :]
    if match := _KO_AFTER.search(after):
        every, word, counter, only = match.groups()
        ends = bool(_KO_EXISTS.match(after[match.end() :]))
        whole = (
            bool(_KO_SHOWN.match(before)) and ends and (bool(every or only) or _value(word) > 1) and not mention.narrow
        )
    elif match := _KO_BEFORE.search(before):
        word, counter, whole = *match.groups(), False
    elif mention.label == "person" and (match := _KO_DIRECT.search(before)):
        word, counter, whole = match.group(1), "명", False
    else:
        return None
    if (counter in _OF_PEOPLE) != (mention.label == "person"):
        return None  # "병은 두 사람 사이에": people are counted, not bottles
    return Stated(mention.label, _value(word), whole)
