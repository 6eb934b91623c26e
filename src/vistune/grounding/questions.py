"""Questions about boxes whose answers are certain, by type.

Scene + random generator -> a fact that the boxes settle -> (question, short answer, answer as a sentence)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from vistune.grounding import lexicon as words
from vistune.grounding.scene import CLEAR_GAP, CLEAR_RATIO, LARGEST_PLACED_AREA, Scene, key, place_of
from vistune.grounding.wording import Fact, QuestionAnswer, word
from vistune.types import Box


def _colour(scene: Scene, rng: random.Random) -> Fact | None:
    by_label = [box for box in scene.boxes if scene.labels[box.label] == 1 and "color" in box.attributes]
    by_place = [
        place for place, box in scene.places.items() if "color" in box.attributes and not words.is_person(box.label)
    ]
    forms = ["label"] * bool(by_label) + ["place"] * bool(by_place)
    if not forms:
        return None
    if rng.choice(forms) == "label":
        box = rng.choice(by_label)
        return Fact("colour_label", {"box": box, "color": box.attributes["color"], "label": box.label})
    place = rng.choice(by_place)
    box = scene.places[place]
    return Fact("colour_place", {"box": box, "color": box.attributes["color"], "label": box.label, "place": place})


def _shape(scene: Scene, rng: random.Random) -> Fact | None:
    by_color = [
        box
        for box in scene.boxes
        if scene.colored and scene.colors[box.attributes["color"]] == 1 and not words.is_person(box.label)
    ]
    by_place = list(scene.places)
    forms = ["color"] * bool(by_color) + ["place"] * bool(by_place)
    if not forms:
        return None
    if rng.choice(forms) == "color":
        box = rng.choice(by_color)
        return Fact(_what("color", box), {"box": box, "color": box.attributes["color"], "label": box.label})
    place = rng.choice(by_place)
    box = scene.places[place]
    return Fact(_what("place", box), {"box": box, "label": box.label, "place": place})


def _what(form: str, box: Box) -> str:
    return f"{'shape' if words.is_shape(box.label) else 'object'}_{form}"


def _existence(scene: Scene, rng: random.Random) -> Fact | None:
    present = [key(box) for box in scene.boxes if words.is_plain(box.label) and box.label not in scene.vague]
    if not present:
        return None
    truth = rng.random() < 0.5
    if truth:
        color, label = rng.choice(present)
    else:
        color, label = _absent(scene, rng)
    fill = {"color": color, "label": label, "truth": truth}
    if color or scene.drawn:
        return Fact("existence", fill)
    return Fact("existence_seen", {**fill, "number": scene.countable[label]})


def _absent(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A name that is not there; in a coloured scene most often a mix of a colour and a shape that are."""
    objects = words.lexicon()["objects"]
    if not scene.colored:
        there = {words.class_of(label) for label in (*scene.labels, *scene.crowds, *scene.told)}
        absent = [
            label
            for label, entry in objects.items()
            if not (words.is_shape(label) or "of" in entry or label in there) and words.is_plain(label)
        ]
        return "", rng.choice(absent)
    colors = list(words.lexicon()["colors"])
    labels = [label for label in objects if words.is_shape(label)]
    for _ in range(8):
        mixed = rng.random() < 0.6
        color = rng.choice(list(scene.colors) if mixed else colors)
        label = rng.choice(list(scene.labels) if mixed and rng.random() < 0.5 else labels)
        if (color, label) not in scene.names:
            return color, label
    return next((color, label) for color in colors for label in labels if (color, label) not in scene.names)


def _count(scene: Scene, rng: random.Random) -> Fact | None:
    if not scene.boxes:
        return None
    things = scene.colored and not scene.has_people  # people are no objects to be counted among them
    forms = ["label", "label"] + ["color"] * things + ["all"] * things
    form = rng.choice(forms)
    if form == "all":
        return Fact("count_all", {"number": len(scene.boxes)})
    if form == "color":
        color = _of_any_number(scene.colors, rng)
        return Fact("count_color", {"color": color, "number": scene.colors[color]})
    if not scene.countable:
        return None
    label = _of_any_number(scene.countable, rng)
    return Fact("count_label" if scene.drawn else "count_seen", {"label": label, "number": scene.countable[label]})


