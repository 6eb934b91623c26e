"""Captions and descriptions from boxes, in several wordings, English and Korean.

Scene -> one sentence that names everything (caption) · several sentences with places (description)
"""

from __future__ import annotations

import random

from vistune.facts import lexicon as words
from vistune.facts.scene import LARGEST_PLACED_AREA, Scene, place_of, reading_order
from vistune.types import Box

LARGEST_LISTED = 8  # a longer list of single objects reads as an inventory: above it, counts by label are written


def caption(scene: Scene, language: str, rng: random.Random) -> str:
    """One sentence naming every object: coloured scenes with size and place, others as counts."""
    if not scene.boxes:
        return rng.choice(_EMPTY[language])
    if not scene.colored or len(scene.boxes) > LARGEST_LISTED:
        named = dict(scene.labels.most_common()) | dict.fromkeys(scene.crowds, 0)
        counted = [
            words.many(label, language) if label in scene.crowds else words.counted(count, label, language)
            for label, count in named.items()
        ]
        counts = _join(counted, language)
        return _sentence(rng.choice(_COUNTS[language]).format(things=counts), language)
    phrases = [_phrase(box, language) for box in reading_order(scene.boxes)]
    if language == "ko":
        return _sentence(f"{', '.join(phrases)}[이/가] 있습니다.", "ko")
    return _sentence(f"{', '.join(phrases)}.", "en")


def description(scene: Scene, language: str, rng: random.Random) -> str:
    """A sentence with the number of objects, then one for each object or each kind of object."""
    if not scene.boxes:
        return rng.choice(_EMPTY[language])
    if scene.colored and len(scene.boxes) <= LARGEST_LISTED:
        form = rng.choice(_PLACED[language])
        opening = rng.choice(_OPENINGS[language]).format(count=len(scene.boxes), s="s" * (len(scene.boxes) > 1))
        lines = [
            form.format(place=words.place_word(place_of(box), language), thing=_thing(box, language))
            for box in reading_order(scene.boxes)
        ]
        return " ".join(_sentence(line, language) for line in [opening, *lines])
    form = rng.choice(_UNIQUE[language])
    placed = [
        form.format(place=words.place_word(place_of(box), language), name=words.name(box, language))
        for box in reading_order(scene.unique)
        if box.area <= LARGEST_PLACED_AREA
    ]
    lines = [caption(scene, language, rng), *(_sentence(line, language) for line in placed)]
    return " ".join(lines)


def _thing(box: Box, language: str) -> str:
    """Size, colour and label: "a large red circle" · "큰 빨간색 원"."""
    size = box.attributes.get("size")
    text = " ".join(filter(None, [words.size_word(size, language) if size else "", words.name(box, language)]))
    return words.one(text, box.label) if language == "en" else text


def _phrase(box: Box, language: str) -> str:
    place = words.place_word(place_of(box), language)
    return f"{place}에 {_thing(box, 'ko')}" if language == "ko" else f"{_thing(box, 'en')} at the {place}"


def _join(things: list[str], language: str) -> str:
    if len(things) == 1:
        return things[0]
    if language == "ko":
        return ", ".join(things)
    return f"{', '.join(things[:-1])} and {things[-1]}"


def _sentence(text: str, language: str) -> str:
    return words.particles(text) if language == "ko" else text[:1].upper() + text[1:]


_EMPTY = {"en": ["There is nothing to name in the picture."], "ko": ["사진에 이름을 붙일 만한 물체가 없습니다."]}
_COUNTS = {
    "en": ["A picture with {things}.", "The picture shows {things}.", "{things} can be seen."],
    "ko": ["{things}[이/가] 있는 사진입니다.", "사진에는 {things}[이/가] 있습니다.", "{things}[이/가] 보입니다."],
}
_OPENINGS = {
    "en": ["The picture shows {count} object{s}.", "There are {count} things to see."],
    "ko": ["그림에는 물체가 {count}개 있습니다.", "물체는 모두 {count}개입니다."],
}
_PLACED = {
    "en": ["At the {place} there is {thing}.", "At the {place}, {thing}."],
    "ko": ["{place}에 {thing}[이/가] 있습니다.", "{place}에는 {thing}[이/가] 보입니다."],
}
_UNIQUE = {
    "en": ["The {name} is at the {place}.", "At the {place} there is the {name}."],
    "ko": ["{name}[은/는] {place}에 있습니다.", "{place}에 {name}[이/가] 있습니다."],
}
