"""One question whose answer is reached in steps, and the steps, from boxes alone.

Scene -> (question, reasoned answer): what is counted or placed is said first, what follows from it last.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from vistune.facts import lexicon as words
from vistune.facts.scene import CLEAR_GAP, LARGEST_PLACED_AREA, Scene, place_of

Turn = tuple[str, str]


def reason(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    """A question and its reasoned answer, or None where the boxes settle none."""
    forms: list[Callable[[Scene, str, random.Random], Turn | None]] = [_compare_counts, _take_away, _compare_places]
    rng.shuffle(forms)
    for form in forms:
        if turn := form(scene, language, rng):
            question, answer = turn
            return words.particles(question), words.particles(answer)
    return None


def _compare_counts(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    if len(scene.countable) < 2:
        return None
    first, second = rng.sample(list(scene.countable), 2)
    a, b = scene.countable[first], scene.countable[second]
    if language == "ko":
        one, other = words.noun(first, "ko"), words.noun(second, "ko")
        verdict = f"{one}[이/가] 더 많습니다" if a > b else f"{other}[이/가] 더 많습니다" if b > a else "수가 같습니다"
        return (
            f"{one}[과/와] {other} 가운데 어느 것이 더 많은지 이유와 함께 말해 주세요.",
            f"{one}[은/는] {a}{words.counter(first)}이고 {other}[은/는] {b}{words.counter(second)}입니다. "
            f"따라서 {verdict}.",
        )
    ones, others = words.plural(first, "en"), words.plural(second, "en")
    verdict = (
        f"there are more {ones}" if a > b else f"there are more {others}" if b > a else "there are as many of each"
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


def _compare_places(scene: Scene, language: str, rng: random.Random) -> Turn | None:
    boxes = [box for box in scene.unique if box.area <= LARGEST_PLACED_AREA]
    pairs = [(a, b) for a in boxes for b in boxes if a.center[0] <= b.center[0] - CLEAR_GAP]
    if not pairs:
        return None
    left, right = rng.choice(pairs)
    a, b = (left, right) if rng.random() < 0.5 else (right, left)
    name_a, name_b, name_left = (words.name(box, language) for box in (a, b, left))
    place_a, place_b = (words.place_word(place_of(box), language) for box in (a, b))
    if language == "ko":
        return (
            f"{name_a}[과/와] {name_b} 가운데 어느 것이 더 왼쪽에 있는지 이유와 함께 말해 주세요.",
            f"{name_a}[은/는] {place_a}에 있고 {name_b}[은/는] {place_b}에 있습니다. "
            f"따라서 {name_left}[이/가] 더 왼쪽에 있습니다.",
        )
    return (
        f"Which is further left, the {name_a} or the {name_b}, and how do you know?",
        f"The {name_a} is at the {place_a} and the {name_b} is at the {place_b}. So the {name_left} is further left.",
    )
