"""Any mistake in a COCO folder is one error with the file, the record and what to do; nothing is dropped silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.datagen import read_coco, splits_of
from vistune.errors import DataError
from vistune.types import Box

Tree = dict[str, Any]
NAME = "000000000001.jpg"


def folder(
    path: Path, change: Callable[[Tree, Tree], None] = lambda captions, instances: None, *, split: str = "val2017"
) -> Path:
    """One image of 100 x 50 pixels with a caption and a dog in it, changed by `change(captions, instances)`."""
    (path / "annotations").mkdir(parents=True)
    (path / split).mkdir()
    Image.new("RGB", (100, 50)).save(path / split / NAME)

    def images() -> list[Tree]:
        return [{"id": 1, "file_name": NAME, "width": 100, "height": 50}]

    captions: Tree = {"images": images(), "annotations": [{"id": 1, "image_id": 1, "caption": "A dog."}]}
    dog = {"id": 5, "image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 20], "iscrowd": 0}
    instances: Tree = {"images": images(), "annotations": [dog], "categories": [{"id": 7, "name": "dog"}]}
    change(captions, instances)
    for kind, tree in (("captions", captions), ("instances", instances)):
        (path / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(tree), encoding="utf-8")
    return path


def with_box(*bbox: Any) -> Callable[[Tree, Tree], None]:
    return lambda captions, instances: instances["annotations"][0].update(bbox=list(bbox))


def dog(**changes: Any) -> Callable[[Tree, Tree], None]:
    return lambda captions, instances: instances["annotations"][0].update(changes)


def said(**changes: Any) -> Callable[[Tree, Tree], None]:
    return lambda captions, instances: captions["annotations"][0].update(changes)


def image(**changes: Any) -> Callable[[Tree, Tree], None]:
    return lambda captions, instances: [tree["images"][0].update(changes) for tree in (captions, instances)]  # type: ignore[func-returns-value]


BOX = r"instances_val2017\.json:annotations\[0\]:bbox: "
FOUR = BOX + r"expected \[x, y, width, height\], got"
ANNOTATION = r"instances_val2017\.json:annotations\[0\]"
CAPTION = r"captions_val2017\.json:annotations\[0\]"
IMAGE = r"captions_val2017\.json:images\[0\]"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_box(1, 2, 3), FOUR),
        (with_box(1, 2, 3, 4, 5), FOUR),
        (with_box("a", 2, 3, 4), FOUR),
        (with_box(None, 2, 3, 4), FOUR),
        (with_box(True, 2, 3, 4), FOUR),
        (with_box(1e999, 2, 3, 4), "Infinity is not JSON"),
        (with_box(10, 5, -5, 5), BOX + "a box of negative size"),
        (with_box(200, 5, 10, 10), BOX + r".*not within the image's 100 x 50 pixels"),
        (with_box(10, -20, 10, 10), BOX + r".*not within"),
        (dog(bbox=None), FOUR),
        (dog(bbox="abcd"), FOUR),
        (dog(bbox={"x": 1, "y": 2, "w": 3, "h": 4}), FOUR),
        (dog(category_id=9), ANNOTATION + ":category_id: no category has the id 9"),
        (dog(image_id=9), ANNOTATION + ":image_id: no image has the id 9"),
        (dog(attributes=["red"]), ANNOTATION + ":attributes: expected attributes by name"),
        (lambda captions, instances: instances["annotations"].insert(0, "x"), ANNOTATION + ": expected an object"),
        (lambda captions, instances: instances["annotations"][0].pop("bbox"), FOUR + " None"),
        (lambda captions, instances: instances.pop("categories"), "category_id: no category has the id 7"),
        (lambda captions, instances: instances.update(categories=[{"id": 7}]), r"categories\[0\]:name: expected text"),
        (lambda captions, instances: instances.update(images=5), r"instances_val2017\.json:images: .*a list"),
        (lambda captions, instances: captions.pop("annotations"), r"captions_val2017\.json:annotations: .*a list"),
        (image(width="100"), BOX + "not a box"),
        (image(file_name=5), IMAGE + ":file_name: expected text, got 5"),
        (image(id=1.5), IMAGE + ":id: expected a number or text"),
        (image(id=None), IMAGE + ":id: expected a number or text"),
        (image(file_name="../../etc/passwd"), IMAGE + r":file_name: .* leaves the image folder"),
        (image(file_name="/etc/passwd"), IMAGE + r":file_name: .* leaves the image folder"),
        (lambda captions, instances: captions["images"].insert(0, {}), IMAGE + ":id"),
        (lambda captions, instances: captions["images"].insert(0, "x"), IMAGE + ": expected an object"),
        (said(caption=["A dog."]), CAPTION + ":caption: expected text"),
        (said(image_id=77), CAPTION + ":image_id: no image has the id 77"),
        (said(caption="half a \ud83d face"), CAPTION + ":caption: the character .* is not text"),
        (lambda captions, instances: captions["annotations"][0].pop("caption"), CAPTION + ": neither a `caption` nor"),
        (image(file_name="gone.jpg"), IMAGE + r":file_name: no image 'gone\.jpg' in .*val2017"),
    ],
)
def test_every_mistake_is_named_with_its_location(
    tmp_path: Path, change: Callable[[Tree, Tree], None], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_coco(folder(tmp_path / "coco", change))
    assert caught.value.hint


def test_a_number_too_large_for_a_float_is_no_box(tmp_path: Path) -> None:
    path = folder(tmp_path / "coco", with_box("HUGE", 2, 3, 4)) / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"HUGE"', "1e999"))
    with pytest.raises(DataError, match=BOX):
        read_coco(tmp_path / "coco")


@pytest.mark.parametrize(
    ("bbox", "corners"),
    [
        ((0, 0, 100, 50), (0, 0, 1, 1)),
        ((90, 40, 10.5, 10.2), (0.9, 0.8, 1, 1)),  # COCO's boxes overstep the border by a rounding
        ((-0.4, 0, 10.4, 5), (0, 0, 0.1, 0.1)),
        ((20, 10, 5, 0), (0.2, 0.2, 0.25, 0.2)),  # and some have no height
    ],
)
def test_boxes_as_coco_has_them_are_read(tmp_path: Path, bbox: tuple[float, ...], corners: tuple[float, ...]) -> None:
    (image,) = read_coco(folder(tmp_path / "coco", with_box(*bbox)))
    (box,) = image.boxes
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(corners)


def test_attributes_are_kept_and_crowds_have_no_box(tmp_path: Path) -> None:
    def change(captions: Tree, instances: Tree) -> None:
        instances["annotations"][0]["attributes"] = {"color": "red", "size": "small"}
        instances["annotations"].append({**instances["annotations"][0], "id": 6, "iscrowd": 1})

    (image,) = read_coco(folder(tmp_path / "coco", change))
    assert image.boxes == (Box("dog", 0.1, 0.1, 0.3, 0.5, {"color": "red", "size": "small"}),)


@pytest.mark.parametrize("on_disk", ["COCO_val2014_000000000001.jpg", NAME])
@pytest.mark.parametrize("named", ["COCO_val2014_000000000001.jpg", NAME])
def test_either_years_name_is_found_under_either(tmp_path: Path, on_disk: str, named: str) -> None:
    path = folder(tmp_path / "coco", image(file_name=named), split="val2014")
    (path / "val2014" / NAME).rename(path / "val2014" / on_disk)
    (read,) = read_coco(path)
    assert read.id == "000000000001"
    assert read.path == path / "val2014" / on_disk


@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_one_of_the_two_files_is_enough(tmp_path: Path, kind: str) -> None:
    path = folder(tmp_path / "coco")
    (path / "annotations" / f"{kind}_val2017.json").unlink()
    (image,) = read_coco(path)
    assert (len(image.captions), len(image.boxes)) == ((0, 1) if kind == "captions" else (1, 0))


def test_images_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    def change(captions: Tree, instances: Tree) -> None:
        for number in (30, 4, 200):
            captions["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 8, "height": 8})

    path = folder(tmp_path / "coco", change)
    for number in (30, 4, 200):
        Image.new("RGB", (8, 8)).save(path / "val2017" / f"{number}.jpg")
    assert [image.id for image in read_coco(path)] == ["000000000001", "4", "30", "200"]


def test_a_split_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = folder(tmp_path / "coco")
    for kind in ("captions", "instances"):
        text = (path / "annotations" / f"{kind}_val2017.json").read_text()
        (path / "annotations" / f"{kind}_train2017.json").write_text(text)
    (path / "annotations" / "person_keypoints_val2017.json").write_text("{}")
    assert splits_of(path) == ["train2017", "val2017"]
    with pytest.raises(DataError, match="has the splits train2017, val2017") as caught:
        read_coco(path)
    assert "--split val2017" in caught.value.hint
    with pytest.raises(DataError, match="no split 'val2071'") as caught:
        read_coco(path, "val2071")
    assert "did you mean 'val2017'" in caught.value.hint
    with pytest.raises(DataError, match=r"no image '000000000001\.jpg' in "):
        read_coco(path, "train2017")


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = folder(tmp_path / "coco")
    (path / "annotations" / "captions_val2017.json").write_text('{\n"images": [,\n')
    with pytest.raises(DataError, match=r"captions_val2017\.json:2: not JSON"):
        read_coco(path)
    with pytest.raises(DataError, match="absent: no such file or folder"):
        read_coco(tmp_path / "absent")
