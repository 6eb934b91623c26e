"""Sentences about boxes: particles, names, counts, and no question that the boxes leave open."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistune.grounding import QUESTION_TYPES, Scene, ask, caption, description, reason
from vistune.grounding import lexicon as words
from vistune.types import Box

LABELS = ("person", "dog", "traffic light", "bus", "skis")


def box(label: str, x: float = 0.5, y: float = 0.5, half: float = 0.05, **attributes: str) -> Box:
    return Box(label, x - half, y - half, x + half, y + half, attributes)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("원[은/는] 하트[은/는]", "원은 하트는"),
        ("별[이/가] 십자가[이/가]", "별이 십자가가"),
        ("3[을/를] 2[을/를]", "3을 2를"),
        ("tv[과/와] pen[과/와]", "tv와 pen과"),
    ],
)
def test_particles_follow_the_sound_before_them(text: str, wanted: str) -> None:
    assert words.particles(text) == wanted


def test_names_plurals_and_counters() -> None:
    assert words.one("orange star", "star") == "an orange star"
    assert words.counted(2, "person", "en") == "two people"
    assert words.counted(1, "skis", "en") == "a pair of skis"
    assert words.counted(2, "dog", "ko") == "개 두 마리"
    assert words.counted(12, "bus", "en") == "12 buses"
    assert words.noun("something new", "ko") == "something new"


def test_nothing_ambiguous_is_asked() -> None:
    scene = Scene((box("dog", 0.2), box("dog", 0.8)))
    rng = random.Random(0)
    for kind in ("position", "size", "comparison"):
        assert all(ask(scene, kind, "en", rng) is None for _ in range(20))


def test_counts_above_one_are_asked_as_often_as_one() -> None:
    """Otherwise "one" would be the most frequent answer and could be guessed."""
    alone = [box(label, 0.1 + 0.2 * place) for place, label in enumerate(("person", "bus", "skis"))]
    scene = Scene((*alone, box("dog", 0.2, 0.9), box("dog", 0.5, 0.9), box("dog", 0.8, 0.9)))
    rng = random.Random(0)
    answers = [asked.answer for _ in range(400) if (asked := ask(scene, "count", "en", rng)) is not None]
    assert set(answers) == {"1", "3"}
    assert 160 < answers.count("3") < 240


boxes = st.lists(
    st.builds(
        box,
        st.sampled_from(LABELS),
        st.floats(0.1, 0.9),
        st.floats(0.1, 0.9),
        st.floats(0.02, 0.1),
    ),
    max_size=7,
)


@given(boxes, st.sampled_from(["en", "ko"]), st.integers(0, 99))
def test_counts_places_and_existence_hold(found: list[Box], language: str, seed: int) -> None:
    scene, rng = Scene(tuple(found)), random.Random(seed)
    for kind in QUESTION_TYPES:
        asked = ask(scene, kind, language, rng)
        if asked is None:
            continue
        assert asked.question.endswith("?")
        assert asked.sentence.endswith(".")
        assert "{" not in asked.question + asked.sentence
        assert "[" not in asked.question + asked.sentence
        if kind == "count":
            assert int(asked.answer) in set(scene.labels.values()) | {len(found)}
        if kind == "existence":
            named = {label for label in words.objects() if f" {words.noun(label, language)}" in f" {asked.question}"}
            there = any(label in scene.labels for label in named)
            assert asked.answer in ("yes", "no", "네", "아니요")
            if not there:
                assert asked.answer in ("no", "아니요")


@given(boxes, st.sampled_from(["en", "ko"]), st.integers(0, 99))
def test_captions_name_every_kind_of_thing(found: list[Box], language: str, seed: int) -> None:
    scene, rng = Scene(tuple(found)), random.Random(seed)
    texts = [description(scene, language, rng)]
    texts += [caption(scene, language, rng)] if len(scene.labels) <= 4 else []  # a sentence names the four largest
    for text in texts:
        assert text.endswith(".")
        for label, count in scene.labels.items():
            assert words.counted(count, label, language).lower() in text.lower()
    turn = reason(scene, language, rng)
    assert turn is None or all("[" not in text for text in turn)
