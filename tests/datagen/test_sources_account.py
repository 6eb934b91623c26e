"""Nothing of a source is dropped in silence: each image file is used or counted, each field is read or named."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_folders import coco, draw, write
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.data import all_samples
from vistune.datagen import AnnotatedSource, read_source
from vistune.errors import DataError
from vistune.recipe import DataSource
from vistune.types import ImageRef

SETTINGS = settings(max_examples=40, deadline=None)
SUFFIXES = (".jpg", ".JPG", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".TIFF")
folders = st.sampled_from(["", "a/", "a/b/", "train/", "val/", "images/", "사진/"])
images = st.lists(
    st.tuples(folders, st.sampled_from("pqr"), st.sampled_from(SUFFIXES)), min_size=1, max_size=12, unique=True
)


def read_first_split(root: Path) -> AnnotatedSource:
    """The source, or the split of it that the error names as an example."""
    try:
        return read_source(root)
    except DataError as error:
        if "has the splits" not in error.message:
            raise
        example = re.search(r"--split (\w+)", error.hint)
    assert example is not None
    return read_source(root, example[1])


@SETTINGS
@given(images, st.sets(st.integers(0, 11)), st.sampled_from(["coco", "table", "beside", "yolo"]))
def test_every_image_file_is_used_or_counted(names: list[tuple[str, str, str]], described: set[int], form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        files = [*("".join(name) for name in names), "last.jpg"]
        draw(root, *files)
        draw(root, ".hidden/x.jpg", "__MACOSX/y.jpg", "a/.z.jpg")
        chosen = [name for k, name in enumerate(files) if k in described or name == "last.jpg"]
        if form == "coco":
            write(root / "all.json", coco(*chosen))
        elif form == "table":
            write(root / "all.csv", "image,caption\n" + "".join(f"{name},A dog.\n" for name in chosen))
        else:
            write(root / "classes.txt", "dog\n")
            for name in chosen:
                text = "A dog.\n" if form == "beside" else "0 0.5 0.5 0.1 0.1\n"
                write((root / name).with_suffix(".txt"), text)
        source = read_first_split(root)
        assert len(source.images) + sum(source.skipped.values()) == len(files)
        assert len({image.id for image in source.images}) == len(source.images)
        assert len({image.path for image in source.images}) == len(source.images)


names = st.text("abcxyz가_", min_size=3, max_size=8).map(lambda name: f"zz_{name}")
values = st.one_of(
    st.text("abc", min_size=1, max_size=3), st.integers(1, 9), st.just(True), st.just([1]), st.just({"k": 1})
)
# Each place of a COCO tree that holds fields, and how its unread fields are called.
PLACES = {"images[].": "images", "annotations[].": "annotations", "categories[].": "categories", "": ""}


@SETTINGS
@given(names, values, st.sampled_from(sorted(PLACES)), st.integers(1, 3))
def test_an_unknown_field_of_coco_is_named_with_its_count(name: str, value: Any, place: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = draw(Path(folder), "a.jpg", "b.jpg", "c.jpg")
        tree = coco("a.jpg", "b.jpg", "c.jpg")
        rows = [tree] if not place else tree[PLACES[place]][:count]
        for row in rows:
            row[name] = value
        source = read_source(write(root / "x.json", tree))
        [unread] = source.unread
        assert (unread.file, unread.field, unread.count) == (str(root / "x.json"), f"{place}{name}", len(rows))


@SETTINGS
@given(names, st.sampled_from([".jsonl", ".json", ".csv", ".tsv"]), st.integers(0, 2))
def test_an_unknown_column_of_a_table_is_named_with_its_count(name: str, suffix: str, place: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = draw(Path(folder), "a.jpg", "b.jpg")
        rows = []
        for image in ("a.jpg", "b.jpg"):
            cells = [("image", image), ("caption", "A dog.")]
            rows.append(dict([*cells[:place], (name, "x"), *cells[place:]]))
        separator = "\t" if suffix == ".tsv" else ","
        content = {
            ".json": json.dumps(rows),
            ".jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        }.get(suffix) or "".join(separator.join(cells) + "\n" for cells in [list(rows[0]), *(r.values() for r in rows)])
        source = read_source(write(root / f"x{suffix}", content))
        [unread] = source.unread
        assert (unread.field, unread.count) == (name, 2)


@pytest.mark.parametrize("key", ["label", "box"])
def test_an_unknown_field_of_a_box_is_named(tmp_path: Path, key: str) -> None:
    box = {"label": "dog", "box": [0, 0, 1, 1], "attributes": {"color": "red", "age": 3}, f"{key}_score": 0.5}
    row = json.dumps({"image": "a.jpg", "boxes": [box]})
    source = read_source(write(draw(tmp_path, "a.jpg") / "x.jsonl", row))
    assert [field.field for field in source.unread] == ["attributes.age", f"boxes[].{key}_score"]


def test_formats_that_are_not_read_are_counted_with_what_to_do(tmp_path: Path) -> None:
    draw(tmp_path, "a.jfif", "b.JPE", "c.bmp", "d.tif", "e.TIF", "f.JPG")
    for name in "abcdef":
        write(tmp_path / f"{name}.txt", "A dog.\n")
    source = read_source(tmp_path)
    assert [image.path.name for image in source.images] == ["a.jfif", "b.JPE", "f.JPG"]
    assert source.skipped == {".tif (convert to PNG or JPEG)": 2, ".bmp (convert to PNG or JPEG)": 1}


def test_a_named_image_of_another_format_is_counted_unless_its_content_is_readable(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg", "b.bmp", "c.tif")
    (tmp_path / "a.jpg").rename(tmp_path / "a.bmp")
    source = read_source(write(tmp_path / "x.csv", "image,caption\na.bmp,A\nb.bmp,B\nc.tif,C\n"))
    assert [image.path.name for image in source.images] == ["a.bmp"]
    assert source.skipped == {".bmp (convert to PNG or JPEG)": 1, ".tif (convert to PNG or JPEG)": 1}


def test_a_link_out_of_the_folder_is_counted(tmp_path: Path) -> None:
    draw(tmp_path, "elsewhere/a.jpg", "here/b.jpg")
    (tmp_path / "here/a.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "here/loop").symlink_to(tmp_path / "here")
    write(tmp_path / "here/b.txt", "A dog.")
    source = read_source(tmp_path / "here")
    assert [image.path.name for image in source.images] == ["b.jpg"]
    assert source.skipped == {"that are links to files outside the folder (copy the images into it)": 1}


def generate(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


def test_generate_prints_the_account_and_its_json_has_it(tmp_path: Path) -> None:
    draw(tmp_path, "photos/a.jpg", "photos/b.jpg", "photos/c.tif")
    write(tmp_path / "photos/all.csv", "image,caption,score,captoin\na.jpg,A dog.,3,x\n")
    write(tmp_path / "photos/extra.xml", "<x/>")
    done = generate(tmp_path / "photos", "--out", tmp_path / "out", "--kinds", "caption")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "2 images skipped: 1 .tif (convert to PNG or JPEG), 1 no caption or box" in text
    assert 'field "captoin" is not read: 1 record (did you mean `caption`?)' in text
    assert "extra.xml is not read" in text
    done = generate(tmp_path / "photos", "--out", tmp_path / "out2", "--kinds", "caption", "--json")
    report = json.loads(done.stdout)
    assert report["skipped_images"] == {".tif (convert to PNG or JPEG)": 1, "no caption or box": 1}
    assert {field["field"]: (field["count"], field["near"]) for field in report["unread_fields"]} == {
        "captoin": (1, "caption"), "score": (1, "")}  # fmt: skip
    assert report["notes"] == {"extra.xml is not read": 1}


def test_an_unused_image_is_not_trained_on_in_place_of_one_of_its_name(tmp_path: Path) -> None:
    """`v1/f.jpg` has no caption, `v2/f.jpg` has: the data names the latter, whatever folder comes first."""
    draw(tmp_path, "v1/f.jpg", "v1/a.jpg", "v2/f.jpg")
    write(tmp_path / "all.csv", "image,caption\nv1/a.jpg,One.\nv2/f.jpg,Two.\n")
    done = generate(tmp_path, "--out", tmp_path / "out", "--kinds", "caption")
    assert done.exit_code == 0, done.output
    shown = {
        message.text: part.source
        for sample in all_samples(DataSource(file=tmp_path / "out/samples.json"))
        for part in sample.images
        for message in sample.messages
        if message.role == "assistant" and isinstance(part, ImageRef)
    }
    assert {said: Path(str(path)).resolve() for said, path in shown.items()} == {
        "One.": tmp_path / "v1/a.jpg", "Two.": tmp_path / "v2/f.jpg"}  # fmt: skip


def test_a_folder_that_generate_wrote_is_not_a_source(tmp_path: Path) -> None:
    write(draw(tmp_path, "a.jpg") / "a.txt", "A dog.")
    assert generate(tmp_path, "--out", tmp_path / "data", "--kinds", "caption").exit_code == 0
    assert read_source(tmp_path).kind == "images"


@pytest.mark.parametrize(
    ("caption", "language", "code", "words"),
    [
        (
            "A meadow.",
            "ko",
            2,
            "captions are English, there are no boxes, and the rule teacher does not translate into ko",
        ),
        ("들판 풍경.", "en", 2, "captions are Korean, there are no boxes"),
        ("A dog.", "en,ko", 0, ""),
        ("개 한 마리.", "ko", 0, ""),
    ],
)
def test_captions_in_another_language_are_said_before_anything_is_rejected(
    tmp_path: Path, caption: str, language: str, code: int, words: str
) -> None:
    write(draw(tmp_path, "a.jpg") / "a.txt", caption)
    done = generate(tmp_path, "--out", tmp_path / "out", "--language", language)
    if code:
        assert getattr(done.exception, "exit_code", None) == code
        assert words in str(done.exception)
        assert "--teacher openai" in str(done.exception)
        assert not (tmp_path / "out").exists()
    else:
        assert done.exit_code == 0, done.output


def test_boxes_are_sentences_in_korean_whatever_the_captions_are(tmp_path: Path) -> None:
    tree = coco("a.jpg")
    tree["annotations"].append({"id": 9, "image_id": 1, "caption": "A dog."})
    write(draw(tmp_path, "a.jpg") / "x.json", tree)
    done = generate(tmp_path, "--out", tmp_path / "out", "--language", "ko")
    assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "out/samples.json").read_text(encoding="utf-8"))) > 0


def test_images_inside_a_table_are_kept_with_the_data(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    content = (draw(tmp_path, "a.jpg") / "a.jpg").read_bytes()
    parquet.write_table(
        arrow.Table.from_pylist([{"image": {"bytes": content}, "caption": "A dog."}]), tmp_path / "x.parquet"
    )
    done = generate(tmp_path / "x.parquet", "--out", tmp_path / "out", "--kinds", "caption")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/images.json").read_text())["folders"] == ["images"]
    checked = CliRunner().invoke(app, ["check", str(tmp_path / "out"), "--json"])
    assert checked.exit_code == 0, checked.output


def test_images_whose_names_do_not_say_so_are_counted(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg", "p.jpg_large", "noext", "sub/b.dat")
    write(tmp_path / "a.txt", "A dog.\n")
    write(tmp_path / "notes.md", "no image\n")
    source = read_source(tmp_path)
    assert [image.path.name for image in source.images] == ["a.jpg"]
    assert source.skipped == {"without an image suffix (rename them to .jpg or .png)": 3}


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_a_box_without_area_is_read_and_named(tmp_path: Path, form: str) -> None:
    draw(tmp_path, "a.jpg")
    if form == "coco":
        write(tmp_path / "all.json", coco("a.jpg", bbox=[10, 10, 0, 5]))
    else:
        write(tmp_path / "classes.txt", "dog\n")
        write(tmp_path / "a.txt", "0 0.5 0.5 0 0.2\n")
    source = read_source(tmp_path)
    [image] = source.images
    assert [box.label for box in image.boxes] == ["dog"]
    assert source.notes == {"boxes without width or height, which still count as objects": 1}
