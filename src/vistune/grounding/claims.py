"""Check what a dialogue claims about the 80 COCO classes against an image's captions and boxes.

Each check returns the first contradiction as text, or "". The checks read English and Korean; a text in another
language is read with the English rules, which recognise only words that both languages share. The checks are designed
to miss an error rather than to reject a correct text:

=================  ============================================  ==================================================
check              detects                                       cannot detect
=================  ============================================  ==================================================
`ungrounded`       a class that is asserted, confirmed with      objects outside the 80 classes; colours, materials
                   "yes" or taken for granted in a question,     and actions; hedged, general and negated clauses;
                   and that no caption or box supports           a class that is wrongly said to be absent
`wrong_count`      a number above that of the boxes; also one    numbers of classes without a box or with a crowd;
                   below it, if the text counts all objects      numbers that a caption states; a wrong "one",
                   of the class ("there are two dogs in the      unless the text says "only one"; numbers after
                   picture")                                     "about"; number words above twelve (Korean: ten)
`wrong_position`   "left of", "right of", "above", "below"       classes with several boxes; "next to", "behind",
                   between two classes with one box each;        "in front of"; errors below 5 % of the image; places
                   the side of the image a class is on           of boxes that fill more than half of the image
=================  ============================================  ==================================================

`docs/concepts/language-checks.md` shows examples of each row.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise

from vistune.grounding import en, ko
from vistune.grounding.language import CountClaim, Language, NamedClass
from vistune.grounding.lexicon import class_of, objects, word_lists
from vistune.types import AnnotatedImage, Box

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A pattern that matches class names and words similar to them; `labels` maps a word to its class or to ""."""

    pattern: re.Pattern[str]
    labels: Mapping[str, str]
    narrower: frozenset[str]


def grammar(language: str) -> Language:
    return ko if language == "ko" else en


def forget() -> None:
    """Clear everything that was computed from other objects of the lexicon."""
    for cached in (_vocabulary, _find, _evidence, _likely_classes):
        cached.cache_clear()


def find_classes(text: str, language: str, *, loosely: bool = False) -> list[NamedClass]:
    """Return every class that a text names, from left to right, without similar words such as "hot dog" for "dog".

    Args:
        loosely: Also find looser names ("skier", "ball"), which are counted and located but do not assert the class.
    """
    return list(_find(text.lower(), "ko" if language == "ko" else "en", loosely))


@cache
def _vocabulary(language: str, loosely: bool) -> _Vocabulary:
    inflections = grammar(language).inflections

    def forms(words: Iterable[str], label: str) -> dict[str, str]:
        return {form: label for word in words for form in inflections(word)}

    similar = forms(word_lists(language)["not_the_class"], "")
    named: dict[str, str] = {}
    narrower: dict[str, str] = {}
    loose: dict[str, str] = {}
    for label, entry in objects().items():
        words = entry.words[language]
        narrower |= forms(words.narrower, label)
        named |= forms((*words.in_text, *words.narrower), label)
        loose |= forms(words.loosely if loosely else (), label)
    labels = {**loose, **similar, **named}
    return _Vocabulary(_pattern(labels, grammar(language)), labels, frozenset(narrower | loose))


def _pattern(words: Mapping[str, str], language: Language) -> re.Pattern[str]:
    """Match the longest words first, so that "hot dog" and "bus stop" are found before "dog" and "bus".

    The alternatives are grouped by first letter: hundreds of words then cost one comparison at most positions.
    """
    rests: dict[str, list[str]] = {}
    for word in sorted(words, key=len, reverse=True):
        rests.setdefault(word[0], []).append(re.escape(word[1:]))
    first_letter = f"(?=[{re.escape(''.join(rests))}])"
    listed = "|".join(f"{re.escape(letter)}(?:{'|'.join(endings)})" for letter, endings in rests.items())
    return re.compile(f"{first_letter}{language.WORD_START}(?:{listed}){language.WORD_END}")


@lru_cache(1 << 12)  # the captions of an image are read for every reply about it, by several checks
def _find(text: str, language: str, loosely: bool) -> tuple[NamedClass, ...]:
    vocabulary, is_noun = _vocabulary(language, loosely), grammar(language).is_noun
    return tuple(
        NamedClass(label, match.start(), match.end(), match.group() in vocabulary.narrower)
        for match in vocabulary.pattern.finditer(text)
        if (label := vocabulary.labels[match.group()]) and is_noun(text, match)
    )


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


