"""Preference pairs from boxes: one side is true, the other is false, and the texts do not show which is which."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from vistune.grounding import Scene
from vistune.grounding.guessing import AnswerPair, measure_pair_guessing
from vistune.grounding.pairs import (
    ASPECTS,
    PAIRS_PER_IMAGE,
    Claim,
    MatchedPair,
    are_opposite,
    contradiction,
    match_pairs,
    true_answers,
    word_pair,
)
from vistune.scenes import scenes_of
from vistune.types import Box

DOG, CAR = Box("dog", 0.1, 0.5, 0.3, 0.8), Box("car", 0.7, 0.5, 0.9, 0.8)
ROOMS = (
    Scene((DOG, CAR)),
    Scene((replace(DOG, x0=0.7, x1=0.9), replace(CAR, x0=0.1, x1=0.3))),
    Scene((Box("cat", 0.1, 0.1, 0.3, 0.3), Box("bus", 0.1, 0.4, 0.9, 0.9))),
    Scene((DOG, replace(DOG, x0=0.5, x1=0.7), Box("cat", 0.7, 0.7, 0.9, 0.9))),
)  # fmt: skip


def drawings(count: int) -> list[tuple[str, Scene]]:
    return [(f"0/{k}", Scene(drawn.boxes())) for k, drawn in enumerate(scenes_of("train", count, 0))]


@cache
def matched(count: int = 300) -> list[tuple[Scene, list[MatchedPair]]]:
    scenes = drawings(count)
    return list(zip((scene for _, scene in scenes), match_pairs(scenes), strict=True))


def test_drawings_get_pairs_of_every_aspect() -> None:
    aspects = Counter(pair.claim.aspect for _, pairs in matched() for pair in pairs)
    assert set(aspects) == set(ASPECTS)
    assert max(len(pairs) for _, pairs in matched()) <= PAIRS_PER_IMAGE
    assert sum(len(pairs) for _, pairs in matched()) > 3 * len(matched())


def test_the_boxes_support_the_chosen_answer_and_not_the_rejected_one() -> None:
    for scene, pairs in matched():
        for pair in pairs:
            claim = pair.claim
            assert contradiction(scene, claim) == ""
            swapped = replace(claim, chosen=claim.rejected, rejected=claim.chosen)
            assert contradiction(scene, swapped).startswith("swapped: the boxes support the rejected answer")


def test_photographs_get_pairs_of_present_and_absent_objects() -> None:
    scenes = [(f"{k}", scene) for k, scene in enumerate(ROOMS)]
    pairs = [(scene, pair) for scene, listed in zip(ROOMS, match_pairs(scenes), strict=True) for pair in listed]
    assert {pair.claim.aspect for _, pair in pairs} >= {"existence", "count", "relation"}
    assert all(contradiction(scene, pair.claim) == "" for scene, pair in pairs)


def test_every_answer_is_chosen_as_often_as_it_is_rejected() -> None:
    chosen, rejected = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for _, pairs in matched():
        for pair in pairs:
            chosen[pair.claim.form, pair.claim.chosen] += 1
            rejected[pair.claim.form, pair.claim.rejected] += 1
    for key in chosen:
        if key[0] not in ("larger", "more"):  # whose answers are words of the question
            assert chosen[key] == rejected[key], key


@pytest.mark.parametrize("language", ["en", "ko"])
def test_both_sides_are_worded_alike_and_cannot_be_guessed(language: str) -> None:
    pairs = []
    for k, (scene, listed) in enumerate(matched()):
        rng = random.Random(k)
        for pair in listed:
            chosen, rejected = word_pair(pair, language, rng)
            assert chosen.question == rejected.question
            assert chosen.sentence != rejected.sentence
            assert chosen.sentence in true_answers(scene, pair.claim, language)
            assert rejected.sentence not in true_answers(scene, pair.claim, language)
            pairs.append(AnswerPair(f"{k}.png", chosen.question, chosen.sentence, rejected.sentence))
    [result] = measure_pair_guessing(pairs)
    assert (result.type, result.language) == ("preference", language)
    assert result.guessed < 0.6
    assert not result.is_guessable


def test_pairs_that_their_texts_give_away_are_found() -> None:
    def pairs(chosen: str, rejected: str) -> list[AnswerPair]:
        rng = random.Random(0)
        return [
            AnswerPair(f"{k}.png", "What is it?", chosen.format(word), rejected.format(word))
            for k in range(200)
            for word in rng.sample(["A cat", "A dog", "A bus", "A cup"], 2)
        ]

    longer = measure_pair_guessing(pairs("{} that sits there.", "{}."))
    by_word = measure_pair_guessing(pairs("{} in a room.", "{} in a toaster."))
    assert all(result.guessed > 0.9 and result.is_guessable for result in (*longer, *by_word))


def test_the_order_of_the_images_makes_no_difference() -> None:
    scenes = drawings(60)
    assert match_pairs(scenes) == match_pairs(scenes[::-1])[::-1]


@pytest.mark.parametrize(
    ("place", "other", "opposite"),
    [
        ("left", "right", True),
        ("top left", "bottom", True),
        ("top left", "top right", True),
        ("center", "top left", True),
        ("center", "left", False),
        ("left", "top", False),
        ("left", "top left", False),
    ],
)
def test_a_false_place_is_on_the_opposite_side(place: str, other: str, opposite: bool) -> None:
    assert are_opposite(place, other) is are_opposite(other, place) is opposite


@pytest.mark.parametrize(
    ("claim", "problem"),
    [
        (Claim("count", "count_seen", ("dog",), "1", "2"), ""),
        (Claim("count", "count_seen", ("dog",), "2", "1"), "swapped: the boxes support the rejected answer '1'"),
        (Claim("count", "count_seen", ("dog",), "3", "2"), "the boxes say '1', not '3' (count_seen of dog)"),
        (Claim("existence", "existence_seen", ("cat",), "no", "yes"), ""),
        (Claim("relation", "left_of", ("dog", "car"), "no", "yes"), "swapped"),
        (Claim("relation", "left_of", ("dog", "cat"), "no", "yes"), "the boxes do not decide left_of of dog, cat"),
        (Claim("count", "tally", ("dog",), "1", "2"), "unknown form 'tally'"),
    ],
)
def test_a_claim_is_compared_with_the_boxes(claim: Claim, problem: str) -> None:
    found = contradiction(ROOMS[0], claim)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)
