"""An independent oracle answers every question of the drawn test splits again from the COCO boxes on disk."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from oracle import settled

from vistune.files import read_jsonl
from vistune.scenes import COLORS, HELD_OUT, SIDE, SPLITS, make_scene, render, scenes_of, write_world
from vistune.types import Box

SCENES = 150  # in each of the two test splits
CUES = {"en": "Answer the question using a single word or phrase.", "ko": "한 단어나 구로 답하세요."}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    assert write_world(out, count=30, seed=11, tests=SCENES).counts == {
        "train": 30,
        "heldout": SCENES,
        "combinations": SCENES,
    }
    return out


def instances(world: Path, split: str) -> dict[str, list[Box]]:
    """Return boxes by file name, read without `read_coco`."""
    tree = json.loads((world / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
    labels = {category["id"]: category["name"] for category in tree["categories"]}
    found: dict[int, list[Box]] = {image["id"]: [] for image in tree["images"]}
    for row in tree["annotations"]:
        x, y, w, h = (number / SIDE for number in row["bbox"])
        found[row["image_id"]].append(Box(labels[row["category_id"]], x, y, x + w, y + h, row["attributes"]))
    return {image["file_name"]: found[image["id"]] for image in tree["images"]}


@pytest.mark.parametrize("split", ["heldout", "combinations"])
def test_every_question_is_decided_by_the_boxes_and_answered_correctly(world: Path, split: str) -> None:
    scenes = instances(world, split)
    tables = {(name, language): settled(scenes[name], language) for name in scenes for language in ("en", "ko")}
    asked = Counter()
    for _, row in read_jsonl(world / f"questions_{split}.jsonl"):
        question, cue = row["text"].split("\n")
        assert cue == CUES[row["language"]]
        table = tables[row["image"], row["language"]]
        assert table.get(question) == (row["type"], row["answer"]), row
        asked[row["type"], row["language"]] += 1
    # Every type in both languages, and none so rare that its accuracy would say nothing.
    assert len(asked) == 16
    assert min(asked.values()) > SCENES // 4
    assert not (world / "questions_train.jsonl").exists()


@pytest.mark.parametrize("kind", ["existence", "comparison"])
def test_yes_and_no_are_equally_likely(world: Path, kind: str) -> None:
    """Otherwise a model could answer "yes" without looking."""
    rows = [row for split in SPLITS[1:] for _, row in read_jsonl(world / f"questions_{split}.jsonl")]
    said = Counter(row["answer"] in ("yes", "네") for row in rows if row["type"] == kind and row["answer"] in
                   ("yes", "no", "네", "아니요"))  # fmt: skip
    assert 0.4 < said[True] / said.total() < 0.6


def test_ids_are_unique_and_captions_are_in_both_languages(world: Path) -> None:
    for split in SPLITS:
        for kind in ("captions", "instances"):
            tree = json.loads((world / "annotations" / f"{kind}_{split}.json").read_text(encoding="utf-8"))
            images = {image["id"] for image in tree["images"]}
            assert len(images) == len(tree["images"]) == len({image["file_name"] for image in tree["images"]})
            assert len({row["id"] for row in tree["annotations"]}) == len(tree["annotations"])
            assert {row["image_id"] for row in tree["annotations"]} == images
        categories = [category["name"] for category in tree["categories"]]
        assert {row["category_id"] for row in tree["annotations"]} <= {c["id"] for c in tree["categories"]}
        assert len(set(categories)) == len(categories) == 6
        assert all(row["area"] == row["bbox"][2] * row["bbox"][3] > 0 for row in tree["annotations"])
        assert all(row["iscrowd"] == 0 for row in tree["annotations"])
        captions = json.loads((world / "annotations" / f"captions_{split}.json").read_text(encoding="utf-8"))
        spoken = Counter((row["image_id"], row["language"]) for row in captions["annotations"])
        assert spoken == Counter((shown_image, language) for shown_image in images for language in ("en", "ko"))
    ids = [row["question_id"] for split in SPLITS[1:] for _, row in read_jsonl(world / f"questions_{split}.jsonl")]
    assert len(set(ids)) == len(ids)


def test_a_box_contains_its_shape_and_nothing_else() -> None:
    """Coloured pixels, which differ from the grey background in saturation, begin and end with the box."""
    rng = np.random.default_rng(7)
    for _ in range(80):
        scene = make_scene(rng)
        pixels = render(scene).astype(int)
        vivid = pixels.max(axis=2) - pixels.min(axis=2) > 75
        outside = np.ones_like(vivid)
        for thing in scene.things:
            x, y, r = thing.x, thing.y, thing.radius
            outside[y - r - 1 : y + r + 1, x - r - 1 : x + r + 1] = False
            near = np.abs(pixels - np.array(COLORS[thing.color])).max(axis=2) < 50
            inside = (vivid | near)[y - r : y + r, x - r : x + r]
            rows, columns = np.flatnonzero(inside.sum(1) >= 2), np.flatnonzero(inside.sum(0) >= 2)
            assert 0.15 < inside.mean() < 0.95
            # A square spans 1.56 radii, its soft edge not counted.
            for line in (rows, columns):
                assert line[-1] - line[0] + 1 >= 1.2 * r
        assert not vivid[outside].any()


def test_held_out_pairs_never_slip_into_training() -> None:
    """In many scenes, also in those whose few colours and shapes allow only held-out pairs."""
    pairs = Counter((thing.color, thing.shape) for scene in scenes_of("train", 3000, 2) for thing in scene.things)
    assert len(pairs) == 36 - len(HELD_OUT)
    assert not set(pairs) & set(HELD_OUT)
    shown = Counter(
        (thing.color, thing.shape)
        for scene in scenes_of("combinations", 400, 2)
        for thing in scene.things
        if (thing.color, thing.shape) in HELD_OUT
    )
    assert set(shown) == set(HELD_OUT)
    assert shown.total() == 400


def test_seeds_and_splits_draw_different_scenes() -> None:
    drawn = [
        frozenset(scene.things for scene in scenes_of(split, 100, seed) if len(scene.things) > 1)
        for split in SPLITS
        for seed in (0, 1)
    ]
    assert len(frozenset.union(*drawn)) == sum(len(scenes) for scenes in drawn)


def test_a_longer_split_begins_with_the_shorter() -> None:
    assert list(scenes_of("train", 50, 3))[:20] == list(scenes_of("train", 20, 3))
