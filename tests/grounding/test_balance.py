"""Questions about photographs: the answers of a whole data set are balanced, whatever the order of its images."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from vistune.datagen import GenerationConfig, generate_by_rule
from vistune.grounding.balance import choose, fit_balance
from vistune.grounding.guessing import conversations_of, measure_guessing
from vistune.grounding.scene import Scene
from vistune.types import AnnotatedImage, Box

KITCHEN, STREET = ("oven", "sink", "bowl", "cup", "spoon"), ("car", "bus", "truck", "bicycle", "dog")


def photographs(count: int, seed: int = 0) -> list[AnnotatedImage]:
    """Kitchens and streets: labels occur together, most of them once, the first ones more often."""
    rng, images = random.Random(seed), []
    for number in range(count):
        room = rng.choice((KITCHEN, STREET))
        boxes = []
        for rank, label in enumerate(room):
            if rng.random() < 0.8 / (rank + 1) + 0.1:
                for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
                    x, y = rng.uniform(0, 0.8), rng.uniform(0, 0.8)
                    size = rng.choice((0.05, 0.1, 0.2))
                    boxes.append(Box(label, x, y, x + size, y + size))
        if boxes:
            images.append(AnnotatedImage(f"p{number}", Path(f"p{number}.jpg"), (), tuple(boxes)))
    return images


CONVERSATIONS = GenerationConfig(kinds=("conversation",), languages=("en", "ko"))


@pytest.fixture(scope="module")
def chosen() -> list[tuple[Scene, list]]:
    scenes = [(image.id, Scene(image.boxes)) for image in photographs(1200)]
    balance = fit_balance(scenes, 8)
    return [(scene, choose(scene, balance, random.Random(name), 8)) for name, scene in scenes]


def test_every_label_is_there_as_often_as_it_is_not(chosen: list[tuple[Scene, list]]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for scene, items in chosen:
        for kind, content in items:
            if kind == "existence":
                [label] = content.names
                assert (content.answer == "yes") == (label in scene.labels)
                answers[label][content.answer] += 1
    assert set(answers) == {*KITCHEN, *STREET}
    for label, counts in answers.items():
        assert abs(counts["yes"] - counts["no"]) < 3 * counts.total() ** 0.5, (label, counts)


def test_labels_of_the_same_room_are_denied_too(chosen: list[tuple[Scene, list]]) -> None:
    same = Counter(
        bool({*scene.labels} & {*KITCHEN}) == (content.names[0] in KITCHEN)
        for scene, items in chosen
        for kind, content in items
        if kind == "existence" and content.answer == "no"
    )
    assert same[True] > 0.25 * same.total()
    assert same[False] > 0.1 * same.total()


def test_counts_choices_and_relations_are_balanced(chosen: list[tuple[Scene, list]]) -> None:
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    for _, items in chosen:
        for _, content in items:
            forms[content.form][content.answer] += 1
    for form in ("larger_seen", "left_of", "above_seen", "more_seen"):
        low, high = sorted(forms[form].values())
        assert high - low < 3 * (high + low) ** 0.5, (form, forms[form])
    counts = forms["count_seen"]
    assert len(counts) >= 3
    assert max(counts.values()) / counts.total() < 1 / len(counts) + 0.12


def test_each_aspect_of_an_object_is_asked_once_and_numbers_come_first(chosen: list[tuple[Scene, list]]) -> None:
    for _, items in chosen:
        numbers = [content for kind, content in items if kind in ("existence", "count", "removal")]
        asked = [label for content in numbers for label in content.names]
        assert len(asked) == len(set(asked))
        places = [index for index, (_, content) in enumerate(items) if content.form in ("position_seen", "left_of")]
        last = max((index for index, item in enumerate(items) if item[0] == "existence"), default=-1)
        assert all(index > last for index in places)


def test_the_rows_do_not_depend_on_the_order_of_the_images() -> None:
    images = photographs(60)
    mixed = random.Random(1).sample(images, len(images))
    rows, others = (
        {row["id"]: row for row in generate_by_rule(order, CONVERSATIONS).rows} for order in (images, mixed)
    )
    assert rows == others
    assert rows


def test_a_label_that_every_image_shows_is_not_asked_for() -> None:
    images = [AnnotatedImage(str(n), Path(f"{n}.jpg"), (), (Box("deer", 0, 0, 0.2, 0.2),)) for n in range(30)]
    rows = generate_by_rule(images, CONVERSATIONS).rows
    assert not any("Is there" in turn["value"] for row in rows for turn in row["conversations"])


@pytest.mark.parametrize("count", [1500, 3000])
def test_a_guesser_without_the_image_guesses_no_better_than_uniformly(count: int) -> None:
    results = measure_guessing(conversations_of(generate_by_rule(photographs(count), CONVERSATIONS).rows))
    assert {(result.type, result.language) for result in results} >= {
        (kind, language) for kind in ("is_there", "more_than", "how_many", "which") for language in ("en", "ko")
    }
    for result in results:
        margin = 0.05 if result.uniform_guess == 0.5 else 0.15
        assert result.guessed < result.uniform_guess + margin, result
        assert not result.is_guessable


def test_the_second_label_of_a_rare_pair_does_not_give_the_answer_away() -> None:
    """Vehicles mostly come alone and animals in groups; nearly every pair of labels is asked only once."""
    numbers = {
        **dict.fromkeys(["car", "bus", "truck", "bicycle", "boat", "train", "motorcycle", "umbrella"], (1, 1, 2)),
        **dict.fromkeys(["cup", "fork", "spoon", "bowl", "bottle", "knife", "banana", "apple"], (1, 2, 3)),
        **dict.fromkeys(["sheep", "cow", "horse", "bird", "dog", "cat", "zebra", "elephant"], (2, 3, 3)),
    }
    rng, scenes = random.Random(0), []
    for image in range(400):
        labels = [label for label in rng.sample(sorted(numbers), 3) for _ in range(rng.choice(numbers[label]))]
        corners = [(rng.uniform(0, 0.8), rng.uniform(0, 0.8)) for _ in labels]
        boxes = (Box(label, x, y, x + 0.1, y + 0.1) for label, (x, y) in zip(labels, corners, strict=True))
        scenes.append((f"{image}", Scene(tuple(boxes))))
    balance = fit_balance(scenes, 8)
    likely = {(1, 1, 2): "yes", (2, 3, 3): "no"}  # the answer if the second label is of this group
    guessed = Counter[bool]()
    for draw in range(10):
        for name, scene in scenes:
            for _, content in choose(scene, replace(balance, draw=draw), random.Random(name), 100):
                if content.form == "more_seen" and (answer := likely.get(numbers[content.names[1]])):
                    guessed[answer == content.answer] += 1
    assert guessed.total() > 150
    assert guessed[True] < 0.55 * guessed.total(), guessed
