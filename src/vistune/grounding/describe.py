"""Write captions and descriptions from boxes, in several wordings, in English and Korean.

A drawing with few objects is described object by object, a photograph label by label: how many there are, where they
are, how large they look, and how they are placed to each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vistune.grounding import lexicon as words
from vistune.grounding.scene import (
    CLEAR_GAP,
    LARGEST_PLACED_AREA,
    PLACES,
    Scene,
    extent_of,
    place_of,
    reading_order,
)
from vistune.types import Box

LARGEST_LISTED = 8  # above this number of objects, a list of single objects reads like an inventory
MOST_DESCRIBED = 5  # labels that get a separate sentence; the others are listed
MOST_NAMED = 4  # labels in a caption of one sentence
FEW_LABELS = 2  # up to this many labels, the extent of each object is stated too
FEWEST_SENTENCES = 3
FILLING_AREA = 0.4
MUCH_LARGER = 3.0  # times the area
SPREAD_COUNT = 4


def caption(scene: Scene, language: str, rng: random.Random, setting: str = "") -> str:
    """Write one sentence: each object of a drawing with colour, size and place, or the counts in a photograph."""
    forms = words.sentences(language)
    if not scene.boxes:
        return str(rng.choice(forms["drawings"]["empty"]))
    if _is_listed(scene):
        items = [_fill_place(forms["drawings"]["listed_item"], box, language) for box in reading_order(scene.boxes)]
        return words.finished(forms["drawings"]["listed"].format(things=", ".join(items)), language)
    groups = object_groups(scene)
    named = [group.counted(language) for group in groups[:MOST_NAMED]]
    things = _joined(named, language, more=len(groups) > MOST_NAMED)
    form = rng.choice(forms["paragraphs"]["caption_in" if setting else "caption"])
    return words.finished(form.format(things=things, setting=setting), language)


def description(scene: Scene, language: str, rng: random.Random, *, setting: str = "", opening: str = "") -> str:
    """Write several sentences: the objects of a drawing one by one, or a paragraph about a photograph.

    Args:
        setting: The place where a photograph was taken, in `language`.
        opening: A given first sentence, such as a caption.
    """
    forms = words.sentences(language)["drawings"]
    if not scene.boxes:
        return str(rng.choice(forms["empty"]))
    if not _is_listed(scene):
        return _paragraph(scene, language, rng, setting, opening)
    placed = rng.choice(forms["placed"])
    first = rng.choice(forms["opening"]).format(count=len(scene.boxes), s="s" * (len(scene.boxes) > 1))
    lines = [first, *(_fill_place(placed, box, language) for box in reading_order(scene.boxes))]
    return " ".join(words.finished(line, language) for line in lines)


def _is_listed(scene: Scene) -> bool:
    """Return whether each object is described by itself."""
    return scene.colored and len(scene.boxes) <= LARGEST_LISTED and not scene.has_people


def _fill_place(form: str, box: Box, language: str) -> str:
    """Fill in a place and an object with its size and colour: "a large red circle", "큰 빨간색 원"."""
    size = box.attributes.get("size")
    thing = " ".join(filter(None, [words.size_word(size, language) if size else "", words.name(box, language)]))
    if language == "en":
        thing = words.one(thing, box.label)
    return form.format(place=words.place_word(place_of(box), language), thing=thing)


@dataclass(frozen=True, slots=True)
class ObjectGroup:
    """All boxes of one label; a crowd has more objects than boxes."""

    label: str
    boxes: tuple[Box, ...]
    crowd: bool

    @property
    def is_single(self) -> bool:
        return len(self.boxes) == 1 and not self.crowd

    def counted(self, language: str) -> str:
        """Return the objects with their number: "two dogs", "개 두 마리"."""
        if self.crowd:
            return words.many(self.label, language)
        if len(self.boxes) > 1:
            return words.counted(len(self.boxes), self.label, language)
        name = words.name(self.boxes[0], language)
        return f"{name} {words.amount(1, self.label)}" if language == "ko" else words.one(name, self.label)

    def uncounted(self, language: str) -> str:
        """Return the objects without a number: "dogs" or "a dog", "개"."""
        if language == "ko":
            return words.noun(self.label, "ko")
        if self.is_single:
            return words.one(words.noun(self.label, "en"), self.label)
        return words.plural(self.label, "en")


def object_groups(scene: Scene) -> list[ObjectGroup]:
    """Group the boxes by label, those that take up most of the image first."""
    labels = [*scene.labels, *(label for label in scene.crowds if label not in scene.labels)]
    groups = [
        ObjectGroup(label, tuple(box for box in scene.boxes if box.label == label), label in scene.crowds)
        for label in labels
    ]
    return sorted(groups, key=lambda group: -sum(box.area for box in group.boxes))


class _Sentences:
    """Fills sentence forms; no wording is repeated before all of its form have been used."""

    def __init__(self, language: str, rng: random.Random) -> None:
        self.language = language
        self._rng = rng
        self._unused: dict[str, list[str]] = {}

    def __call__(self, form: str, **slots: object) -> str:
        unused = self._unused.setdefault(form, [])
        if not unused:
            unused.extend(words.sentences(self.language)["paragraphs"][form])
            self._rng.shuffle(unused)
        return words.finished(unused.pop().format(**slots), self.language)


def _paragraph(scene: Scene, language: str, rng: random.Random, setting: str, opening: str) -> str:
    """Write the opening, a sentence for each group, the relations, and measures if the text is still short."""
    groups = object_groups(scene)
    write = _Sentences(language, rng)
    lines = [opening or _opening(groups, write, setting)]
    lines += [_place_sentence(group, write) for group in groups[:MOST_DESCRIBED]]
    if rest := [group.counted(language) for group in groups[MOST_DESCRIBED:]]:
        lines.append(write("rest", things=_joined(rest, language)))
    if len(groups) <= FEW_LABELS:
        lines += [_extent_sentence(box, write) for box in scene.unique]
    lines += _relations(scene, groups[:MOST_DESCRIBED], write, rng)
    lines = [line for line in lines if line]
    if len(lines) < FEWEST_SENTENCES:
        measures = [line for group in groups for line in _measures(group, write)]
        lines += measures[: FEWEST_SENTENCES - len(lines)]
    return " ".join(lines)


def _opening(groups: Sequence[ObjectGroup], write: _Sentences, setting: str) -> str:
    names = _joined([group.uncounted(write.language) for group in groups[:3]], write.language)
    if setting:
        return write("opening_in", setting=setting, names=names)
    return write("opening", names=names) if len(groups) > 1 else ""


def _place_sentence(group: ObjectGroup, write: _Sentences) -> str:
    """State how many objects there are and where."""
    form, places = _layout(group)
    if form == "one" and words.group(group.label) == "furniture":
        form = "one_standing"
    first, second = [*(words.at_place(place, write.language) for place in places), "", ""][:2]
    are = "is" if group.is_single else "are"
    counter = words.counter(group.label)
    return write(form, things=group.counted(write.language), at=first, other_at=second, are=are, counter=counter)


def _layout(group: ObjectGroup) -> tuple[str, tuple[str, ...]]:
    """Return the sentence form for a group, and the places that it names."""
    boxes = sorted(group.boxes, key=lambda box: box.x0)
    places = tuple(place_of(box) for box in boxes)
    if group.crowd:
        return "crowd", ()
    if len(boxes) == 1:
        area = boxes[0].area
        form = "filling" if area >= FILLING_AREA else "large" if area > LARGEST_PLACED_AREA else "one"
        return form, places if form == "one" else ()
    if any(box.area > LARGEST_PLACED_AREA for box in boxes):
        return "several", ()
    if len(set(places)) == 1:
        return "together", (places[0],)
    if len(boxes) == 2:
        return "pair", places
    columns = {PLACES.index(place) % 3 for place in places}
    if len(columns) == 1:
        return "together", (("left", "center", "right")[columns.pop()],) if columns != {1} else ()
    if len(boxes) >= SPREAD_COUNT and len(columns) == 3:
        return "spread", ()
    return "several", ()


def _extent_sentence(box: Box, write: _Sentences) -> str:
    """State how much of the image's width and height a box takes up."""
    wide, high = extent_of(box)
    return write("extent", a=words.name(box, write.language), wide=wide, high=high)


