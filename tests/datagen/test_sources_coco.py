"""COCO and what is in its form, in the layout of each tool: images are found, splits are told apart."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from source_folders import assert_dogs, coco, draw, write

from vistune.datagen import read_source
from vistune.errors import DataError, RecipeError
from vistune.scenes import write_world

# What a tool writes: (the annotation file, its images as on the disk, the names in the file).
LAYOUTS = {
    "CVAT and Datumaro": ("annotations/instances_default.json", "images/default/{}", "{}"),
    "COCO": ("annotations/instances_val2017.json", "val2017/{}", "{}"),
    "COCO below images": ("annotations/instances_val2017.json", "images/val2017/{}", "{}"),
    "COCO, split first": ("annotations/instances_val2017.json", "val2017/images/{}", "{}"),
    "Roboflow": ("train/_annotations.coco.json", "train/{}", "{}"),
    "Label Studio": ("result.json", "images/{}", "images\\{}"),
    "FiftyOne": ("labels.json", "data/{}", "{}"),
    "beside": ("coco.json", "{}", "{}"),
    "in a folder of another name": ("mine.json", "photos/2024/{}", "2024/{}"),
    "of the annotator's machine": ("export.json", "pics/{}", "C:\\Users\\kim\\pics\\{}"),
    "absolute, of another system": ("export.json", "pics/{}", "/Users/kim/pics/{}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tools_layout_is_read(tmp_path: Path, layout: str) -> None:
    file, disk, named = LAYOUTS[layout]
    files = [disk.format(name) for name in ("a.jpg", "b.jpg")]
    draw(tmp_path, *files)
    write(tmp_path / file, coco(*(named.format(name) for name in ("a.jpg", "b.jpg"))))
    source = read_source(tmp_path)
    assert_dogs(source.images, *(tmp_path / name for name in files))
    assert source.kind == "COCO"
    assert [image.id for image in source.images] == ["a", "b"]
    assert (source.skipped, source.unread) == ({}, [])


def test_roboflows_splits_are_chosen_by_name(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        draw(tmp_path, f"{split}/{split}.jpg", f"{split}/same.jpg")
        write(tmp_path / split / "_annotations.coco.json", coco(f"{split}.jpg", "same.jpg"))
    for split, folder in (("train", "train"), ("valid", "valid"), ("val", "valid"), ("test", "test")):
        source = read_source(tmp_path, split)
        assert_dogs(source.images, tmp_path / folder / f"{folder}.jpg", tmp_path / folder / "same.jpg")
        assert source.skipped == {"in another split": 4}
        assert source.notes == {}
    with pytest.raises(DataError, match="has the splits test, train, valid") as caught:
        read_source(tmp_path)
    assert "--split valid" in caught.value.hint
    assert len(read_source(tmp_path / "train").images) == 2, "a split's own folder"


def test_an_image_of_another_split_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    draw(tmp_path, "train/a.jpg", "valid/b.jpg")
    write(tmp_path / "train/_annotations.coco.json", coco("a.jpg", "b.jpg"))
    write(tmp_path / "valid/_annotations.coco.json", coco("b.jpg"))
    with pytest.raises(
        DataError, match=r"/_annotations\.coco\.json:images\[1\]:file_name: no image 'b\.jpg' in .*train"
    ):
        read_source(tmp_path, "train")


def test_a_file_is_a_source_by_itself(tmp_path: Path) -> None:
    draw(tmp_path, "val2017/a.jpg", "elsewhere/c.jpg")
    write(tmp_path / "annotations/instances_val2017.json", coco("a.jpg"))
    assert_dogs(read_source(tmp_path / "annotations/instances_val2017.json").images, tmp_path / "val2017/a.jpg")
    assert_dogs(read_source(tmp_path / "annotations").images, tmp_path / "val2017/a.jpg")
    write(tmp_path / "one.json", coco("elsewhere/c.jpg"))
    assert_dogs(read_source(tmp_path / "one.json").images, tmp_path / "elsewhere/c.jpg")
    with pytest.raises(RecipeError, match=r"one\.json is a single file, which has no splits"):
        read_source(tmp_path / "one.json", "train")


def test_two_images_of_one_name_have_different_ids_and_others_keep_theirs(tmp_path: Path) -> None:
    draw(tmp_path, "v1/f.jpg", "v2/f.jpg", "v2/g.jpg")
    write(tmp_path / "annotations.json", coco("v1/f.jpg", "v2/f.jpg", "v2/g.jpg"))
    assert [image.id for image in read_source(tmp_path).images] == ["v1/f", "v2/f", "g"]
    draw(tmp_path, "v2/f.png")
    write(tmp_path / "annotations.json", coco("v1/f.jpg", "v2/f.jpg", "v2/f.png"))
    assert [image.id for image in read_source(tmp_path).images] == ["v1/f", "v2/f.jpg", "v2/f.png"]


@pytest.mark.parametrize("ids", [(1, 1.0), ("a-1", "a-1"), ("1", 1), (1.0, "1")])
def test_ids_may_be_numbers_or_text(tmp_path: Path, ids: tuple[Any, Any]) -> None:
    tree = coco("a.jpg")
    tree["images"][0]["id"], tree["annotations"][0]["image_id"] = ids
    tree["categories"][0]["id"], tree["annotations"][0]["category_id"] = ids
    write(draw(tmp_path, "a.jpg") / "x.json", tree)
    assert_dogs(read_source(tmp_path).images, tmp_path / "a.jpg")


@pytest.mark.parametrize("size", [{}, {"width": None, "height": None}, {"width": 0, "height": 0}])
def test_a_missing_size_is_read_from_the_image(tmp_path: Path, size: dict[str, Any]) -> None:
    tree = coco("a.jpg")
    tree["images"][0] = {"id": 1, "file_name": "a.jpg", **size}
    write(draw(tmp_path, "a.jpg") / "x.json", tree)
    assert_dogs(read_source(tmp_path).images, tmp_path / "a.jpg")


def test_a_polygon_without_a_box_is_a_box_and_a_mask_is_counted(tmp_path: Path) -> None:
    polygon = {"bbox": [], "segmentation": [[20, 10, 100, 10, 100, 60], [30, 20, 40, 30, 50, 50]]}
    write(draw(tmp_path, "a.jpg") / "x.json", coco("a.jpg", **polygon))
    assert_dogs(read_source(tmp_path).images, tmp_path / "a.jpg")
    write(tmp_path / "x.json", coco("a.jpg", bbox=None, segmentation={"counts": "abc", "size": [100, 200]}))
    source = read_source(tmp_path)
    assert source.images[0].boxes == ()
    assert source.notes == {"annotations with a mask (RLE) and no bbox": 1}


@pytest.mark.parametrize("mask", [[[1, 2, 3, 4, 5, 6], 7], [7, [1, 2]], [None], ["x"], [[]], [[1, 2, 3]]])
def test_a_segmentation_that_is_no_list_of_polygons_is_refused(tmp_path: Path, mask: list[Any]) -> None:
    write(draw(tmp_path, "a.jpg") / "x.json", coco("a.jpg", bbox=None, segmentation=mask))
    with pytest.raises(DataError, match=r"/x\.json:annotations\[0\]:segmentation: ") as caught:
        read_source(tmp_path)
    assert caught.value.hint


def test_two_names_of_one_category_are_refused(tmp_path: Path) -> None:
    tree = coco("a.jpg")
    tree["categories"] += [{"id": 7, "name": "dog"}, {"id": 7.0, "name": "cat"}]
    write(draw(tmp_path, "a.jpg") / "x.json", tree)
    with pytest.raises(DataError, match=r"/x\.json:categories\[2\]:id: 7 is the id of 'dog' and of 'cat'"):
        read_source(tmp_path)
    del tree["categories"][2]
    write(tmp_path / "x.json", tree)
    assert_dogs(read_source(tmp_path).images, tmp_path / "a.jpg")


def test_captions_may_be_with_the_boxes_and_null_ones_are_none(tmp_path: Path) -> None:
    tree = coco("a.jpg")
    tree["annotations"] += [{"id": k, "image_id": 1, "caption": said} for k, said in enumerate(["A dog.", "nan", None])]
    tree["annotations"][0]["caption"] = "One dog."
    write(draw(tmp_path, "a.jpg") / "x.json", tree)
    source = read_source(tmp_path)
    assert_dogs(source.images, tmp_path / "a.jpg")
    assert source.images[0].captions == ("One dog.", "A dog.")
    assert source.notes == {"x.json: captions that are empty, nan, None or null": 2}


def test_attributes_that_are_words_are_kept_and_check_boxes_are_named(tmp_path: Path) -> None:
    attributes = {"color": "red", "occluded": False, "rotation": 0.0, "muddy": "true", "left": None}
    write(draw(tmp_path, "a.jpg") / "x.json", coco("a.jpg", attributes=attributes))
    source = read_source(tmp_path)
    assert source.images[0].boxes[0].attributes == {"color": "red"}
    assert [(field.field, field.count) for field in source.unread] == [
        ("annotations[].attributes.muddy", 1),
        ("annotations[].attributes.occluded", 1),
        ("annotations[].attributes.rotation", 1),
    ]


def test_other_annotation_files_are_named_as_not_read(tmp_path: Path) -> None:
    draw(tmp_path, "val2017/a.jpg")
    for split in ("val2017", "train2017"):
        write(tmp_path / f"annotations/instances_{split}.json", coco("a.jpg"))
        write(tmp_path / f"annotations/person_keypoints_{split}.json", coco("a.jpg"))
    source = read_source(tmp_path, "val2017")
    assert source.notes == {"annotations/person_keypoints_val2017.json is not read": 1}


def test_missing_images_are_counted_and_the_first_is_located(tmp_path: Path) -> None:
    draw(tmp_path, "val2017/a.jpg")
    write(tmp_path / "annotations/instances_val2017.json", coco("a.jpg", *(f"gone{k}.jpg" for k in range(9))))
    words = r"json:images\[1\]:file_name: no image 'gone0\.jpg' in .*; 8 more images are missing: 'gone1\.jpg'.* and 4"
    with pytest.raises(DataError, match=words):
        read_source(tmp_path)


@pytest.mark.parametrize(("disk", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_korean_names_are_found_in_either_unicode_form(tmp_path: Path, disk: str, named: str) -> None:
    file = unicodedata.normalize(disk, "사진/강아지.jpg")  # type: ignore[arg-type]
    draw(tmp_path, file)
    for number, name in enumerate(("사진/강아지.jpg", "강아지.jpg", "C:\\내 사진\\강아지.jpg")):
        folder = tmp_path / f"annotations{number}.json"
        write(folder, coco(unicodedata.normalize(named, name)))  # type: ignore[arg-type]
        [image] = read_source(tmp_path).images
        assert image.path == tmp_path / file
        folder.unlink()


def test_a_name_that_may_be_two_files_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, "v1/f.jpg", "v2/f.jpg")
    write(tmp_path / "x.json", coco("f.jpg"))
    with pytest.raises(DataError, match=r"'f\.jpg' may be v1/f\.jpg or v2/f\.jpg"):
        read_source(tmp_path)


def test_a_crowd_is_a_label_without_a_box(tmp_path: Path) -> None:
    write(draw(tmp_path, "a.jpg") / "x.json", coco("a.jpg", iscrowd=1))
    [image] = read_source(tmp_path).images
    assert (image.boxes, image.crowds) == ((), ("dog",))


@pytest.mark.parametrize("split", ["train", "heldout", "combinations"])
def test_a_folder_of_scenes_is_read_without_warnings(tmp_path: Path, split: str) -> None:
    write_world(tmp_path, count=3, seed=0, tests=2)
    source = read_source(tmp_path, split)
    assert len(source.images) == (3 if split == "train" else 2)
    assert source.skipped == {"in another split": 4 if split == "train" else 5}
    assert (source.notes, source.unread) == ({}, [])


def test_the_language_of_a_caption_is_unread_in_other_files(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg")
    tree = coco("a.jpg")
    tree["annotations"][0]["language"] = "en"
    write(tmp_path / "coco.json", tree)
    assert [field.field for field in read_source(tmp_path).unread] == ["annotations[].language"]
