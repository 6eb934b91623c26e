"""Annotated images become the requested samples, and errors in a folder are named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.data import all_samples
from vistune.datagen import GenerationConfig, generate_by_rule, read_coco, splits_of, write_generated
from vistune.errors import DataError, RecipeError
from vistune.recipe import DataSource
from vistune.scenes import write_world
from vistune.types import AnnotatedImage, Box


def coco(folder: Path, split: str = "val2017", name: str = "000000000001.jpg", **box: Any) -> Path:
    (folder / "annotations").mkdir(parents=True)
    (folder / split).mkdir()
    Image.new("RGB", (100, 50)).save(folder / split / name.removeprefix("COCO_val2014_"))
    images = [{"id": 1, "file_name": name, "width": 100, "height": 50}]
    annotation = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 20], "iscrowd": 0, **box}
    trees = {
        "captions": {"images": images, "annotations": [{"id": 1, "image_id": 1, "caption": " A dog. "}]},
        "instances": {"images": images, "annotations": [annotation], "categories": [{"id": 7, "name": "dog"}]},
    }
    for kind, tree in trees.items():
        (folder / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(tree))
    return folder


def test_boxes_become_relative_corners(tmp_path: Path) -> None:
    (image,) = read_coco(coco(tmp_path / "a"))
    assert image.captions == ("A dog.",)
    assert image.boxes == (Box("dog", 0.1, 0.1, 0.3, 0.5),)


def test_names_of_2014_are_found_under_their_2017_names(tmp_path: Path) -> None:
    (image,) = read_coco(coco(tmp_path / "a", "val2014", "COCO_val2014_000000000001.jpg"))
    assert image.path.name == "000000000001.jpg"
    assert image.id == "000000000001"


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not recognised\. Found no files"):
        read_coco(tmp_path)
    good = coco(tmp_path / "good")
    with pytest.raises(DataError, match="no split 'val2071'") as caught:
        read_coco(good, "val2071")
    assert "val2017" in caught.value.hint
    with pytest.raises(DataError, match=r"annotations\[0\]:bbox: expected \[x, y, width, height\]"):
        read_coco(coco(tmp_path / "bad", bbox=[1, 2]))
    (good / "val2017" / "000000000001.jpg").unlink()
    with pytest.raises(DataError, match=r"no image '000000000001\.jpg' in "):
        read_coco(good)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedImage]:
    out = tmp_path_factory.mktemp("world")
    write_world(out, count=79, seed=1, tests=1)
    return read_coco(out, "train")


def test_the_mix_is_dealt_in_proportion(images: list[AnnotatedImage]) -> None:
    made = generate_by_rule(images, GenerationConfig(languages=("en", "ko"), mix=(58, 23, 77)))
    written = Counter(row["kind"] for row in made.rows)
    refused = Counter(reject.id.split("-")[1] for reject in made.rejects)
    dealt = {kind: written[kind] + refused[kind] for kind in ("conversation", "detail", "reasoning")}
    assert dealt == {"conversation": 58, "detail": 23, "reasoning": 77}
    assert written["caption"] == 158


def test_equal_configs_write_equal_bytes(images: list[AnnotatedImage], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_generated(
            tmp_path / name, generate_by_rule(images, GenerationConfig(languages=("en", "ko"), seed=4)), images
        )
    for name in ("samples.json", "messages.jsonl", "rejects.jsonl", "generate.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_both_forms_read_to_the_same_samples(images: list[AnnotatedImage], tmp_path: Path) -> None:
    write_generated(tmp_path, generate_by_rule(images, GenerationConfig(languages=("en", "ko"))), images)
    llava = list(all_samples(DataSource(file=tmp_path / "samples.json")))
    messages = list(all_samples(DataSource(file=tmp_path / "messages.jsonl")))
    assert len(llava) == len(messages) > 500
    for a, b in zip(llava, messages, strict=True):
        assert (a.id, a.kind) == (b.id, b.kind)
        assert [m.text for m in a.messages] == [m.text for m in b.messages]
        assert a.images == b.images


def test_every_caption_is_used_once(tmp_path: Path) -> None:
    image = AnnotatedImage(
        "1", tmp_path / "1.jpg", ("A dog.", "One dog.", "개 한 마리."), (Box("dog", 0, 0, 0.2, 0.2),)
    )
    rows = generate_by_rule([image], GenerationConfig(kinds=("caption",), languages=("en", "ko"))).rows
    assert [row["conversations"][1]["value"] for row in rows] == ["A dog.", "One dog.", "개 한 마리."]
    assert len({row["id"] for row in rows}) == 3


def test_requests_that_cannot_be_written_become_rejects_with_a_reason(tmp_path: Path) -> None:
    bare = AnnotatedImage("1", tmp_path / "1.jpg")
    marked = AnnotatedImage("2", tmp_path / "2.jpg", ("An <image> of a dog.",))
    made = generate_by_rule([bare, marked], GenerationConfig(kinds=("caption", "reasoning")))
    assert made.rows == []
    assert Counter(reject.reason for reject in made.rejects) == {"too_little_known": 3, "special_tokens": 1}


@pytest.mark.parametrize(
    "config",
    [GenerationConfig(kinds=("captoin",)), GenerationConfig(languages=("xx",)), GenerationConfig(mix=(0, 0, 0))],
)
def test_configs_that_make_no_sense_are_refused(images: list[AnnotatedImage], config: GenerationConfig) -> None:
    with pytest.raises(RecipeError):
        generate_by_rule(images, config)


def test_annotated_images_give_all_kinds_in_both_languages(coco_mini: Path) -> None:
    assert splits_of(coco_mini) == ["train2017", "val2017"]
    images = read_coco(coco_mini, "train2017")
    made = generate_by_rule(images, GenerationConfig(languages=("en", "ko")))
    counts = Counter((row["kind"], row["language"]) for row in made.rows)
    assert set(counts) == {(k, la) for k in ("caption", "conversation", "detail", "reasoning") for la in ("en", "ko")}
    assert counts["caption", "en"] > 0.75 * sum(len(image.captions) for image in images)
