"""One question whose answer is reached in steps, and the steps, from boxes alone.

Scene -> (question, reasoned answer): what is counted or placed is said first, what follows from it last.
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
    """A question and its reasoned answer, or None where the boxes settle none."""
    forms: list[Callable[[Scene, str, random.Random], Turn | None]] = [_compare_counts, _take_away, _compare_places]
    if not scene.drawn:
        forms = [_compare_counts, _add_up, _compare_places, _compare_heights, _compare_sizes]
    rng.shuffle(forms)
    if not scene.drawn and len(set(scene.countable.values())) < 2:
        forms.sort(key=lambda form: form is _compare_counts)  # "as many of each" only where nothing else can be said
    for form in forms:
        if turn := form(scene, language, rng):
            question, answer = turn
            return words.particles(question), words.particles(answer)
    return None


def _pairs(scene: Scene) -> list[tuple[str, str]]:
    """Pairs of counted labels; of photographs those of different numbers where there are such."""
    pairs = list(permutations(scene.countable, 2))
    unequal = [(a, b) for a, b in pairs if scene.countable[a] != scene.countable[b]]
    return pairs if scene.drawn or not unequal else unequal


def _compare_counts(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    if not _pairs(scene):
        return None
    first, second = rng.choice(_pairs(scene))
    a, b = scene.countable[first], scene.countable[second]
    neither = {"ko": "어느 쪽도 더 많지 않고 수가 같습니다", "en": "neither: there are as many of each"}[language]
    if language == "ko":
        one, other = words.noun(first, "ko"), words.noun(second, "ko")
        verdict = f"{one}[이/가] 더 많습니다" if a > b else f"{other}[이/가] 더 많습니다" if b > a else neither
        which = "어느 것" if scene.drawn else "어느 쪽"
        a_said, b_said = (
            f"{number}{words.counter(label)}" if scene.drawn else words.amount(number, label)
            for number, label in ((a, first), (b, second))
        )
        return (
            f"{one}[과/와] {other} 가운데 {which}이 더 많은지 이유와 함께 말해 주세요.",
            f"{one}[은/는] {a_said}이고 {other}[은/는] {b_said}입니다. 따라서 {verdict}.",
        )
    ones, others = words.plural(first, "en"), words.plural(second, "en")
    verdict = f"there are more {ones}" if a > b else f"there are more {others}" if b > a else neither
    if not scene.drawn:
        verb = "is" if a == 1 else "are"
        return (
            f"Are there more {ones} or more {others}, and how do you know?",
            f"There {verb} {words.counted(a, first, 'en')} and {words.counted(b, second, 'en')}. So {verdict}.",
        )
    return (
        f"Are there more {ones} or more {others}, and how do you know?",
        f"The number of {ones} is {a} and the number of {others} is {b}. So {verdict}.",
    )


def _take_away(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    if len(scene.labels) < 2 or scene.crowds:
        return None
    label = rng.choice(list(scene.labels))
    total, gone = len(scene.boxes), scene.labels[label]
    if language == "ko":
        noun = words.noun(label, "ko")
        return (
            f"{noun}[을/를] 모두 없애면 물체는 몇 개 남는지 이유와 함께 말해 주세요.",
            f"물체는 모두 {total}개이고 그 가운데 {noun}[은/는] {gone}{words.counter(label)}입니다. "
            f"따라서 {total - gone}개가 남습니다.",
        )
    plural = words.plural(label, "en")
    return (
        f"If all {plural} were taken away, how many objects would be left, and why?",
        f"The number of objects is {total} and the number of {plural} is {gone}. So {total - gone} would be left.",
    )


def _add_up(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    """How many animals (vehicles, pieces of fruit) in all, from the numbers of two sorts or more."""
    groups: dict[str, list[str]] = {}
    for label in scene.labels:
        groups.setdefault(words.group(label), []).append(label)
    fitting = [
        group
        for group, labels in groups.items()
        if group in words.lexicon()["groups"]
        and len(labels) > 1
        and all(label in scene.countable for label in labels)
        and len({words.counter(label) for label in labels}) == 1
    ]
    if not fitting:
        return None
    chosen = rng.choice(fitting)
    labels = groups[chosen]
    total = sum(scene.countable[label] for label in labels)
    things = [words.counted(scene.countable[label], label, language) for label in labels]
    sum_ = " + ".join(str(scene.countable[label]) for label in labels)
    name = words.lexicon()["groups"][chosen][language]
    if language == "ko":
        counter = words.counter(labels[0])
        return (
            f"{name}[은/는] 모두 몇 {counter}인지 어떻게 알 수 있는지와 함께 말해 주세요.",
            f"{', '.join(things)}[이/가] 있습니다. {sum_} = {total}이므로 {name}[은/는] 모두 "
            f"{words.amount(total, labels[0])}입니다.",
        )
    verb = "is" if scene.countable[labels[0]] == 1 else "are"
    return (
        f"How many {name} are there in all, and how do you know?",
        f"There {verb} {', '.join(things[:-1])} and {things[-1]}. "
        f"Since {sum_} = {total}, there are {words.number(total)} {name} in all.",
    )


def _apart(scene: Scene, axis: int) -> list[tuple[Box, Box]]:
    """Pairs of which the first is clearly nearer the left (axis 0) or upper (1) edge, and in another third of it."""
    boxes = [box for box in scene.unique if box.area <= LARGEST_PLACED_AREA]
    return [
        (a, b)
        for a in boxes
        for b in boxes
        # the reason is where each lies, so the two must lie in different thirds
        if a.center[axis] <= b.center[axis] - CLEAR_GAP and int(a.center[axis] * 3) < min(int(b.center[axis] * 3), 2)
    ]


def _compare_places(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    pairs = _apart(scene, 0)
    if not pairs:
        return None
    left, right = rng.choice(pairs)
    a, b = (left, right) if rng.random() < 0.5 else (right, left)
    name_a, name_b, name_left = (words.name(box, language) for box in (a, b, left))
    place_a, place_b = (words.place_word(place_of(box), language) for box in (a, b))
    if not scene.drawn:
        place_a, place_b = (words.at_place(place_of(box), language) for box in (a, b))
    if language == "ko":
        which = "어느 것" if scene.drawn else "어느 쪽"
        return (
            f"{name_a}[과/와] {name_b} 가운데 {which}이 더 왼쪽에 있는지 이유와 함께 말해 주세요.",
            f"{name_a}[은/는] {place_a}에 있고 {name_b}[은/는] {place_b}에 있습니다. "
            f"따라서 {name_left}[이/가] 더 왼쪽에 있습니다.",
        )
    if scene.drawn:
        place_a, place_b = f"at the {place_a}", f"at the {place_b}"
    return (
        f"Which is further left, the {name_a} or the {name_b}, and how do you know?",
        f"The {name_a} is {place_a} and the {name_b} is {place_b}. So the {name_left} is further left.",
    )


def _compare_heights(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    # "on the left" does not say how high
    pairs = [pair for pair in _apart(scene, 1) if not {place_of(box) for box in pair} & {"left", "right"}]
    if not pairs:
        return None
    upper, lower = rng.choice(pairs)
    a, b = (upper, lower) if rng.random() < 0.5 else (lower, upper)
    name_a, name_b, name_upper = (words.name(box, language) for box in (a, b, upper))
    place_a, place_b = (words.at_place(place_of(box), language) for box in (a, b))
    if language == "ko":
        return (
            f"{name_a}[과/와] {name_b} 가운데 어느 쪽이 사진에서 더 위쪽에 있는지 이유와 함께 말해 주세요.",
            f"{name_a}[은/는] {place_a}에 있고 {name_b}[은/는] {place_b}에 있습니다. "
            f"따라서 {name_upper}[이/가] 더 위쪽에 있습니다.",
        )
    return (
        f"Which is higher in the picture, the {name_a} or the {name_b}, and how do you know?",
        f"The {name_a} is {place_a} and the {name_b} is {place_b}. So the {name_upper} is higher in the picture.",
    )


def _compare_sizes(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    """Which looks larger, where it is neither narrower nor lower even in the round numbers that are said."""
    pairs = [
        (a, b)
        for a, b in permutations(scene.unique, 2)
        if a.area >= CLEAR_RATIO * b.area
        and extent_of(a) != extent_of(b)
        and all(more >= less for more, less in zip(extent_of(a), extent_of(b), strict=True))
    ]
    if not pairs:
        return None
    larger, smaller = rng.choice(pairs)
    a, b = (larger, smaller) if rng.random() < 0.5 else (smaller, larger)
    name_a, name_b, name_larger = (words.name(box, language) for box in (a, b, larger))
    (wide_a, high_a), (wide_b, high_b) = extent_of(a), extent_of(b)
    if language == "ko":
        return (
            f"{name_a}[과/와] {name_b} 가운데 어느 쪽이 더 크게 보이는지 이유와 함께 말해 주세요.",
            f"{name_a}[은/는] 가로로 사진의 약 {wide_a}%, 세로로 약 {high_a}%를 차지하고 {name_b}[은/는] "
            f"가로로 약 {wide_b}%, 세로로 약 {high_b}%를 차지합니다. 따라서 {name_larger}[이/가] 더 크게 보입니다.",
        )
    return (
        f"Which looks larger in the picture, the {name_a} or the {name_b}, and how do you know?",
        f"The {name_a} spans about {wide_a}% of the picture's width and {high_a}% of its height, "
        f"the {name_b} about {wide_b}% and {high_b}%. So the {name_larger} looks larger.",
    )
