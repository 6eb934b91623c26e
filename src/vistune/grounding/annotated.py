"""Derive the scene of an annotated image: its boxes named in a language, and the classes that its captions name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from vistune.grounding import lexicon as words
from vistune.grounding.caption_things import ENOUGH, caption_things, named_things, possible_things
from vistune.grounding.claims import find_classes, supported_classes
from vistune.grounding.scene import Scene
from vistune.types import AnnotatedImage

BOXES_FILE = "pictures.jsonl"  # the captions and boxes that `generate` writes next to its samples
BOX_DIGITS = 4  # to which it rounds boxes


def scene_of(image: AnnotatedImage, language: str) -> Scene:
    """Name the boxes in the language. Classes that captions name count as present, so that no question denies them.

    Without boxes, questions ask for the classes that at least two captions name, or the only caption.
    """
    labels = {label: words.label_in(label, language) for label in {*image.crowds, *(box.label for box in image.boxes)}}
    if "toilet" in labels.values():
        labels |= {label: "washbasin" for label, name in labels.items() if name == "sink"}  # Korean has two words
    boxes = tuple(replace(box, label=labels[box.label]) for box in image.boxes)
    scene = Scene(boxes, tuple(dict.fromkeys(labels[label] for label in image.crowds)))
    if scene.colored:
        return scene
    scene = replace(scene, also_present=frozenset(supported_classes(image)), possible=possible_things(image.captions))
    if image.boxes or image.crowds:
        return scene
    if len(image.captions) < ENOUGH:
        scene = replace(scene, possible=frozenset(caption_things()))
    return replace(scene, named=(*_named_classes(image.captions), *named_things(image.captions)))


def _named_classes(captions: Sequence[str]) -> tuple[str, ...]:
    classes = Counter[str]()
    for text in captions:
        language = "ko" if words.HANGUL.search(text) else "en"
        classes.update({name.label for name in find_classes(text, language)})
    return tuple(label for label, count in classes.items() if count >= min(2, len(captions)))
