"""Which of the 80 COCO classes a text asserts, counts and places, English and Korean; words are data (grounding.json).

text -> mentions (class, span) · clause -> asserted, denied or hedged · statements against captions and boxes
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

from vistune.facts.lexicon import EN_NUMBERS, KO_NUMBERS
from vistune.types import AnnotatedImage, Box

TOLERANCE = 0.05  # share of the picture by which a stated side may be missed
KO_PARTICLES = (
    "이|가|은|는|을|를|와|과|의|에|도|만|로|으로|에서|에게|까지|부터|보다|처럼|이나|나|랑|이랑|하고|들|들이|들은|들을|들과|들의|들도|들에|"
    "들에게|이다|입니다|이고|이며|예요|이에요|이라|라고|이라고|인데|에는|에도|에서는|까지도|뿐"
)
_NEGATED = {
    "en": re.compile(
        r"\b(?:no|not|never|without|nobody|none|neither|nor|absent|missing|lacks?|lacking|instead of|rather than|"
        r"free of)\b|n't\b|n’t\b"
    ),
    "ko": re.compile(r"없|않|아니|못 |못하|말고|대신"),
}
_HEDGED = {
    "en": re.compile(
        r"\b(?:might|may|could|would|perhaps|possibly|probably|likely|maybe|if|such as|like|imagine|usually|often|"
        r"typically|should|or|can(?! be seen| see| be found)|for example|e\.g\.|in case|as though|as if|suggests?|"
        r"meant for|designed for|used (?:for|to)|whether)\b"
    ),
    "ko": re.compile(
        r"수 있|수도|아마|처럼|것 같|라면|다면|보통|흔히|만약|대개|려고|위해|위한|듯|모양|[을를ㄹ] 때|일지|거나"
    ),
}
_CLAUSE = {
    "en": re.compile(r"(?<=[.!?;:])\s+|\n|,\s+(?:but|while|and|so|whereas)\b|\bbut\b|;|, "),
    "ko": re.compile(r"(?<=[.!?])\s+|\n|,\s*|(?<=지만)\s|(?<=으나)\s|(?<=는데)\s|(?<=[고며])\s"),
}
_YES = re.compile(r"^\s*(?:yes|yeah|yep|네|예|그렇습니다|맞습니다)\b", re.IGNORECASE)
_NO = re.compile(r"^\s*(?:no\b|none\b|아니|없)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    label: str
    start: int
    end: int


@cache
def _data() -> Mapping[str, Any]:
    return json.loads((resources.files("vistune.datagen") / "grounding.json").read_text(encoding="utf-8"))


def _plurals(word: str) -> list[str]:
    if word.endswith("y") and word[-2] not in "aeiou":
        return [f"{word[:-1]}ies"]
    return [f"{word}es"] if word.endswith(("ch", "sh", "s", "x")) else [f"{word}s"]


@cache
def _terms(language: str) -> tuple[re.Pattern[str], Mapping[str, str]]:
    """One pattern of all class words and of what only looks like them, longest first, and word -> class."""
    words: dict[str, str] = {}
    for label, entry in _data()["classes"].items():
        for word in entry[language]:
            words[word] = label
            if language == "en":
                words.update(dict.fromkeys(_plurals(word), label))
    words |= {word: words.get(word, "") for word in _data()["not_the_class"][language]}
    if language == "en":
        words |= {plural: "" for word in _data()["not_the_class"]["en"] if word not in _data()["classes"]
                  for plural in _plurals(word) if plural not in words}  # fmt: skip
    listed = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    if language == "en":
        return re.compile(rf"(?<![\w-])(?:{listed})(?![\w-])"), words
    return re.compile(rf"(?<![가-힣])(?:{listed})(?=(?:{KO_PARTICLES})?(?![가-힣]))"), words


_KO_COUNT = "(?:한|두|세|네|다섯|여섯|일곱|여덟|아홉|열|여러|몇|\\d+)"
_KO_SHORT_AFTER = re.compile(
    rf"(?:{KO_PARTICLES})(?![가-힣])|\s?{_KO_COUNT}\s?(?:마리|대|개|척|병|명|권|자루)|\s*[.,!?)]|\s*$"
)
_KO_IDIOMS = re.compile(
    r"말(?:을|이|은|도)\s?(?:하|걸|건|나누|듣|통|없|됩|맞)|배(?:가|도)\s?(?:고프|고픈|부르|부른|아프)|양(?:이|은|을)\s?(?:많|적|늘|줄)|병(?:에|이)\s?(?:걸|나|들)|"
    r"새(?:로|롭)|소(?:를|가) 이루|공(?:을|이) (?:들|세)"
)


def mentions(text: str, language: str) -> list[Mention]:
    """Every class that the text names, left to right; what only looks like a class is passed over."""
    text = text.lower()
    pattern, words = _terms("ko" if language == "ko" else "en")
    found = []
    for match in pattern.finditer(text):
        label = words[match.group()]
        if language == "ko" and len(match.group()) == 1 and not _is_ko_noun(text, match):
            continue
        if label:
            found.append(Mention(label, match.start(), match.end()))
    return found


def _is_ko_noun(text: str, match: re.Match[str]) -> bool:
    """Whether a word of one syllable stands as a noun, not as a counter, an adjective or part of an idiom."""
    if re.search(rf"{_KO_COUNT}\s?$", text[: match.start()]) and match.group() in "개대배병양":
        return False
    return bool(_KO_SHORT_AFTER.match(text, match.end())) and not _KO_IDIOMS.match(text, match.start())


def _evidence(image: AnnotatedImage) -> set[str]:
    """Classes that captions or boxes name, or make likely enough."""
    classes = _data()["classes"]
    found = {box.label for box in image.boxes} | set(image.crowds)
    for caption in image.captions:
        lowered = caption.lower()
        tokens = set(re.findall(r"[a-z']+|[가-힣]+", lowered))
        for language in ("en", "ko"):
            found |= {mention.label for mention in mentions(caption, language)}
        for label, entry in classes.items():
            words = [*entry.get("evidence", ()), *(word for word in entry["en"] if " " not in word)]
            if any(word in tokens or word + "s" in tokens or (not word.isascii() and word in lowered)
                   or (" " in word and word in lowered) for word in words):  # fmt: skip
                found.add(label)
        # of every compound, its own noun: "a tennis racket" makes no dog, but "hot dogs" do name hot dogs
    return found


def clauses(text: str, language: str) -> Iterator[str]:
    yield from (part for part in _CLAUSE["ko" if language == "ko" else "en"].split(text) if part and part.strip())


def is_asserted(clause: str, language: str) -> bool:
    key = "ko" if language == "ko" else "en"
    lowered = clause.lower()
    return not (lowered.rstrip().endswith("?") or _NEGATED[key].search(lowered) or _HEDGED[key].search(lowered))


def _presupposed(question: str, answer: str, language: str) -> list[str]:
    """Classes that a question takes for granted: "What is the dog doing?", "개는 무엇을 하고 있나요?"."""
    if _NO.match(answer) or _NEGATED["ko" if language == "ko" else "en"].search(answer.lower().split(".")[0]):
        return []
    lowered = question.lower()
    found = []
    for mention in mentions(question, language):
        if language == "ko":
            taken = bool(re.match(r"(?:은|는|의)\s+(?!있|보이|몇|없)", lowered[mention.end :]))
        else:
            named = re.search(r"\bthe (?:\w+ ){0,2}$", lowered[: mention.start])
            taken = named is not None and not re.search(r"\b(?:or|if)\b", lowered)
        if taken:
            found.append(mention.label)
    return found


def ungrounded(image: AnnotatedImage, turns: tuple[tuple[str, str], ...], language: str) -> str:
    """The first class asserted present that neither captions nor boxes name; empty where there is none."""
    known = _evidence(image)
    for question, answer in turns:
        said = [m.label for clause in clauses(answer, language) if is_asserted(clause, language)
                for m in mentions(clause, language)]  # fmt: skip
        if _YES.match(answer):
            said += [mention.label for mention in mentions(question, language)]
        said += _presupposed(question, answer, language)
        for label in said:
            if label not in known:
                return label
    return ""


def _number(word: str) -> int | None:
    word = word.lower()
    if word.isdigit():
        return int(word)
    if word in EN_NUMBERS:
        return EN_NUMBERS.index(word)
    return KO_NUMBERS.index(word) if word in KO_NUMBERS[1:] else None


_EN_COUNT = re.compile(rf"\b({'|'.join(EN_NUMBERS[1:])}|\d{{1,3}})\s+(?:\w+\s+){{0,2}}$")
_EN_SUBSET = re.compile(
    r"\b(?:the|of|these|those|other|both|least|about|around|than|over|nearly|almost|approximately|another|first|last|"
    r"every|each|up to|to|some)\s+(?:other\s+)?$"
)
_EN_WHOLE_AFTER = re.compile(
    r"^\s*(?:(?:in|on) the (?:picture|image|photo|photograph|scene)|visible|in total|altogether|in all|can be seen|"
    r"are visible|to be seen)?\s*[.!]?\s*$"
)
_EN_EXISTS = re.compile(
    r"\b(?:there (?:are|is)|(?:picture|photo|image|scene) (?:shows|contains|has)|see)\s+(?:only |just )?$"
)
_COUNTERS = "마리|대|명|개|척|병|권|자루|잔|송이|벌|사람|분|쌍|그루|채"
_KO_AFTER = re.compile(
    rf"^(?:{KO_PARTICLES})?\s*(?:모두 |총 |전부 )?(한|두|세|네|다섯|여섯|일곱|여덟|아홉|열|\d{{1,3}})\s?(?:{_COUNTERS})"
)
_KO_BEFORE = re.compile(rf"(한|두|세|네|다섯|여섯|일곱|여덟|아홉|열|\d{{1,3}})\s?(?:{_COUNTERS})의\s+$")
_KO_PLACED = re.compile(r"왼|오른|앞|뒤|위|아래|가운데|옆|중 |중에|가운|안|밖|사이|쪽|다른|또|하나는|그중|곳")
_HOW_MANY = {"en": re.compile(r"\bhow many\s+(?:\w+\s+)?$"), "ko": re.compile(r"몇")}


def wrong_count(image: AnnotatedImage, turns: tuple[tuple[str, str], ...], language: str) -> str:
    """The first stated number of a class that its boxes contradict, as words; empty where there is none.

    A smaller number may speak of a part ("two people on the left"); it is wrong only where it speaks of all.
    """
    counts = Counter(box.label for box in image.boxes if box.label not in image.crowds)
    told = {(label, number) for caption in image.captions for known in ("en", "ko")
            for label, number, _ in _counted(caption, known)}  # fmt: skip
    for question, answer in turns:
        asked = _asked_count(question, language)
        if asked in counts and asked is not None:
            first = re.search(
                rf"\d{{1,3}}|\b(?:{'|'.join(EN_NUMBERS)})\b|(?<![가-힣])(?:{'|'.join(KO_NUMBERS[1:])})(?=\s)",
                answer.lower(),
            )
            stated = (
                _number(first.group())
                if first and not re.search(r"about|around|least|over|약|정도|이상", answer)
                else None
            )
            if stated is not None and stated != counts[asked] and (asked, stated) not in told:
                return f"{stated} {asked}, boxes: {counts[asked]}"
        for clause in clauses(answer, language):
            if not is_asserted(clause, language):
                continue
            for label, stated, whole in _counted(clause, language):
                have = counts[label]
                if have and (stated > have or (whole and stated < have)) and (label, stated) not in told:
                    return f"{stated} {label}, boxes: {have}"
    return ""


def _asked_count(question: str, language: str) -> str | None:
    """The class whose number alone is asked for."""
    lowered = question.lower()
    found = mentions(question, language)
    if len(found) != 1:
        return None
    before, after = lowered[: found[0].start], lowered[found[0].end :]
    if language == "ko":
        plain = not re.search(
            r"없애|없으면|남|제외|빼|왼|오른|앞|뒤|위|아래|가운데|옆|입|들고|쓰|타고|앉|서 있", lowered
        )
        return found[0].label if "몇" in after and plain else None
    whole = re.match(
        r"^(?: are there| can you see| are| do you see| is there)?"
        r"(?: in (?:the|this) (?:picture|image|photo|scene)| visible| in total)?\s*\??(?:\n.*)?$",
        after,
    )
    return found[0].label if _HOW_MANY["en"].search(before) and whole else None


def _counted(clause: str, language: str) -> Iterator[tuple[str, int, bool]]:
    """(class, number, whether all of them are meant) for each counted class in a clause."""
    lowered = clause.lower()
    for mention in mentions(clause, language):
        before, after = lowered[: mention.start], lowered[mention.end :]
        if language == "ko":
            match = _KO_AFTER.search(after) or _KO_BEFORE.search(before)
            if match and (number := _number(match.group(1))) is not None:
                part = bool(_KO_PLACED.search(lowered)) or number == 1
                yield mention.label, number, not part
        elif match := _EN_COUNT.search(before):
            number, ahead = _number(match.group(1)), before[: match.start()]
            if number is None or _EN_SUBSET.search(ahead):
                continue
            only = bool(re.search(r"\b(?:only|just)\s+$", ahead))
            whole = bool(_EN_EXISTS.search(ahead)) and bool(_EN_WHOLE_AFTER.match(after))
            yield (
                mention.label,
                number,
                (whole and (number > 1 or only)) or (only and bool(_EN_WHOLE_AFTER.match(after))),
            )


_EN_RELATION = re.compile(r"\b(?:(?:to|on) the (left|right) (?:side )?of|(left|right) of|(above|below))\b")
_EN_PLACE = re.compile(
    r"\b(?:(?:on|at|to|in|towards?|near) the )?(?:(?:far|lower|upper) )?(?:(top|bottom|upper|lower)[ -])?"
    r"(left|right|top|bottom)\b"
)
_KO_RELATION = re.compile(r"(?:의|보다)?\s*(왼쪽|오른쪽|위쪽|위|아래쪽|아래)에")
_KO_PLACE = re.compile(r"(왼|오른)쪽(?: (위|아래))?쪽?(?:에|$)")
_KO_OF_A_THING = re.compile(r"(?<!사진)(?<!그림)(?<!이미지)(?<!화면)의\s*$|더\s*$")
_KO_SIDES = {"왼쪽": "left", "오른쪽": "right", "위": "above", "위쪽": "above", "아래": "below", "아래쪽": "below"}


def wrong_position(image: AnnotatedImage, turns: tuple[tuple[str, str], ...], language: str) -> str:
    """The first stated side that the boxes contradict, as words; only of classes with exactly one box."""
    counts = Counter(box.label for box in image.boxes)
    single = {box.label: box for box in image.boxes if counts[box.label] == 1 and box.label not in image.crowds}
    for question, answer in turns:
        statements = [clause for clause in clauses(answer, language) if is_asserted(clause, language)]
        if _YES.match(answer):
            statements.append(question.split("\n")[0].rstrip("?"))
        elif len(answer.split()) <= 6 and re.search(r"\bwhere\b|어디", question.lower()):
            statements.append(f"{question.split(chr(10))[0].rstrip('?')} {answer}")
        for statement in statements:
            fault = _misplaced(statement, single, language)
            if fault:
                return fault
    return ""


def _misplaced(statement: str, single: Mapping[str, Box], language: str) -> str:
    lowered = statement.lower()
    found = mentions(statement, language)
    for first, second in pairwise(found):
        if first.label in single and second.label in single and first.label != second.label:
            side = _side_between(lowered, first, second, language)
            if side and _contradicts(single[first.label], single[second.label], side):
                return f"{first.label} {side} {second.label}"
    if len(found) == 1 and found[0].label in single:
        box = single[found[0].label]
        for side in _places(lowered, language):
            if _off_side(box, side):
                return f"{found[0].label} at the {side}"
    return ""


def _side_between(lowered: str, first: Mention, second: Mention, language: str) -> str:
    """The side of `second` on which `first` is said to be."""
    if language == "ko":  # "개는 고양이의 왼쪽에"
        match = _KO_RELATION.match(lowered, second.end)
        topic = re.match(r"(?:은|는|이|가)\s", lowered[first.end :])
        return _KO_SIDES[match.group(1)] if match and topic else ""
    between = lowered[first.end : second.start]
    matches = list(_EN_RELATION.finditer(between))
    if len(matches) != 1 or len(between.split()) > 9 or not re.match(r"^\s*(?:the|a|an|another)?\s*(?:\w+\s+){0,2}$", between[matches[0].end() :]):  # fmt: skip  # noqa: E501
        return ""
    return next(group for group in matches[0].groups() if group)


def _contradicts(first: Box, second: Box, side: str) -> bool:
    dx, dy = (a - b for a, b in zip(first.center, second.center, strict=True))
    return {"left": dx > TOLERANCE, "right": dx < -TOLERANCE, "above": dy > TOLERANCE, "below": dy < -TOLERANCE}[side]


def _places(lowered: str, language: str) -> list[str]:
    """Sides of the picture that a statement names, where it names one place; sides of things are not among them."""
    if language == "ko":
        found = [match for match in _KO_PLACE.finditer(lowered) if not _KO_OF_A_THING.search(lowered[: match.start()])]
        names = {"왼": "left", "오른": "right", "위": "top", "아래": "bottom"}
        return [names[side] for side in found[0].groups() if side] if len(found) == 1 else []
    matches = list(_EN_PLACE.finditer(lowered))
    if len(matches) != 1:
        return []
    after = lowered[matches[0].end() :]
    if re.match(r"(?: side| edge| corner| half| part)? of (?!the (?:picture|image|photo|scene|frame))", after):
        return []
    if re.match(r" (?:hand|arm|foot|leg|turn|now|over|behind|eye|ear|shoulder|wing|lane|next|in front|away)", after):
        return []
    placed = matches[0].group().startswith(("on", "at", "in", "to", "near", "toward"))
    return [side for side in matches[0].groups() if side] if placed else []


def _off_side(box: Box, side: str) -> bool:
    """Whether the box's centre lies clearly in the other half."""
    x, y = box.center
    if box.area > 0.5:
        return False
    return {
        "left": x > 0.6, "right": x < 0.4, "top": y > 0.6, "upper": y > 0.6, "bottom": y < 0.4, "lower": y < 0.4,
    }[side]  # fmt: skip
