"""Whether the 80 COCO classes that a dialogue asserts are among what captions and boxes name.

captions, boxes + turns -> the first class that nothing speaks for
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache, lru_cache

from vistune.grounding.lexicon import class_of
from vistune.grounding.mentions import class_words, mentions
from vistune.grounding.statements import asserted, is_general, is_hedged, is_negated
from vistune.types import AnnotatedImage

YES = re.compile(r"^\s*(?:yes|yeah|yep|네|예|그렇습니다|맞습니다)\b", re.IGNORECASE)
_NO = re.compile(r"^\s*(?:no\b|none\b|아니|없)", re.IGNORECASE)


def ungrounded(image: AnnotatedImage, turns: tuple[tuple[str, str], ...], language: str) -> str:
    """The first class asserted present that neither captions nor boxes name; empty where there is none."""
    known = evidence(image)
    for question, answer in turns:
        said = [mention.label for clause in asserted(answer, language) for mention in mentions(clause, language)
                if not is_general(clause, mention, language)]  # fmt: skip
        if YES.match(answer) and not is_hedged(question, language):
            said += [mention.label for mention in mentions(question, language)]
        said += _presupposed(question, answer, language)
        for label in said:
            if label not in known:
                return label
    return ""


def _presupposed(question: str, answer: str, language: str) -> list[str]:
    """Classes that a question takes for granted: "What is the dog doing?", "개는 무엇을 하고 있나요?"."""
    if _NO.match(answer) or is_negated(answer.split(".")[0], language):
        return []
    if language == "ko" and is_hedged(question, language):
        return []  # "지나가는 사람은 무엇을 조심해야 할까요?": a topic may be anyone
    lowered = question.lower()
    found = []
    for mention in mentions(question, language):
        if language == "ko":
            taken = bool(re.match(r"(?:은|는|의)\s+(?!있|보이|몇|없)", lowered[mention.end :]))
        else:
            named = re.search(r"\bthe (?:\w+ ){0,2}$", lowered[: mention.start])
            taken = named is not None and not re.search(r"\b(?:or|if)\b", lowered)
        if taken and not is_general(question, mention, language):
            found.append(mention.label)
    return found


def evidence(image: AnnotatedImage) -> set[str]:
    """Classes that captions or boxes name, or make likely enough."""
    found = {class_of(label) for label in (*image.crowds, *(box.label for box in image.boxes))}
    for caption in image.captions:
        found |= {mention.label for language in ("en", "ko") for mention in mentions(caption, language)}
        found |= _likely(caption.lower())
    return found | {label for label, entry in class_words()["classes"].items() if found & set(entry.get("within", ()))}


@cache
def _told_by() -> tuple[Mapping[str, frozenset[str]], tuple[tuple[str, str], ...]]:
    """(whole word -> classes it tells of, (part of a caption, class)): class names and words of evidence."""
    words: dict[str, set[str]] = defaultdict(set)
    parts = []
    for label, entry in class_words()["classes"].items():
        for word in [*entry.get("evidence", ()), *(word for word in entry["en"] if " " not in word)]:
            if " " in word or not word.isascii():
                parts.append((word, label))
            else:
                words[word].add(label)
                words[f"{word}s"].add(label)
    return {word: frozenset(labels) for word, labels in words.items()}, tuple(parts)


@lru_cache(1 << 12)  # a picture's captions are read for each reply about it
def _likely(caption: str) -> frozenset[str]:
    """Classes whose own words or words of evidence stand in a caption in lower case."""
    rest = caption
    for mention in mentions(caption, "en"):
        # the name of another class is taken whole: a hot dog is no dog, and a traffic light no traffic
        if " " in caption[mention.start : mention.end]:
            rest = rest[: mention.start] + " " * (mention.end - mention.start) + rest[mention.end :]
    words, parts = _told_by()
    found = {label for part, label in parts if part in caption}
    for token in set(re.findall(r"[a-z']+|[가-힣]+", rest)):
        found |= words.get(token, frozenset())
    return frozenset(found)
