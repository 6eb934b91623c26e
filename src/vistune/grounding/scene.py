"""What the boxes of one picture say: which names are unique, how many there are, where each one lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vistune.grounding.lexicon import class_of, is_person, is_plain, is_shape
from vistune.types import Box

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
# A box that fills much of the picture has no place in it worth asking for.
LARGEST_PLACED_AREA = 0.2
# Relations are stated only where a glance settles them: centres this far apart, areas this many times larger.
CLEAR_GAP = 0.2
CLEAR_RATIO = 1.8


def place_of(box: Box) -> str:
    """The ninth of the picture in which the box's centre lies."""
    x, y = box.center
    return PLACES[min(int(y * 3), 2) * 3 + min(int(x * 3), 2)]


def extent_of(box: Box) -> tuple[int, int]:
    """Per cent of the picture's width and of its height that a box takes, to ten and never none."""
    wide, high = (max(10, round(side * 10) * 10) for side in (box.x1 - box.x0, box.y1 - box.y0))
    return wide, high


@dataclass(frozen=True)
class Scene:
    """The boxes of a picture, with what follows from them.

    `crowds`: labels of which there are more than boxes · `told`: what else is known to be there, with or without a
    box: no question may deny it.
    """

    boxes: tuple[Box, ...]
    crowds: tuple[str, ...] = ()
    told: frozenset[str] = frozenset()

    @cached_property
    def labels(self) -> Counter[str]:
        return Counter(box.label for box in self.boxes)

    @cached_property
    def countable(self) -> Counter[str]:
        """Labels whose boxes are all there are."""
        return Counter(box.label for box in self.boxes if box.label not in (*self.crowds, *self.vague))

    @cached_property
    def vague(self) -> frozenset[str]:
        """Labels of which another may be a sort: beside a "puppy", a "dog" may be any, and one of the dogs a puppy."""
        classes = {label: class_of(label) for label in (*self.labels, *self.crowds)}
        sorts = {of for label, of in classes.items() if label != of}
        return frozenset(
            label for label, of in classes.items() if (label == of and of in sorts) or (label != of and of in classes)
        )

    @cached_property
    def colors(self) -> Counter[str]:
        return Counter(box.attributes["color"] for box in self.boxes if "color" in box.attributes)

    @cached_property
    def names(self) -> Counter[tuple[str, str]]:
        return Counter(key(box) for box in self.boxes)

    @cached_property
    def unique(self) -> tuple[Box, ...]:
        """Boxes that their colour and label single out, and that can be spoken of in the singular.

        Beside a dog whose colour is not known, neither "the dog" nor "the red dog" singles one out.
        """
        return tuple(
            box
            for box in self.boxes
            if self.names[key(box)] == 1
            and box.label not in (*self.crowds, *self.vague)
            and is_plain(box.label)
            and (self.labels[box.label] == 1 or not self.names["", box.label])
        )

    @cached_property
    def places(self) -> dict[str, Box]:
        """Places that exactly one object holds, and no other box reaches the middle of."""
        held = Counter(place_of(box) for box in self.boxes)
        return {
            place_of(box): box
            for box in self.boxes
            if held[place_of(box)] == 1
            and box.area <= LARGEST_PLACED_AREA
            and not any(_reaches(other, place_of(box)) for other in self.boxes if other is not box)
        }

    @property
    def drawn(self) -> bool:
        """Whether only shapes are known, which "object" suits; of photographs one speaks otherwise."""
        return bool(self.boxes) and all(is_shape(box.label) for box in self.boxes)

    @property
    def has_people(self) -> bool:
        return any(is_person(label) for label in (*self.labels, *self.crowds))

    @property
    def colored(self) -> bool:
        return bool(self.boxes) and all("color" in box.attributes for box in self.boxes)


def _reaches(box: Box, place: str) -> bool:
    """Whether a box holds the middle of a ninth of the picture."""
    row, column = divmod(PLACES.index(place), 3)
    return box.x0 <= (column + 0.5) / 3 <= box.x1 and box.y0 <= (row + 0.5) / 3 <= box.y1


def key(box: Box) -> tuple[str, str]:
    return box.attributes.get("color", ""), box.label


def reading_order(boxes: Sequence[Box]) -> list[Box]:
    """Top row first, left to right."""
    return sorted(boxes, key=lambda box: (PLACES.index(place_of(box)), box.x0))