def _measures(group: ObjectGroup, write: _Sentences) -> list[str]:
    """State where the only object of a group is, or how far several reach and how large they are."""
    if group.crowd:
        return []
    boxes = group.boxes
    hull = Box(
        group.label,
        min(box.x0 for box in boxes),
        min(box.y0 for box in boxes),
        max(box.x1 for box in boxes),
        max(box.y1 for box in boxes),
    )
    wide, high = extent_of(hull)
    noun = words.noun(group.label, write.language)
    many = noun if group.is_single else words.plural(group.label, write.language)
    is_measured = group.is_single and words.has_singular(group.label)
    lines = [] if is_measured else [write("reach", many=many, wide=wide, high=high)]
    if group.is_single:
        x, y = (min(max(5, round(20 * middle) * 5), 95) for middle in boxes[0].center)
        return [*lines, write("middle", a=noun, x=x, y=y)]
    largest, smallest = (max(1, round(100 * pick(box.area for box in boxes))) for pick in (max, min))
    form = "alike" if largest == smallest else "sizes_of_two" if len(boxes) == 2 else "sizes"
    counter = words.counter(group.label)
    return [*lines, write(form, many=many, counter=counter, share=largest, other_share=smallest)]


def _relations(scene: Scene, groups: Sequence[ObjectGroup], write: _Sentences, rng: random.Random) -> list[str]:
    """State at most two relations: which object is further left or further up, and which looks much larger."""
    labels = {group.label for group in groups}
    boxes = [box for box in scene.unique if box.label in labels]
    rng.shuffle(boxes)
    lines = []
    for form, holds in _RELATIONS.items():
        pair = next(((a, b) for a in boxes for b in boxes if holds(a, b)), None)
        if pair:
            a, b = (words.name(box, write.language) for box in pair)
            lines.append(write(form, a=a, b=b))
    rng.shuffle(lines)
    return lines[:2]


def _are_placed(a: Box, b: Box) -> bool:
    return max(a.area, b.area) <= LARGEST_PLACED_AREA


_RELATIONS: Mapping[str, Callable[[Box, Box], bool]] = {
    "left_of": lambda a, b: _are_placed(a, b) and a.center[0] <= b.center[0] - CLEAR_GAP,
    "above": lambda a, b: _are_placed(a, b) and a.center[1] <= b.center[1] - CLEAR_GAP,
    "larger": lambda a, b: a.area >= MUCH_LARGER * b.area,
}


def _joined(things: Sequence[str], language: str, *, more: bool = False) -> str:
    """Join names to a list; `more` says that the image shows more than the list."""
    if language == "ko":
        if more:
            return f"{', '.join(things)} 등"
        return ", ".join(things) if len(things) != 2 else "[과/와] ".join(things)
    named = [*things, "more"] if more else list(things)
    return f"{', '.join(named[:-1])} and {named[-1]}" if len(named) > 1 else named[0]