_YES = re.compile(r"^\s*(?:yes|yeah|yep|네|예|그렇습니다|맞습니다)\b", re.IGNORECASE)
_NO = re.compile(r"^\s*(?:no\b|none\b|아니|없)", re.IGNORECASE)


def ungrounded(image: AnnotatedImage, turns: Turns, language: str) -> str:
    """Return the first class that is asserted although neither captions nor boxes name it."""
    known = supported_classes(image)
    for question, answer in turns:
        for label in _asserted_classes(question, answer, language):
            if label not in known:
                return label
    return ""


def _asserted_classes(question: str, answer: str, language: str) -> Iterator[str]:
    rules = grammar(language)
    for clause in asserted(answer, language):
        for named in find_classes(clause, language):
            if not rules.is_generic(clause.lower(), named):
                yield named.label
    in_question = find_classes(question, language)
    if _YES.match(answer) and not is_hedged(question, language):
        yield from (named.label for named in in_question)
    if not _NO.match(answer) and not is_negated(answer.split(".")[0], language):
        lowered = question.lower()
        for named in in_question:
            if rules.is_presupposed(lowered, named) and not rules.is_generic(lowered, named):
                yield named.label


def supported_classes(image: AnnotatedImage) -> set[str]:
    """Return the classes that captions or boxes name, or make likely."""
    supported = {class_of(label) for label in (*image.crowds, *(box.label for box in image.boxes))}
    for caption in image.captions:
        supported |= {named.label for language in ("en", "ko") for named in find_classes(caption, language)}
        supported |= _likely_classes(caption.lower())
    return supported | {label for label, entry in objects().items() if supported & set(entry.within)}


@cache
def _evidence() -> tuple[Mapping[str, frozenset[str]], tuple[tuple[str, str], ...]]:
    """Return (word -> classes that it makes likely, pairs of a phrase and its class)."""
    words: dict[str, set[str]] = defaultdict(set)
    phrases = []
    for label, entry in objects().items():
        english, korean = entry.words["en"], entry.words["ko"]
        for word in [*english.evidence, *(w for w in (*english.in_text, *english.narrower) if " " not in w)]:
            if " " in word:
                phrases.append((word, label))
            else:
                words[word].add(label)
                words[f"{word}s"].add(label)
        phrases += [(word, label) for word in korean.evidence]
    return {word: frozenset(labels) for word, labels in words.items()}, tuple(phrases)


@lru_cache(1 << 12)  # the captions of an image are read for every reply about it
def _likely_classes(caption: str) -> frozenset[str]:
    """Return the classes whose name or evidence a caption in lower case contains."""
    rest = caption
    for named in find_classes(caption, "en"):
        # A longer name is taken as a whole: "hot dog" is not evidence of a dog, or "traffic light" of traffic.
        if " " in caption[named.start : named.end]:
            rest = rest[: named.start] + " " * (named.end - named.start) + rest[named.end :]
    words, phrases = _evidence()
    likely = {label for phrase, label in phrases if phrase in caption}
    for token in set(re.findall(r"[a-z']+|[가-힣]+", rest)):
        likely |= words.get(token, frozenset())
    return frozenset(likely)


def wrong_count(image: AnnotatedImage, turns: Turns, language: str) -> str:
    """Return the first number of a class that its boxes contradict, such as "3 dog, boxes: 2".

    A smaller number may count a part ("two people on the left"); it is wrong only if it is a total. A number that a
    caption states is never wrong.
    """
    boxes = [replace(box, label=class_of(box.label)) for box in image.boxes if box.label not in image.crowds]
    counts = Counter(box.label for box in boxes)
    in_captions = {
        (claim.label, claim.number)
        for caption in image.captions
        for known in ("en", "ko")
        for claim in _count_claims(caption, known)
    }
    for question, answer in turns:
        claims = _answered_count(question, answer, language)
        claims += [claim for clause in asserted(answer, language) for claim in _count_claims(clause, language)]
        for claim in claims:
            count = counts[claim.label]
            if not count or (claim.label, claim.number) in in_captions:
                continue
            fewest = count if claim.is_total else _count_at(claim, boxes)
            if claim.number > count or claim.number < fewest:
                return f"{claim.number} {claim.label}, boxes: {max(count, fewest)}"
    return ""


