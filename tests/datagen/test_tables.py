"""Tables of images: every file form gives the same images, and every wrong cell is one error with its location."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.datagen import TableForm, read_source
from vistune.errors import DataError, RecipeError, VistuneError
from vistune.types import AnnotatedImage, Box

ROWS = [
    {"image": "a.jpg", "captions": ["A dog runs, fast.", "개가 달린다."], "boxes": [["dog", 0.1, 0.1, 0.5, 0.9]]},
    {"image": "sub/b.jpg", "captions": "두 마리의 고양이", "boxes": [{"label": "cat", "box": [0, 0, 0.5, 1]}]},
    {"image": "c.jpg", "captions": [], "boxes": []},
]
WANTED = [
    (
        "a",
        ("A dog runs, fast.", "개가 달린다."),
        (Box("dog", 0.1, 0.1, 0.5, 0.9),),
    ),
    ("b", ("두 마리의 고양이",), (Box("cat", 0, 0, 0.5, 1),)),
    ("c", (), ()),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        Image.new("RGB", (200, 100), "white").save(tmp_path / name)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Return the rows in the form of the suffix; lists in CSV and TSV cells are JSON."""
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        uniform = [
            row | {"captions": [row["captions"]] if isinstance(row["captions"], str) else row["captions"]}
            | {"boxes": [{"label": b[0], "box": b[1:]} if isinstance(b, list) else b for b in row["boxes"]]}
            for row in rows
        ]  # fmt: skip
        parquet.write_table(table.Table.from_pylist(uniform), path)
    else:
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerow(rows[0])
            for row in rows:
                writer.writerow(
                    cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in row.values()
                )
    return path


def known(images: list[AnnotatedImage]) -> list[tuple[Any, ...]]:
    return [(image.id, image.captions, image.boxes) for image in images]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_form_gives_the_same_images(folder: Path, suffix: str) -> None:
    images = read_source(write(folder / f"rows{suffix}", ROWS), form=TableForm()).images
    assert known(images) == WANTED
    assert [image.path for image in images] == [folder / row["image"] for row in ROWS]


def test_columns_with_other_names_and_images_in_another_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("tables") / "flickr.csv"
    elsewhere.write_text(
        'file,text,key,left\na.jpg,"One, two",7,x\na.jpg,Three,7,\na.jpg,Three,7,y\n', encoding="utf-8"
    )
    form = TableForm(columns={"image": "file", "captions": "text", "id": "key"}, images=folder)
    assert known(read_source(elsewhere, form=form).images) == [("7", ("One, two", "Three"), ())]


@pytest.mark.parametrize(
    ("form", "corners"), [("relative", [0.1, 0.2, 0.5, 1]), ("pixels", [20, 20, 100, 100]), ("coco", [20, 20, 80, 80])]
)
def test_boxes_in_three_forms(folder: Path, form: Any, corners: list[float]) -> None:
    row = {"image": "a.jpg", "boxes": [{"label": "dog", "bbox": corners, "attributes": {"color": "black"}}]}
    (image,) = read_source(write(folder / "rows.jsonl", [row]), form=TableForm(boxes=form)).images
    assert image.boxes == (Box("dog", 0.1, 0.2, 0.5, 1.0, {"color": "black"}),)


