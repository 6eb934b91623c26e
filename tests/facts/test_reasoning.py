"""A reasoned answer is one of those that an oracle derives from the boxes, word for word."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

from facts.oracle import SHAPES, WORDS, Oracle, eun, i, with_particle
from hypothesis import given, settings
from hypothesis import strategies as st

from vistune.facts import Scene, reason
from vistune.types import Box


def reasons(boxes: tuple[Box, ...], language: str) -> set[tuple[str, str]]:
    """Every question and answer that the boxes bear out."""
    korean, oracle = language == "ko", Oracle(boxes, language == "ko")
    count, found = Counter(box.label for box in boxes), set()
    for first, second in permutations(count, 2):
        (ones, one, unit), (others, other, other_unit), a, b = WORDS[first], WORDS[second], count[first], count[second]
        total, left = len(boxes), len(boxes) - a
        if korean:
            verdict = "수가 같습니다" if a == b else f"{i(one if a > b else other)} 더 많습니다"
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
            verdict = "there are as many of each" if a == b else f"there are more {ones if a > b else others}"
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
    small = [box for box in oracle.known_by_name() if box.area <= 0.2]
    for a, b in permutations(small, 2):
        across = (b.x0 + b.x1) / 2 - (a.x0 + a.x1) / 2
        if abs(across) < 0.2:
            continue
        one, other, left_one = oracle.name(a), oracle.name(b), oracle.name(a if across > 0 else b)
        here, there = oracle.place(a), oracle.place(b)
        if korean:
            asked = (
                f"{with_particle(one, '과', '와')} {other} 가운데 어느 것이 더 왼쪽에 있는지 이유와 함께 말해 주세요."
            )
            said = f"{eun(one)} {here}에 있고 {eun(other)} {there}에 있습니다. 따라서 {i(left_one)} 더 왼쪽에 있습니다."
        else:
            asked = f"Which is further left, the {one} or the {other}, and how do you know?"
            said = f"The {one} is at the {here} and the {other} is at the {there}. So the {left_one} is further left."
        found.add((asked, said))
    return found


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
def test_every_reasoned_turn_is_borne_out_by_the_boxes(boxes: tuple[Box, ...], seed: int) -> None:
    for language in ("en", "ko"):
        turn, possible = reason(Scene(boxes), language, random.Random(seed)), reasons(boxes, language)
        if turn is None:
            assert len({box.label for box in boxes}) < 2, "counts are settled wherever there are two kinds"
        else:
            assert turn in possible, (turn, sorted(possible))


def test_each_form_of_reasoning_comes_up() -> None:
    boxes = (Box("circle", 0, 0, 0.2, 0.2, {"color": "red"}), Box("star", 0.8, 0, 1, 0.2, {"color": "blue"}))
    for language, openings in (("en", ("Are there", "If all", "Which is")), ("ko", ("많은지", "없애면", "왼쪽"))):
        asked = [reason(Scene(boxes), language, random.Random(seed)) for seed in range(40)]
        for opening in openings:
            assert any(turn and opening in turn[0] for turn in asked)
