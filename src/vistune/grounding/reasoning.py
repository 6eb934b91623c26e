"""Ask one question whose answer takes several steps, and answer it with the steps, from boxes only.

The answer first states counts or places, then draws the conclusion. The sentences are in `en/` and `ko/sentences.json`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations

from vistune.grounding import lexicon as words
from vistune.grounding.scene import CLEAR_GAP, CLEAR_RATIO, LARGEST_PLACED_AREA, Scene, extent_of, place_of
from vistune.types import Box

Turn = tuple[str, str]


def reason(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    """Return a question and its reasoned answer, or None if no question has a certain answer."""
    forms: list[Callable[[Scene, str, random.Random], Turn | None]] = [_compare_counts, _take_away, _compare_places]
    if not scene.drawn:
        forms = [_compare_counts, _add_up, _compare_places, _compare_heights, _compare_sizes]
    rng.shuffle(forms)
    if not scene.drawn and len(set(scene.countable.values())) < 2:
        forms.sort(key=lambda form: form is _compare_counts)  # last: its answer would be "as many of each"
    return next((turn for form in forms if (turn := form(scene, language, rng))), None)


def _turn(form: str, language: str, **slots: object) -> Turn:
    question, answer = (text.format(**slots) for text in words.sentences(language)["reasoning"][form])
    return words.particles(question), words.particles(answer)


def _count_slots(name: str, label: str, count: int, language: str) -> dict[str, object]:
    return {
        f"{name}_noun": words.noun(label, language),
        f"{name}_plural": words.plural(label, language),
        f"{name}_count": count,
        f"{name}_counter": words.counter(label),
        f"{name}_amount": words.amount(count, label),
        f"{name}_things": words.counted(count, label, language),
        f"{name}_are": "is" if count == 1 else "are",
    }


def _pairs(scene: Scene) -> list[tuple[str, str]]:
    """Return pairs of counted labels; in photographs those with different counts, if there are any."""
    pairs = list(permutations(scene.countable, 2))
    unequal = [(a, b) for a, b in pairs if scene.countable[a] != scene.countable[b]]
    return pairs if scene.drawn or not unequal else unequal


def _compare_counts(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    pairs = _pairs(scene)
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    a, b = scene.countable[first], scene.countable[second]
    forms = words.sentences(language)["reasoning"]
    more = words.plural(first if a > b else second, language)
    verdict = forms["as_many"] if a == b else forms["more"].format(plural=more)
    slots = _count_slots("a", first, a, language) | _count_slots("b", second, b, language)
    return _turn("compare_counts_drawn" if scene.drawn else "compare_counts", language, verdict=verdict, **slots)


def _take_away(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    if len(scene.labels) < 2 or scene.crowds:
        return None
    label = rng.choice(list(scene.labels))
    total, removed = len(scene.boxes), scene.labels[label]
    return _turn(
        "take_away", language, total=total, left=total - removed, **_count_slots("a", label, removed, language)
    )


def _add_up(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    """Ask how many animals (vehicles, pieces of fruit) there are in all, from the counts of at least two sorts."""
    groups: dict[str, list[str]] = {}
    for label in scene.labels:
        groups.setdefault(words.group(label), []).append(label)
    names = words.word_lists(language)["groups"]
    fitting = [
        group
        for group, labels in groups.items()
        if group in names
        and len(labels) > 1
        and all(label in scene.countable for label in labels)
        and len({words.counter(label) for label in labels}) == 1
    ]
    if not fitting:
        return None
    group = rng.choice(fitting)
    labels = groups[group]
    counts = [scene.countable[label] for label in labels]
    *things, last = (words.counted(count, label, language) for count, label in zip(counts, labels, strict=True))
    return _turn(
        "add_up",
        language,
        group=names[group],
        counter=words.counter(labels[0]),
        things=", ".join(things),
        last_thing=last,
        sum=" + ".join(map(str, counts)),
        total=sum(counts),
        amount=words.amount(sum(counts), labels[0]) if language == "ko" else words.number(sum(counts)),
        a_are="is" if counts[0] == 1 else "are",
    )


def _apart(scene: Scene, axis: int) -> list[tuple[Box, Box]]:
    """Return pairs whose first box is clearly further left (axis 0) or further up (axis 1) than the second.

    The two must be in different thirds of the image, because the answer gives their places as the reason.
    """
    boxes = [box for box in scene.unique if box.area <= LARGEST_PLACED_AREA]
    return [
        (a, b)
        for a in boxes
        for b in boxes
        if a.center[axis] <= b.center[axis] - CLEAR_GAP and int(a.center[axis] * 3) < min(int(b.center[axis] * 3), 2)
    ]


def _compare(form: str, result: Box, other: Box, language: str, rng: random.Random) -> Turn:
    """Ask about two boxes in random order; `result` is the answer."""
    a, b = (result, other) if rng.random() < 0.5 else (other, result)
    slots: dict[str, object] = {"result": words.name(result, language)}
    for slot, box in (("a", a), ("b", b)):
        width, height = extent_of(box)
        slots |= {
            slot: words.name(box, language),
            f"{slot}_place": words.place_word(place_of(box), language),
            f"{slot}_at": words.at_place(place_of(box), language),
            f"{slot}_wide": width,
            f"{slot}_high": height,
        }
    return _turn(form, language, **slots)


def _compare_places(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    pairs = _apart(scene, 0)
    if not pairs:
        return None
    left, right = rng.choice(pairs)
    return _compare("compare_places_drawn" if scene.drawn else "compare_places", left, right, language, rng)


def _compare_heights(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    # "on the left" does not say how high an object is
    pairs = [pair for pair in _apart(scene, 1) if not {place_of(box) for box in pair} & {"left", "right"}]
    if not pairs:
        return None
    upper, lower = rng.choice(pairs)
    return _compare("compare_heights", upper, lower, language, rng)


def _compare_sizes(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    """Ask which of two objects looks larger; the rounded width and height in the answer must both agree."""
    pairs = [
        (a, b)
        for a, b in permutations(scene.unique, 2)
        if a.area >= CLEAR_RATIO * b.area
        and extent_of(a) != extent_of(b)
        and all(larger >= smaller for larger, smaller in zip(extent_of(a), extent_of(b), strict=True))
    ]
    if not pairs:
        return None
    larger, smaller = rng.choice(pairs)
    return _compare("compare_sizes", larger, smaller, language, rng)