def test_boxes_in_pixels_need_a_readable_image(folder: Path) -> None:
    (folder / "a.jpg").write_text("<html>not found</html>")
    (folder / "t.jsonl").write_text(json.dumps({"image": "a.jpg", "boxes": [["dog", 0, 0, 10, 10]]}) + "\n")
    with pytest.raises(DataError, match=r"t\.jsonl:1: .*a\.jpg cannot be read as an image"):
        read_source(folder / "t.jsonl", form=TableForm(boxes="pixels"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "A.jpg"}, r"rows\.jsonl:3:image: no image 'A\.jpg' .*did you mean 'a\.jpg'"),
        ({"image": "../a.jpg"}, r"rows\.jsonl:3:image: '\.\./a\.jpg' leaves the image folder"),
        ({"image": "/etc/hostname"}, r"rows\.jsonl:3:image: .* leaves the image folder"),
        ({"image": None}, r"rows\.jsonl:3:image: expected the name of an image"),
        ({"image": {"bytes": "x", "path": "a.jpg"}}, r"rows\.jsonl:3:image: has the image's bytes as text"),
        ({"captions": [3]}, r"rows\.jsonl:3:captions: expected text, got 3"),
        ({"captions": {"en": "x"}}, r"rows\.jsonl:3:captions: expected a text or a list"),
        ({"captions": "\\ud800"}, r"rows\.jsonl:3:captions: the character .* is not text"),
        ({"captions": "[not json"}, r"rows\.jsonl:3:captions:1: not JSON"),
        ({"boxes": [["dog", 0, 0, 1]]}, r"rows\.jsonl:3:boxes\[0\]: not a box"),
        ({"boxes": [["dog", 0, 0, 80, 60]]}, r"rows\.jsonl:3:boxes\[0\]: .*relative.*--boxes-as"),
        ({"boxes": [["dog", 0.9, 0, 0.1, 1]]}, r"rows\.jsonl:3:boxes\[0\]: .*is not a box"),
        ({"boxes": [["dog", 0, 0, 1, True]]}, r"rows\.jsonl:3:boxes\[0\]: expected a number"),
        ({"boxes": [["dog", 0, 0, 1, 1]] * 2 + [[]]}, r"rows\.jsonl:3:boxes\[2\]: not a box"),
        ({"id": 1.5}, r"rows\.jsonl:3:id: expected text or a whole number"),
    ],
)
def test_a_wrong_cell_is_named(folder: Path, change: dict[str, Any], said: str) -> None:
    good = {"image": "a.jpg", "captions": "A dog.", "boxes": [], "id": 1}
    written = json.dumps(good | {"image": "c.jpg"}), "", json.dumps(good | change).replace("\\\\ud800", "\\ud800")
    (folder / "rows.jsonl").write_text("\n".join(written), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_source(folder / "rows.jsonl", form=TableForm())


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("image,caption\na.jpg,x,y\n", "t.csv", r"t\.csv:2: 3 cells in 2 columns"),
        ('image,caption\na.jpg,"x\ny"\nc.jpg,"x"y\n', "t.csv", r"t\.csv:4: not CSV"),
        ("image,image\na.jpg,x\n", "t.csv", r"t\.csv:1: the column 'image' occurs twice"),
        ("file,caption\n", "t.csv", "has no rows"),
        ("", "t.jsonl", "is empty"),
        ("{}", "t.json", "no column of images"),
        ("[1]", "t.json", "a row must be an object"),
        ("nothing", "t.parquet", "cannot be read as parquet"),
        (
            '{"image": "a.jpg", "id": 1}\n{"image": "a.jpg", "id": 2}',
            "t.jsonl",
            r"t\.jsonl:2:id: an earlier row gives a\.jpg the id '1'",
        ),
        ('{"image": "a.jpg", "id": 1}\n{"image": "c.jpg", "id": "1"}', "t.jsonl", "share the id '1'"),
    ],
)
def test_a_wrong_table_is_named(folder: Path, content: str, name: str, said: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(VistuneError, match=said):
        read_source(folder / name, form=TableForm())


def test_an_unknown_column_lists_the_existing_ones(folder: Path) -> None:
    table = write(folder / "rows.jsonl", [{"picture": "a.jpg", "captions": "x"}])
    with pytest.raises(RecipeError, match=r"no column of images.*--columns image=.*picture, captions"):
        read_source(table, form=TableForm())
    with pytest.raises(RecipeError, match=r"no column 'pictures'.*did you mean 'picture'"):
        read_source(table, form=TableForm(columns={"image": "pictures"}))
    with pytest.raises(RecipeError, match=r"--columns images=picture.*did you mean 'image'"):
        TableForm(columns={"images": "picture"})


def test_a_table_becomes_samples_that_check_accepts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two images with the same name in two folders are kept apart."""
    out = tmp_path_factory.mktemp("made")
    Image.new("RGB", (200, 100), "black").save(folder / "sub" / "a.jpg")
    rows = [
        {"id": "one", "image": "a.jpg", "captions": "A dog.", "boxes": [["dog", 0.1, 0.1, 0.5, 0.9]]},
        {"id": "two", "image": "sub/a.jpg", "captions": "A cat.", "boxes": [["cat", 0.1, 0.1, 0.5, 0.9]]},
    ]
    table = write(folder / "rows.jsonl", rows)
    done = CliRunner().invoke(app, ["generate", str(table), "--out", str(out / "data"), "--language", "en,ko"])
    assert done.exit_code == 0, done.output
    samples = json.loads((out / "data" / "samples.json").read_text(encoding="utf-8"))
    assert {(row["id"].split("-")[0], row["image"]) for row in samples} == {("one", "a.jpg"), ("two", "sub/a.jpg")}
    checked = CliRunner().invoke(app, ["check", str(out / "data"), "--json"])
    assert checked.exit_code == 0, checked.output


def test_images_without_annotations_need_a_teacher_that_sees(folder: Path) -> None:
    assert [image.id for image in read_source(folder).images] == ["a", "c", "b"]
    arguments = ["generate", str(folder), "--out", str(folder / "out")]
    assert "--see" in str(CliRunner().invoke(app, arguments).exception)
    asked = [*arguments, "--teacher", "openai", "--model", "m", "--see", "--dry-run", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["requests"] == 12


def test_captions_may_be_in_text_files_next_to_the_images(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("A dog runs.\n\n개가  달린다.\nA dog runs.\n", encoding="utf-8")
    first, second, _ = read_source(folder).images
    assert first.captions == ("A dog runs.", "개가 달린다.")
    assert second.captions == ()
    result = CliRunner().invoke(app, ["generate", str(folder), "--kinds", "caption", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "1 sample, 2 rejected (2 too_little_known" in " ".join(result.output.split())
    (folder / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"a\.txt"):
        read_source(folder)
