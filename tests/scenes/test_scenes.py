"""The drawn world: equal seeds give equal bytes, splits share no scene, boxes fit their shapes, answers are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistune.datagen import read_coco
from vistune.files import read_jsonl
from vistune.scenes import COLORS, HELD_OUT, SPLITS, make_scene, render, scenes_of, write_world
from vistune.types import AnnotatedImage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    write_world(out, count=60, seed=3, tests=60)
    return out


def test_the_same_seed_draws_the_same_bytes(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path, count=60, seed=3, tests=60)
    files = sorted(path.relative_to(world) for path in world.rglob("*") if path.is_file())
    assert len(files) == 180 + 6 + 2
    assert all((world / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)


def test_splits_share_no_scene_and_only_combinations_show_held_out_pairs() -> None:
    drawn = {split: list(scenes_of(split, 200, 0)) for split in SPLITS}
    things = {split: {scene.things for scene in scenes} for split, scenes in drawn.items()}
    assert not things["train"] & (things["heldout"] | things["combinations"])
    for split, scenes in drawn.items():
        for scene in scenes:
            shown = [(thing.color, thing.shape) in HELD_OUT for thing in scene.things]
            assert any(shown) == (split == "combinations")


def test_boxes_contain_their_shapes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        scene = make_scene(rng)
        pixels = render(scene).astype(int)
        for thing, box in zip(scene.things, scene.boxes(), strict=True):
            assert 0 <= box.x0 < box.x1 <= 1
            assert 0 <= box.y0 < box.y1 <= 1
            center = pixels[thing.y - 1 : thing.y + 2, thing.x - 1 : thing.x + 2].mean(axis=(0, 1))
            assert np.abs(center - np.array(COLORS[thing.color])).max() < 40


def test_it_is_coco(world: Path) -> None:
    for split in SPLITS:
        instances = json.loads((world / "annotations" / f"instances_{split}.json").read_text())
        sizes = {image["id"]: (image["width"], image["height"]) for image in instances["images"]}
        ids = [row["id"] for row in instances["annotations"]]
        assert len(set(ids)) == len(ids)
        for row in instances["annotations"]:
            x, y, width, height = row["bbox"]
            assert 0 <= x < x + width <= sizes[row["image_id"]][0]
            assert 0 <= y < y + height <= sizes[row["image_id"]][1]
        for image in instances["images"]:
            with Image.open(world / split / image["file_name"]) as opened:
                assert opened.size == sizes[image["id"]]
        assert len(read_coco(world, split)) == 60


KO = {"red": "빨간색", "orange": "주황색", "yellow": "노란색", "green": "초록색", "blue": "파란색", "purple": "보라색"}
KO_SHAPES = {"circle": "원", "square": "사각형", "triangle": "삼각형", "star": "별", "cross": "십자가", "heart": "하트"}
KO_PLACES = ["왼쪽 위", "위쪽", "오른쪽 위", "왼쪽", "가운데", "오른쪽", "왼쪽 아래", "아래쪽", "오른쪽 아래"]
EN_PLACES = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]


def possible(image: AnnotatedImage, kind: str, korean: bool) -> set[str]:
    """Return every answer that a question of the kind can have about an image, from an independent oracle."""
    boxes = image.boxes
    colors = {KO[b.attributes["color"]] if korean else b.attributes["color"] for b in boxes}
    shapes = {KO_SHAPES[b.label] if korean else b.label for b in boxes}
    places = KO_PLACES if korean else EN_PLACES
    yes_no = {"네", "아니요"} if korean else {"yes", "no"}
    names = {
        f"{KO[b.attributes['color']]} {KO_SHAPES[b.label]}" if korean else f"{b.attributes['color']} {b.label}"
        for b in boxes
    }
    sizes = {
        ("큽니다" if korean else "large") if b.attributes["size"] == "large" else ("작습니다" if korean else "small")
        for b in boxes
    }
    numbers = {str(n) for n in range(len(boxes) + 1)}
    held = {places[int(b.center[1] * 3) * 3 + int(b.center[0] * 3)] for b in boxes}
    return {
        "colour": colors,
        "shape": shapes,
        "existence": yes_no,
        "count": numbers,
        "position": held,
        "size": sizes,
        "comparison": yes_no | names,
        "removal": numbers,
    }[kind]


def test_questions_have_answers_that_the_boxes_give(world: Path) -> None:
    asked = [row for _, row in read_jsonl(world / "questions_heldout.jsonl")]
    images = {image.path.name: image for image in read_coco(world, "heldout")}
    assert {row["type"] for row in asked} == {
        "colour",
        "shape",
        "existence",
        "count",
        "position",
        "size",
        "comparison",
        "removal",
    }
    assert {row["language"] for row in asked} == {"en", "ko"}
    for row in asked:
        assert row["answer"] in possible(images[row["image"]], row["type"], row["language"] == "ko"), row


def test_english_questions_are_answered_by_an_oracle(world: Path) -> None:
    """Counts, existence and positions are derived again from the words of the question."""
    images = {image.path.name: image for image in read_coco(world, "heldout")}
    proved = 0
    for _, row in read_jsonl(world / "questions_heldout.jsonl"):
        if row["language"] != "en":
            continue
        words = row["text"].split("\n")[0].rstrip("?").split()
        boxes = images[row["image"]].boxes
        color = next((word for word in words if word in COLORS), None)
        shape = next((s for s in KO_SHAPES for word in words if word in (s, f"{s}s", f"{s}es")), None)
        chosen = [b for b in boxes if color in (None, b.attributes["color"]) and shape in (None, b.label)]
        if row["type"] == "count":
            assert row["answer"] == str(len(chosen)), row
        elif row["type"] == "existence":
            assert row["answer"] == ("yes" if chosen else "no"), row
        elif row["type"] == "removal":
            assert row["answer"] == str(len(boxes) - len(chosen)), row
        elif row["type"] == "position":
            (box,) = chosen
            assert row["answer"] == EN_PLACES[int(box.center[1] * 3) * 3 + int(box.center[0] * 3)], row
        elif row["type"] == "size":
            (box,) = chosen
            assert row["answer"] == box.attributes["size"], row
        else:
            continue
        proved += 1
    assert proved > 80
