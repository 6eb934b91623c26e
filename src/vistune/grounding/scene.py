"""Derive from the boxes of one image which names are unique, how many objects there are, and where each one is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vistune.grounding.caption_things import caption_things
from vistune.grounding.lexicon import class_of, has_singular, is_person, is_shape, objects
from vistune.types import Box

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
# A box that fills more than a quarter of the image has no place in it that is worth asking for.
LARGEST_PLACED_AREA = 0.25
# Relations are stated only if they are obvious: centres this far apart, areas this many times larger.
CLEAR_GAP = 0.2
CLEAR_RATIO = 1.8


def place_of(box: Box) -> str:
    """Return the ninth of the image that the box's centre is in."""
    x, y = box.center
    return PLACES[min(int(y * 3), 2) * 3 + min(int(x * 3), 2)]


def extent_of(box: Box) -> tuple[int, int]:
    """Return the width and height of a box in per cent of the image's, rounded to ten and at least ten."""
    width, height = (max(10, round(side * 10) * 10) for side in (box.x1 - box.x0, box.y1 - box.y0))
    return width, height


@dataclass(frozen=True)
class Scene:
    """The boxes of an image, and the names, numbers and positions that follow from the boxes.

    - crowds: labels with more objects than boxes
    - also_present: classes that are known to be there, with or without a box; no question may deny them
    - named: classes and things that the captions of an image without boxes name; how many there are is not known
    - possible: things that the captions name or make likely, or that too few captions leave open; see
      `caption_things`. No question may deny them
    - others: labels of other images, which questions may deny; by default the objects of the lexicon
    """

    boxes: tuple[Box, ...]
    crowds: tuple[str, ...] = ()
    also_present: frozenset[str] = frozenset()
    others: tuple[str, ...] | None = None
    named: tuple[str, ...] = ()
    possible: frozenset[str] = frozenset()

    @cached_property
    def labels(self) -> Counter[str]:
        return Counter(box.label for box in self.boxes)

    @cached_property
    def countable(self) -> Counter[str]:
        """Labels whose number is known: every object of the label has a box."""
        return Counter(box.label for box in self.boxes if box.label not in (*self.crowds, *self.vague))

    @cached_property
    def absent(self) -> tuple[str, ...]:
        """Labels whose class the image does not show."""
        present = {class_of(label) for label in (*self.labels, *self.crowds, *self.also_present, *self.named)}
        if self.others is not None:
            captioned = caption_things() if not (self.boxes or self.crowds) else ()
            return tuple(
                label
                for label in self.others
                if label not in self.possible and (label in captioned or class_of(label) not in present)
            )
        return tuple(
            label
            for label, entry in objects().items()
            if not (entry.shape or entry.of or label in present or label in caption_things())
        )

    @cached_property
    def vague(self) -> frozenset[str]:
        """Labels that overlap in meaning: if there is a "puppy" and a "dog", the dog may be a puppy too."""
        classes = {label: class_of(label) for label in (*self.labels, *self.crowds)}
        classes_with_sorts = {of for label, of in classes.items() if label != of}
        return frozenset(
            label
            for label, of in classes.items()
            if (label == of and of in classes_with_sorts) or (label != of and of in classes)
        )

    @cached_property
    def colors(self) -> Counter[str]:
        return Counter(box.attributes["color"] for box in self.boxes if "color" in box.attributes)

    @cached_property
    def names(self) -> Counter[tuple[str, str]]:
        """Pairs of colour ("" if unknown) and label."""
        return Counter(name_key(box) for box in self.boxes)

    @cached_property
    def unique(self) -> tuple[Box, ...]:
        """Boxes that their colour and label identify and that can be named in the singular.

        Next to a dog of unknown colour, neither "the dog" nor "the red dog" identifies one.
        """
        return tuple(
            box
            for box in self.boxes
            if self.names[name_key(box)] == 1
            and box.label not in (*self.crowds, *self.vague)
            and has_singular(box.label)
            and (self.labels[box.label] == 1 or not self.names["", box.label])
        )

    @cached_property
    def places(self) -> dict[str, Box]:
        """Places with exactly one object whose middle no other box reaches."""
        occupied = Counter(place_of(box) for box in self.boxes)
        return {
            place_of(box): box
            for box in self.boxes
            if occupied[place_of(box)] == 1
            and box.area <= LARGEST_PLACED_AREA
            and not any(_reaches(other, place_of(box)) for other in self.boxes if other is not box)
        }

    @property
    def drawn(self) -> bool:
        """Whether all objects are shapes. A drawing has "objects"; photographs use other sentences."""
        return bool(self.boxes) and all(is_shape(box.label) for box in self.boxes)

    @property
    def has_people(self) -> bool:
        return any(is_person(label) for label in (*self.labels, *self.crowds))

    @property
    def colored(self) -> bool:
        return bool(self.boxes) and all("color" in box.attributes for box in self.boxes)


def _reaches(box: Box, place: str) -> bool:
    """Return whether a box covers the middle of a ninth of the image."""
    row, column = divmod(PLACES.index(place), 3)
    return box.x0 <= (column + 0.5) / 3 <= box.x1 and box.y0 <= (row + 0.5) / 3 <= box.y1


def name_key(box: Box) -> tuple[str, str]:
    return box.attributes.get("color", ""), box.label


def reading_order(boxes: Sequence[Box]) -> list[Box]:
    """Sort boxes by row from the top, then from left to right."""
    return sorted(boxes, key=lambda box: (PLACES.index(place_of(box)), box.x0))