def _of_any_number(counts: Mapping[str, int], rng: random.Random) -> str:
    """What there are three of as readily as what there is one of: else "one" is the answer to guess."""
    number = rng.choice(sorted(set(counts.values())))
    return rng.choice([name for name, count in counts.items() if count == number])


def _position(scene: Scene, rng: random.Random) -> Fact | None:
    boxes = [box for box in scene.unique if box.area <= LARGEST_PLACED_AREA]
    if not boxes:
        return None
    box = rng.choice(boxes)
    if scene.drawn:
        return Fact("position", {"box": box, "place": place_of(box)})
    return Fact("position_seen", {"box": box, "at": place_of(box)})


def _size(scene: Scene, rng: random.Random) -> Fact | None:
    boxes = [box for box in scene.unique if "size" in box.attributes]
    if not boxes:
        return None
    box = rng.choice(boxes)
    return Fact("size", {"box": box, "size": box.attributes["size"]})


def _comparison(scene: Scene, rng: random.Random) -> Fact | None:
    forms = [_larger, _beside, _beside, _more]
    rng.shuffle(forms)
    for form in forms:
        if fact := form(scene, rng):
            return fact
    return None


def _pairs(scene: Scene, clear: Callable[[Box, Box], bool]) -> list[tuple[Box, Box]]:
    return [(a, b) for a in scene.unique for b in scene.unique if a is not b and clear(a, b)]


def _larger(scene: Scene, rng: random.Random) -> Fact | None:
    pairs = _pairs(scene, lambda a, b: a.area >= CLEAR_RATIO * b.area)
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    first, second = (a, b) if rng.random() < 0.5 else (b, a)
    return Fact("larger" if scene.drawn else "larger_seen", {"a": first, "b": second, "box": a})


def _beside(scene: Scene, rng: random.Random) -> Fact | None:
    axis = rng.choice((0, 1))
    pairs = _pairs(scene, lambda a, b: a.center[axis] <= b.center[axis] - CLEAR_GAP)
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    truth = rng.random() < 0.5
    a, b = (first, second) if truth else (second, first)
    return Fact(("left_of", "above" if scene.drawn else "above_seen")[axis], {"a": a, "b": b, "truth": truth})


def _more(scene: Scene, rng: random.Random) -> Fact | None:
    counts = scene.countable
    pairs = [(a, b) for a in counts for b in counts if counts[a] > counts[b]]
    if not pairs:
        return None
    more, fewer = rng.choice(pairs)
    truth = rng.random() < 0.5
    first, second = (more, fewer) if truth else (fewer, more)
    numbers = {"number": scene.labels[first], "other_number": scene.labels[second]}
    return Fact("more" if scene.drawn else "more_seen", {"label": first, "other": second, "truth": truth, **numbers})


def _removal(scene: Scene, rng: random.Random) -> Fact | None:
    if not scene.drawn:
        return _one_less(scene, rng)
    if len(scene.labels) < 2 or scene.crowds:
        return None
    label = rng.choice(list(scene.labels))
    left = len(scene.boxes) - scene.labels[label]
    return Fact("removal", {"label": label, "removed": scene.labels[label], "total": len(scene.boxes), "number": left})


def _one_less(scene: Scene, rng: random.Random) -> Fact | None:
    """Of a photograph nobody can say how many objects there are in all, but how many chairs."""
    several = [label for label, count in scene.countable.items() if count > 1]
    if not several:
        return None
    label = rng.choice(several)
    total = scene.countable[label]
    form = "leaving" if words.group(label) in ("person", "animal", "vehicle") else "taking"
    return Fact(form, {"label": label, "total": total, "number": total - 1})


QUESTION_TYPES: Mapping[str, Callable[[Scene, random.Random], Fact | None]] = {
    "colour": _colour,
    "shape": _shape,
    "existence": _existence,
    "count": _count,
    "position": _position,
    "size": _size,
    "comparison": _comparison,
    "removal": _removal,
}


def ask(scene: Scene, kind: str, language: str, rng: random.Random) -> QuestionAnswer | None:
    """A question of a type with its answer, or None where the boxes settle none."""
    fact = QUESTION_TYPES[kind](scene, rng)
    return None if fact is None else word(fact, kind, language, rng)
