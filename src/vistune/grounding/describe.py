"""Captions and descriptions from boxes, in several wordings, English and Korean.

Scene -> one sentence that names everything (caption) · several sentences with places (description)
"""

from __future__ import annotations

import random

from vistune.grounding import lexicon as words
from vistune.grounding.photograph import finished, listing, paragraph
from vistune.grounding.scene import Scene, place_of, reading_order
from vistune.types import Box

LARGEST_LISTED = 8  # a longer list of single objects reads as an inventory: above it, kinds are written of


def caption(scene: Scene, language: str, rng: random.Random, setting: str = "") -> str:
    """One sentence: of drawn scenes every object with colour, size and place, of others the numbers of each kind."""
    if not scene.boxes:
        return rng.choice(_EMPTY[language])
    if not _is_listed(scene):
        return listing(scene, language, rng, setting)
    phrases = [_phrase(box, language) for box in reading_order(scene.boxes)]
    if language == "ko":
        return finished(f"{', '.join(phrases)}[이/가] 있습니다.", "ko")
    return finished(f"{', '.join(phrases)}.", "en")


def description(scene: Scene, language: str, rng: random.Random, *, setting: str = "", opening: str = "") -> str:
    """Several sentences: of drawn scenes the number of objects, then each; of others a paragraph by kinds.

    setting: the place it was taken, in the language · opening: a sentence that is known already.
    """
    if not scene.boxes:
        return rng.choice(_EMPTY[language])
    if not _is_listed(scene):
        return paragraph(scene, language, rng, setting=setting, opening=opening)
    form = rng.choice(_PLACED[language])
    first = rng.choice(_OPENINGS[language]).format(count=len(scene.boxes), s="s" * (len(scene.boxes) > 1))
    lines = [
        form.format(place=words.place_word(place_of(box), language), thing=_thing(box, language))
        for box in reading_order(scene.boxes)
    ]
    return " ".join(finished(line, language) for line in [first, *lines])


def _is_listed(scene: Scene) -> bool:
    """Whether each object is named alone; people are no objects, and a long list reads as an inventory."""
    return scene.colored and len(scene.boxes) <= LARGEST_LISTED and not scene.has_people


def _thing(box: Box, language: str) -> str:
    """Size, colour and label: "a large red circle" · "큰 빨간색 원"."""
    size = box.attributes.get("size")
    text = " ".join(filter(None, [words.size_word(size, language) if size else "", words.name(box, language)]))
    return words.one(text, box.label) if language == "en" else text


def _phrase(box: Box, language: str) -> str:
    place = words.place_word(place_of(box), language)
    return f"{place}에 {_thing(box, 'ko')}" if language == "ko" else f"{_thing(box, 'en')} at the {place}"


_EMPTY = {"en": ["There is nothing to name in the picture."], "ko": ["사진에 이름을 붙일 만한 물체가 없습니다."]}
_OPENINGS = {
    "en": ["The picture shows {count} object{s}.", "There are {count} things to see."],
    "ko": ["그림에는 물체가 {count}개 있습니다.", "물체는 모두 {count}개입니다."],
}
_PLACED = {
    "en": ["At the {place} there is {thing}.", "At the {place}, {thing}."],
    "ko": ["{place}에 {thing}[이/가] 있습니다.", "{place}에는 {thing}[이/가] 보입니다."],
}
