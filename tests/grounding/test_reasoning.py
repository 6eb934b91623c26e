"""A reasoned answer is word for word one of those that an independent oracle derives from the boxes."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle
from oracle_words import SHAPES, WORDS, eun, i, with_particle

from vistune.grounding import Scene, reason
from vistune.types import Box


def reasons(boxes: tuple[Box, ...], language: str) -> set[tuple[str, str]]:
    """Return every question and answer that follows from the boxes."""
    korean, oracle = language == "ko", Oracle(boxes, language == "ko")
    count, found = Counter(box.label for box in boxes), set()
    for first, second in permutations(count, 2):
        (ones, one, unit), (others, other, other_unit), a, b = WORDS[first], WORDS[second], count[first], count[second]
        total, left = len(boxes), len(boxes) - a
        if not oracle.drawn:
            found |= seen(first, second, a, b, korean)
        elif korean:
            verdict = "어느 쪽도 더 많지 않고 수가 같습니다" if a == b else f"{i(one if a > b else other)} 더 많습니다"
            found |= {
                (
                    f"{with_particle(one, '과', '와')} {other} 가운데 어느 것이 더 많은지 이유와 함께 말해 주세요.",
                    f"{eun(one)} {a}{unit}이고 {eun(other)} {b}{other_unit}입니다. 따라서 {verdict}.",
                ),
                (
                    f"{with_particle(one, '을', '를')} 모두 없애면 물체는 몇 개 남는지 이유와 함께 말해 주세요.",
                    f"물체는 모두 {total}개이고 그 가운데 {eun(one)} {a}{unit}입니다. 따라서 {left}개가 남습니다.",
                ),
            }
        else:
            verdict = "neither: there are as many of each" if a == b else f"there are more {ones if a > b else others}"
            found |= {
                (
                    f"Are there more {ones} or more {others}, and how do you know?",
                    f"The number of {ones} is {a} and the number of {others} is {b}. So {verdict}.",
                ),
                (
                    f"If all {ones} were taken away, how many objects would be left, and why?",
                    f"The number of objects is {total} and the number of {ones} is {a}. So {left} would be left.",
                ),
            }
    small = [box for box in oracle.known_by_name() if box.area <= 0.25]
    for a, b in permutations(small, 2):
        across = (b.x0 + b.x1) / 2 - (a.x0 + a.x1) / 2
        if abs(across) < 0.2:
            continue
        if not oracle.drawn and int(3 * (a.x0 + a.x1) / 2) == int(3 * (b.x0 + b.x1) / 2):
            continue  # where each lies would be no reason
        one, other, left_one = oracle.name(a), oracle.name(b), oracle.name(a if across > 0 else b)
        here, there = oracle.place(a), oracle.place(b)
        which = "어느 것" if oracle.drawn else "어느 쪽"
        if not korean:
            close = {} if oracle.drawn else {"left": "on", "right": "on", "center": "in"}
            here, there = (f"{close.get(place, 'at')} the {place}" for place in (here, there))
        if korean:
            asked = (
                f"{with_particle(one, '과', '와')} {other} 가운데 {which}이 더 왼쪽에 있는지 이유와 함께 말해 주세요."
            )
            said = f"{eun(one)} {here}에 있고 {eun(other)} {there}에 있습니다. 따라서 {i(left_one)} 더 왼쪽에 있습니다."
        else:
            asked = f"Which is further left, the {one} or the {other}, and how do you know?"
            said = f"The {one} is {here} and the {other} is {there}. So the {left_one} is further left."
        found.add((asked, said))
    return found if oracle.drawn else found | higher(oracle) | larger(oracle)


def higher(oracle: Oracle) -> set[tuple[str, str]]:
    """In photographs: two small objects in different rows, at places whose names include the row."""
    found = set()
    small = [box for box in oracle.known_by_name() if box.area <= 0.25]
    for a, b in permutations(small, 2):
        down = (b.y0 + b.y1) / 2 - (a.y0 + a.y1) / 2
        here, there = oracle.place(a), oracle.place(b)
        rows = [min(int(3 * (box.y0 + box.y1) / 2), 2) for box in (a, b)]
        if abs(down) < 0.2 or rows[0] == rows[1] or {here, there} & {"left", "right", "왼쪽", "오른쪽"}:
            continue
        one, other, upper = oracle.name(a), oracle.name(b), oracle.name(a if down > 0 else b)
        if oracle.korean:
            asked = (
                f"{with_particle(one, '과', '와')} {other} 가운데 어느 쪽이 사진에서 더 위쪽에 있는지 "
                "이유와 함께 말해 주세요."
            )
            said = f"{eun(one)} {here}에 있고 {eun(other)} {there}에 있습니다. 따라서 {i(upper)} 더 위쪽에 있습니다."
        else:
            here, there = (f"{'in' if place == 'center' else 'at'} the {place}" for place in (here, there))
            asked = f"Which is higher in the picture, the {one} or the {other}, and how do you know?"
            said = f"The {one} is {here} and the {other} is {there}. So the {upper} is higher in the picture."
        found.add((asked, said))
    return found


def larger(oracle: Oracle) -> set[tuple[str, str]]:
    """In photographs: two objects, one clearly larger in area and not smaller in width or height."""
    found = set()
    for a, b in permutations(oracle.known_by_name(), 2):
        (wide, high), (wide_b, high_b) = (
            [max(10, 10 * round(10 * side)) for side in (box.x1 - box.x0, box.y1 - box.y0)] for box in (a, b)
        )
        big, little = sorted(((a.area, wide, high), (b.area, wide_b, high_b)), reverse=True)
        if big[0] < 1.8 * little[0] or big[1] < little[1] or big[2] < little[2] or big[1:] == little[1:]:
            continue
        one, other, bigger = oracle.name(a), oracle.name(b), oracle.name(a if a.area > b.area else b)
        if oracle.korean:
            asked = (
                f"{with_particle(one, '과', '와')} {other} 가운데 어느 쪽이 더 크게 보이는지 이유와 함께 말해 주세요."
            )
            said = (
                f"{eun(one)} 가로로 사진의 약 {wide}%, 세로로 약 {high}%를 차지하고 {eun(other)} 가로로 약 {wide_b}%, "
                f"세로로 약 {high_b}%를 차지합니다. 따라서 {i(bigger)} 더 크게 보입니다."
            )
        else:
            asked = f"Which looks larger in the picture, the {one} or the {other}, and how do you know?"
            said = (
                f"The {one} spans about {wide}% of the picture's width and {high}% of its height, "
                f"the {other} about {wide_b}% and {high_b}%. So the {bigger} looks larger."
            )
        found.add((asked, said))
    return found


def seen(first: str, second: str, a: int, b: int, korean: bool) -> set[tuple[str, str]]:
    """In photographs numbers are words, and people are not objects."""
    (ones, one, unit), (others, other, other_unit) = WORDS[first], WORDS[second]
    if korean:
        verdict = "어느 쪽도 더 많지 않고 수가 같습니다" if a == b else f"{i(one if a > b else other)} 더 많습니다"
        said = f"{eun(one)} {KO[a]} {unit}이고 {eun(other)} {KO[b]} {other_unit}입니다. 따라서 {verdict}."
        return {(f"{with_particle(one, '과', '와')} {other} 가운데 어느 쪽이 더 많은지 이유와 함께 말해 주세요.", said)}
    verdict = "neither: there are as many of each" if a == b else f"there are more {ones if a > b else others}"
    single = {label: "a pair of skis" if label == "skis" else f"a {label}" for label in (first, second)}
    things = (
        single[label] if n == 1 else f"{EN[n]} {plural}" for label, n, plural in ((first, a, ones), (second, b, others))
    )
    said = f"There {'is' if a == 1 else 'are'} {' and '.join(things)}. So {verdict}."
    return {(f"Are there more {ones} or more {others}, and how do you know?", said)}


KO = ("", "한", "두", "세", "네", "다섯", "여섯")
EN = ("no", "one", "two", "three", "four", "five", "six")
PLACED = st.tuples(*[st.integers(1, 59)] * 2, *[st.integers(1, 5)] * 2)
COLORS = st.sampled_from([None, "red", "blue"])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Box, ...]:
    labels = draw(st.sampled_from([SHAPES, ("person", "dog", "bus", "traffic light", "robot", "skis")]))
    colors = draw(st.sampled_from([st.just(None), st.sampled_from(["red", "blue"]), COLORS]))
    boxes = []
    for x, y, w, h in draw(st.lists(PLACED, max_size=6)):
        color, label = draw(colors), draw(st.sampled_from(labels))
        boxes.append(Box(label, x / 64, y / 64, (x + w) / 64, (y + h) / 64, {"color": color} if color else {}))
    return tuple(boxes)


@settings(deadline=None, max_examples=150)
@given(scenes(), st.integers(0, 10_000))
def test_every_reasoned_answer_follows_from_the_boxes(boxes: tuple[Box, ...], seed: int) -> None:
    for language in ("en", "ko"):
        turn, possible = reason(Scene(boxes), language, random.Random(seed)), reasons(boxes, language)
        if turn is None:
            assert len({box.label for box in boxes}) < 2, "counts are settled wherever there are two kinds"
        else:
            assert turn in possible, (turn, sorted(possible))


def test_each_form_of_reasoning_is_used() -> None:
    boxes = (Box("circle", 0, 0, 0.2, 0.2, {"color": "red"}), Box("star", 0.8, 0, 1, 0.2, {"color": "blue"}))
    for language, openings in (("en", ("Are there", "If all", "Which is")), ("ko", ("많은지", "없애면", "왼쪽"))):
        asked = [reason(Scene(boxes), language, random.Random(seed)) for seed in range(40)]
        for opening in openings:
            assert any(turn and opening in turn[0] for turn in asked)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (
            (Box("kite", 0.45, 0.05, 0.55, 0.15), Box("dog", 0.45, 0.8, 0.55, 0.9)),
            "So the kite is higher in the picture.",
        ),
        ((Box("bus", 0.1, 0.1, 0.9, 0.9), Box("dog", 0.4, 0.4, 0.55, 0.5)), "So the bus looks larger."),
        (
            (Box("cup", 0.4, 0.4, 0.5, 0.5), Box("dog", 0.45, 0.45, 0.55, 0.55)),
            "So neither: there are as many of each.",
        ),
    ],
)
def test_as_many_of_each_is_only_asked_if_nothing_else_is_decided(found: tuple[Box, ...], wanted: str) -> None:
    for seed in range(20):
        turn = reason(Scene(found), "en", random.Random(seed))
        assert turn is not None
        assert turn[1].endswith(wanted)
