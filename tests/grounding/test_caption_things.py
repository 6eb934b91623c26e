"""Things that captions name: asked for where captions agree, denied only where no caption leaves them open."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from vistune.grounding.annotated import scene_of
from vistune.grounding.balance import choose, fit_balance
from vistune.grounding.caption_things import caption_things, named_things, possible_things
from vistune.grounding.lexicon import entry_of, objects
from vistune.grounding.questions import ask
from vistune.grounding.scene import Scene
from vistune.types import AnnotatedImage, Box

LAKE = ("A man fishes in a lake.", "A man stands in the water.", "An old guy by the lake.")
SLOPE = ("A woman skis down a mountain.", "A lady in the snow.", "A skier.")


def scene(*captions: str, boxes: tuple[Box, ...] = ()) -> Scene:
    return scene_of(AnnotatedImage("1", Path("1.jpg"), captions, boxes), "en")


@pytest.mark.parametrize(
    ("captions", "named", "open_"),
    [
        (LAKE, {"man", "lake"}, {"man", "water", "lake", "river", "beach", "swimming pool"}),
        (SLOPE, {"woman"}, {"woman", "mountain", "snow", "water", "man", "boy", "girl", "rock"}),
        (("해변에서 소녀가 논다.", "소녀와 바다.", "소녀는 웃는다."), {"girl"}, {"girl", "beach", "woman"}),
        (("A mango on snowshoes.",) * 3, set(), set()),
        (("A man by a lake.",) * 2, set(), {"man", "lake"}),
    ],
)
def test_two_captions_name_a_thing_and_one_leaves_it_open(
    captions: tuple[str, ...], named: set[str], open_: set[str]
) -> None:
    assert set(named_things(captions)) == named
    assert open_ <= possible_things(captions)
    assert {"tent", "guitar"}.isdisjoint(possible_things(captions))


def test_a_man_may_be_denied_where_only_a_girl_is_named() -> None:
    things = tuple(caption_things())
    girl = scene("A girl in a tent.", "A girl sits.", "A girl.")
    absent = replace(girl, others=(*things, "dog", "person")).absent
    assert {"man", "boy", "snow", "dog"} <= set(absent)
    assert {"girl", "woman", "tent", "person"}.isdisjoint(absent)


def test_few_captions_deny_no_thing() -> None:
    absent = replace(scene("A girl.", "A girl sits."), others=(*caption_things(), "dog")).absent
    assert absent == ("dog",)


def test_an_image_with_boxes_is_asked_about_labels_with_boxes_only() -> None:
    captioned = [(str(number), scene(*LAKE)) for number in range(30)]
    boxed = [(f"b{number}", scene(boxes=(Box("dog", 0, 0, 0.3, 0.3),))) for number in range(30)]
    cats = [(f"c{number}", scene(boxes=(Box("cat", 0, 0, 0.3, 0.3),))) for number in range(30)]
    balance = fit_balance([*captioned, *boxed, *cats], 8)
    asked = {
        label
        for seed, each in (*boxed, *cats)
        for kind, content in choose(each, balance, random.Random(seed), 8)
        for label in content.labels
    }
    assert asked == {"dog", "cat"}


def test_a_label_that_is_a_thing_too_is_denied_by_boxes() -> None:
    flower, tree = scene(boxes=(Box("flower", 0, 0, 0.3, 0.3),)), scene(boxes=(Box("tree", 0, 0, 0.3, 0.3),))
    assert replace(tree, others=("flower", "tree")).absent == ("flower",)
    assert replace(flower, others=("flower", "tree")).absent == ("tree",)
    assert "flower" not in tree.absent  # by default only the objects of the lexicon are denied


def test_one_conversation_asks_about_people_once() -> None:
    both = scene(*("A man and a woman in a street.",) * 3)
    others = [(str(number), both) for number in range(40)] + [(f"s{number}", scene(*SLOPE)) for number in range(40)]
    balance = fit_balance(others, 8)
    people = {"man", "woman", "boy", "girl", "person"}
    for seed, each in others:
        asked = [content.names[0] for _, content in choose(each, balance, random.Random(seed), 8)]
        assert len(people.intersection(asked)) <= 1, asked


@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_mass_noun_has_no_article(language: str) -> None:
    water = replace(scene(*("The water.",) * 3), others=("water",))
    items = [ask(water, "existence", language, random.Random(seed)) for seed in range(30)]
    assert {item.question for item in items if item} <= {
        "Is there water in the picture?",
        "Can you see water?",
        "Does the picture show water?",
        "물이 있나요?",
        "물이 보이나요?",
        "사진에 물이 있나요?",
    }
    wanted = {"Yes, there is water.", "Yes, I can see water.", "네, 물이 있습니다.", "네, 물이 보입니다."}
    assert {item.sentence for item in items if item} <= wanted


def test_every_thing_has_words_in_both_languages() -> None:
    for label in caption_things():
        assert label in objects()
        assert entry_of(label).words["ko"].name, label