def _count_at(claim: CountClaim, boxes: list[Box]) -> int:
    """Count the boxes of the class that overlap the only box of the object named with "at"."""
    anchors = [box for box in boxes if box.label == claim.only_at]
    if len(anchors) != 1:
        return 0
    anchor = anchors[0]
    return sum(
        box.label == claim.label
        and box.x0 < anchor.x1
        and box.x1 > anchor.x0
        and box.y0 < anchor.y1
        and box.y1 > anchor.y0
        for box in boxes
    )


_ABOUT = re.compile(r"\b(?:about|around|least|over|more than|roughly|approximately)\b|약 |정도|이상|대략|쯤")


def _answered_count(question: str, answer: str, language: str) -> list[CountClaim]:
    """Return the number that answers "how many", if the question asks for one class in the whole image."""
    rules, lowered = grammar(language), answer.lower()
    classes = find_classes(question, language, loosely=True)
    first = rules.FIRST_NUMBER.search(lowered)
    if len(classes) != 1 or first is None or _ABOUT.search(lowered):
        return []
    [named] = classes
    if not rules.asks_total(question.lower(), named):
        return []
    return [CountClaim(named.label, rules.number(first.group()), not named.narrow)]


def _count_claims(clause: str, language: str) -> Iterator[CountClaim]:
    classes = find_classes(clause, language, loosely=True)
    lowered, count_claim = clause.lower(), grammar(language).count_claim
    claims = (count_claim(lowered, named, classes) for named in classes)
    return (claim for claim in claims if claim)


TOLERANCE = 0.05  # share of the image by which a stated side may be missed
BRIEF_WORDS = 6
# A side that a sentence begins with belongs to its clause: "To the left of the bus, there is a bicycle".
_LEADING_SIDE = re.compile(r"((?:^|[.!]\s)(?:to|on) the (?:left|right)(?: side)? of [^,.]{1,40}), ", re.IGNORECASE)


def wrong_position(image: AnnotatedImage, turns: Turns, language: str) -> str:
    """Return the first side that the boxes contradict, such as "dog left cat"; only for classes with one box."""
    labels = Counter(class_of(box.label) for box in image.boxes)
    crowds = {class_of(label) for label in image.crowds}
    boxes = {class_of(box.label): box for box in image.boxes}
    single = {label: box for label, box in boxes.items() if labels[label] == 1 and label not in crowds}
    for question, answer in turns:
        for claim in _position_claims(question.split("\n")[0].rstrip("?"), answer, language):
            if contradiction := _contradiction(claim, single, language):
                return contradiction
    return ""


def _position_claims(question: str, answer: str, language: str) -> list[str]:
    """Return the answer's clauses, and the question joined with a "yes" or a brief answer."""
    claims = list(asserted(_LEADING_SIDE.sub(r"\1 ", answer), language))
    if _YES.match(answer):
        claims.append(question)
    elif claims and len(answer.split()) <= BRIEF_WORDS:
        claims.append(grammar(language).with_brief_answer(question, answer))
    return claims


def _contradiction(claim: str, single: Mapping[str, Box], language: str) -> str:
    lowered, rules = claim.lower(), grammar(language)
    classes = find_classes(claim, language, loosely=True)
    for first, second in pairwise(classes):
        if first.label in single and second.label in single and first.label != second.label:
            side = rules.side_between(lowered, first, second)
            if side and _is_on_other_side(single[first.label], single[second.label], side):
                return f"{first.label} {side} {second.label}"
    if len(classes) == 1 and (label := classes[0].label) in single:
        for side in rules.places(lowered):
            if _is_in_other_half(single[label], side):
                return f"{label} at the {side}"
    return ""


def _is_on_other_side(first: Box, second: Box, side: str) -> bool:
    dx, dy = (a - b for a, b in zip(first.center, second.center, strict=True))
    return {
        "left": dx > TOLERANCE,
        "right": dx < -TOLERANCE,
        "above": dy > TOLERANCE,
        "below": dy < -TOLERANCE,
        # An object on a table may be lower in the image than the table's middle, but not past its edge.
        "on": first.y0 > second.y1,
        "under": first.y1 < second.y0,
    }[side]


def _is_in_other_half(box: Box, side: str) -> bool:
    """Return whether the box's centre is clearly in the other half of the image."""
    x, y = box.center
    if box.area > 0.5:
        return False
    is_far = {"left": x > 0.6, "right": x < 0.4, "top": y > 0.6, "bottom": y < 0.4}
    return is_far[{"upper": "top", "lower": "bottom"}.get(side, side)]
