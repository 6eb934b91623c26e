"""Tables of other tools and hubs, image folders, and captions beside images: read, or an error that says how."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from source_folders import COCO_BOX, PIXELS, assert_dogs, corners, draw, write

from vistune.datagen import TableForm, read_source
from vistune.datagen.sources import described_source
from vistune.errors import DataError, RecipeError

X0, Y0, X1, Y1 = PIXELS
TABLES = {
    "VoTT": (
        "vott-csv-export/x-export.csv",
        f'"image","xmin","ymin","xmax","ymax","label"\n"NAME",{X0},{Y0},{X1},{Y1},"dog"\n'),
    "TensorFlow": (
        "_annotations.csv",
        f"filename,width,height,class,xmin,ymin,xmax,ymax\nNAME,200,100,dog,{X0},{Y0},{X1},{Y1}\n"),
    "TensorFlow, another size": (
        "_annotations.csv",
        f"filename,width,height,class,xmin,ymin,xmax,ymax\nNAME,400,200,dog,{2*X0},{2*Y0},{2*X1},{2*Y1}\n"),
    "Open Images": ("boxes.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/0bt9lr,0.1,0.5,0.1,0.6\n"),
    "corner and size": ("x.tsv", f"path\tcategory\tx\ty\tw\th\nNAME\tdog\t{X0}\t{Y0}\t{X1 - X0}\t{Y1 - Y0}\n"),
    "corner, width and height": ("x.csv", f"image,label,x,y,width,height\nNAME,dog,{X0},{Y0},{X1 - X0},{Y1 - Y0}\n"),
    "capitals": ("x.csv", f"Image,Label,Xmin,Ymin,Xmax,Ymax\nNAME,dog,{X0},{Y0},{X1},{Y1}\n"),
    "JSON lines": ("x.jsonl", '{"file_name": "NAME", "label": "dog", "x1": 20, "y1": 10, "x2": 100, "y2": 60}\n'),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_a_box_per_row_is_read_from_tables_of_every_tool(tmp_path: Path, table: str) -> None:
    name, content = TABLES[table]
    file = write(tmp_path / name, content.replace("NAME", "a.jpg"))
    if table == "Open Images":
        write(tmp_path / "class-descriptions-boxable.csv", "/m/0bt9lr,dog\n/m/01yrx,cat\n")
    image = draw(file.parent, "a.jpg") / "a.jpg"
    for path in (tmp_path, file):
        source = read_source(path)
        assert_dogs(source.images, image)
        scaled = "images whose size differs from the annotations; their boxes are scaled"
        notes = {scaled: 1} if "another size" in table else {}
        assert (source.kind, source.skipped, source.notes) == ("table", {}, notes)


def test_rows_of_one_image_join_and_empty_boxes_are_none(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg", "b.jpg")
    rows = f"image,label,xmin,ymin,xmax,ymax,id\na.jpg,dog,{X0},{Y0},{X1},{Y1},1\na.jpg,cat,0,0,10,10,2\nb.jpg,,,,,,3\n"
    source = read_source(write(tmp_path / "x.csv", rows))
    assert [[box.label for box in image.boxes] for image in source.images] == [["dog", "cat"], []]


def test_columns_and_forms_of_boxes_may_be_told(tmp_path: Path) -> None:
    draw(tmp_path, "photos/a.jpg")
    file = write(tmp_path / "x.csv", "bild;x\n".replace(";", ",") + "a.jpg,1\n")
    with pytest.raises(RecipeError, match=r"no column of images.*--columns image=…; the columns are bild, x"):
        read_source(file)
    write(file, "bild,was,l,o,r,u\na.jpg,dog,0.1,0.1,0.5,0.6\n")
    columns = {"image": "bild", "label": "was", "xmin": "l", "ymin": "o", "xmax": "r", "ymax": "u"}
    form = TableForm(columns=columns, images=tmp_path / "photos", boxes="relative")
    assert_dogs(read_source(file, form=form).images, tmp_path / "photos/a.jpg")
    with pytest.raises(RecipeError, match="names only some of xmin, ymin, xmax and ymax"):
        read_source(file, form=TableForm(columns={k: v for k, v in columns.items() if k != "ymax"}))
    with pytest.raises(DataError, match=r"x\.csv:2:l: .* in pixels is a box of one pixel.*--boxes-as relative"):
        read_source(file, form=TableForm(columns=columns, images=tmp_path / "photos"))


def test_rows_of_json_may_differ_in_their_fields(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [
        {"image": "a.jpg"},
        {"image": "b.jpg", "text": "A dog."},
        {"image": "c.jpg", "objekte": [["dog", 0, 0, 1, 1]]},
    ]
    file = write(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    source = read_source(file, form=TableForm(columns={"boxes": "objekte"}))
    assert [(image.captions, len(image.boxes)) for image in source.images] == [((), 0), (("A dog.",), 0), ((), 1)]
    assert source.unread == []
    with pytest.raises(RecipeError, match=r"x\.jsonl:4: no column of images.*the columns are bild"):
        read_source(write(file, file.read_text() + '{"bild": "a.jpg"}\n'))
    write(file, "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RecipeError, match=r"no column 'objects'.*did you mean 'objekte'"):
        read_source(file, form=TableForm(columns={"boxes": "objects"}))


ONE_BOX = {
    "a box and its label": {"bbox": COCO_BOX, "label": "dog"},
    "lists of both": {"bboxes": [COCO_BOX], "labels": ["dog"]},
    "objects": {"objects": {"bbox": [COCO_BOX], "category": ["dog"]}},
    "a list of objects": {"objects": [{"category": "dog", "bbox": [0.1, 0.1, 0.5, 0.6]}]},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("form", ONE_BOX)
def test_boxes_in_cells_are_read_in_every_usual_form(tmp_path: Path, form: str, suffix: str) -> None:
    draw(tmp_path, "a.jpg")
    row = {"image": "a.jpg", **ONE_BOX[form]}
    content = json.dumps(row)
    if suffix == ".csv":
        cells = (cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values())
        content = ",".join(row) + "\n" + ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"
    source = read_source(write(tmp_path / f"x{suffix}", content))
    assert_dogs(source.images, tmp_path / "a.jpg")
    assert source.unread == []


def test_numbered_parts_of_a_table_are_one_source(tmp_path: Path) -> None:
    for k in range(3):
        draw(tmp_path, f"{k}.jpg")
        row = {"image": f"{k}.jpg", "caption": "A dog."}
        write(tmp_path / f"train-0000{k}-of-00003.jsonl", json.dumps(row))
    assert [image.id for image in read_source(tmp_path).images] == ["0", "1", "2"]


def test_karpathys_splits_are_read(tmp_path: Path) -> None:
    sentences = [{"raw": "A dog .", "tokens": ["a", "dog"], "imgid": 0, "sentid": 0}]
    tree = {"images": [{"filename": "a.jpg", "sentences": sentences, "split": "val"}], "dataset": "flickr8k"}
    source = read_source(write(draw(tmp_path, "a.jpg") / "dataset_flickr8k.json", tree))
    assert source.images[0].captions == ("A dog .",)
    assert {field.field for field in source.unread} == {"split", "dataset"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.jpg", "is a single image.*name its folder"),
        ("a.zip", "unpack it"),
        ("a.xlsx", "save it as CSV"),
        ("a.doc", "save it as one"),
    ],
)
def test_a_file_that_is_no_source_says_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=words):
        read_source(tmp_path / name)


def test_codes_without_words_are_refused(tmp_path: Path) -> None:
    file = write(draw(tmp_path, "a.jpg") / "x.csv", TABLES["Open Images"][1])
    with pytest.raises(DataError, match=r"x\.csv:2:LabelName: '/m/0bt9lr' is a code.*class-descriptions"):
        read_source(file)


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "null", " ", ""])
def test_a_cell_without_a_caption_is_none_and_counted(tmp_path: Path, word: str) -> None:
    draw(tmp_path, "a.jpg", "b.jpg")
    file = write(tmp_path / "x.csv", f'image,caption\na.jpg,A dog.\nb.jpg,"{word}"\n')
    source = read_source(file)
    assert [image.captions for image in source.images] == [("A dog.",), ()]
    assert source.notes == {f"{file}: captions that are empty, nan, None or null": 1}
    write(tmp_path / "b.txt", f"{word}\nNone at home.\n")
    file.unlink()
    assert read_source(tmp_path).images[1].captions == ("None at home.",)


def test_a_table_without_descriptions_lists_its_columns(tmp_path: Path) -> None:
    file = write(draw(tmp_path, "a.jpg") / "x.csv", "image,bildtext\na.jpg,Ein Hund\n")
    with pytest.raises(
        DataError, match=r"no image has a caption or a box; columns that are not read: bildtext.*--columns"
    ):
        described_source(file)
    assert len(described_source(file, seen=True).images) == 1


NAMES = {
    "backslashes": "sub\\강아지.jpg",
    "NFC": unicodedata.normalize("NFC", "sub/강아지.jpg"),
    "NFD": unicodedata.normalize("NFD", "sub/강아지.jpg"),
    "absolute": "{root}/sub/강아지.jpg",
    "dots": "./sub/../sub/강아지.jpg",
}


@pytest.mark.parametrize("disk", ["NFC", "NFD"])
@pytest.mark.parametrize("way", NAMES)
def test_an_image_is_found_however_its_name_is_written(tmp_path: Path, way: str, disk: str) -> None:
    file = unicodedata.normalize(disk, "sub/강아지.jpg")  # type: ignore[arg-type]
    draw(tmp_path / "photos", file)
    row = {"image": NAMES[way].format(root=tmp_path / "photos"), "caption": "개."}
    table = write(tmp_path / "x.jsonl", json.dumps(row, ensure_ascii=False))
    if way == "dots":
        with pytest.raises(DataError, match="leaves the image folder"):
            read_source(table, form=TableForm(images=tmp_path / "photos"))
        return
    [image] = read_source(table, form=TableForm(images=tmp_path / "photos")).images
    assert image.path == tmp_path / "photos" / file


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://x.org/a.jpg", "is a link; links are not followed.*download the image"),
        ("file:///a.jpg", "is a file:// address"),
        ("data:image/jpeg;base64,AAAA", "holds the image itself as a data: URL"),
        ("../a.jpg", "leaves the image folder"),
        ("", "expected the name of an image"),
    ],
)
def test_a_name_that_is_no_file_says_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    table = write(draw(tmp_path, "a.jpg") / "x.jsonl", json.dumps({"image": name, "caption": "A dog."}))
    for path in (table, tmp_path) if name != "../a.jpg" else (table,):  # in a folder the end of a path is looked for
        with pytest.raises(DataError, match=rf"x\.jsonl:1:image: .*{words}"):
            read_source(path)


# --- Hugging Face ---


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_hugging_faces_image_folders_are_read_with_their_splits(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "test"):
        rows = [{"file_name": "a.jpg", "text": f"A dog of {split}."}, {"file_name": "b.jpg", "text": "A cat."}]
        path = tmp_path / split / f"metadata{suffix}"
        draw(path.parent, "a.jpg", "b.jpg", "c.jpg")
        if suffix == ".parquet":
            parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
            parquet.write_table(table.Table.from_pylist(rows), path)
        elif suffix == ".csv":
            write(path, "file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows))
        else:
            write(path, "".join(json.dumps(row) + "\n" for row in rows))
    source = read_source(tmp_path, "train")
    assert source.kind == "image folder"
    assert [(image.path.parent.name, image.captions) for image in source.images] == [
        ("train", ("A dog of train.",)), ("train", ("A cat.",))]  # fmt: skip
    assert source.skipped == {"in another split": 3, "no caption or box": 1}
    with pytest.raises(DataError, match="has the splits test, train"):
        read_source(tmp_path)


def test_hugging_faces_objects_are_boxes(tmp_path: Path) -> None:
    objects = {"bbox": [COCO_BOX, [0, 0, 10, 10]], "categories": ["dog", "people"], "iscrowd": [0, 1], "area": [1, 1]}
    row = {"file_name": "a.jpg", "objects": objects}
    path = write(draw(tmp_path, "a.jpg") / "metadata.jsonl", json.dumps(row))
    source = read_source(tmp_path)
    assert_dogs(source.images, tmp_path / "a.jpg")
    assert source.images[0].crowds == ("people",)
    write(path, json.dumps({**row, "objects": {**objects, "categories": [0, 1]}}))
    with pytest.raises(DataError, match=r"metadata\.jsonl:1:objects\.categories: numbers, not names"):
        read_source(tmp_path)


def test_images_inside_parquet_are_written_to_files(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    draw(tmp_path / "given", "a.jpg", "b.png")
    contents = [(tmp_path / "given" / name).read_bytes() for name in ("a.jpg", "b.png")]
    rows = [
        {"image": {"bytes": content, "path": None}, "caption": f"Number {k}.", "score": k}
        for k, content in enumerate(contents)
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    source = read_source(tmp_path / "x.parquet", unpack_to=tmp_path / "out")
    assert [image.path.read_bytes() for image in source.images] == contents
    assert [(image.path.parent, image.path.suffix) for image in source.images] == [
        (tmp_path / "out", ".jpg"), (tmp_path / "out", ".png")]  # fmt: skip
    assert [image.captions for image in source.images] == [("Number 0.",), ("Number 1.",)]
    assert [(field.field, field.count) for field in source.unread] == [("score", 2)]


def test_a_tar_of_samples_is_a_table(tmp_path: Path) -> None:
    draw(tmp_path / "given", "k1.jpg", "k2.jpg")
    (tmp_path / "given/k2.jpg").write_bytes((tmp_path / "given/k1.jpg").read_bytes())  # one image under two keys
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for key in ("k1", "k2"):
            tar.add(tmp_path / "given" / f"{key}.jpg", f"{key}.jpg")
            member = tarfile.TarInfo(f"{key}.txt")
            member.size = len(f"Sample {key}.")
            tar.addfile(member, io.BytesIO(f"Sample {key}.".encode()))
    source = read_source(tmp_path / "x.tar", unpack_to=tmp_path / "out")
    assert [(image.id, image.captions) for image in source.images] == [
        ("k1", ("Sample k1.",)), ("k2", ("Sample k2.",))]  # fmt: skip


# --- captions in folders ---

CAPTIONS = {
    "Flickr8k": ("captions.txt", "image,caption\na.jpg,A dog .\na.jpg,One dog .\n", "Images/a.jpg"),
    "Flickr8k tokens": ("Flickr8k.token.txt", "a.jpg#0\tA dog .\na.jpg#1\tOne dog .\n", "Flicker8k_Dataset/a.jpg"),
    "Flickr30k": (
        "results.csv",
        "image_name| comment_number| comment\na.jpg| 0| A dog .\na.jpg| 1| One dog .\n",
        "flickr30k_images/a.jpg",
    ),
    "semicolons": ("x.csv", 'image;caption\na.jpg;"A dog ."\na.jpg;One dog .\n', "a.jpg"),
    "tabs in a CSV": ("x.csv", "image\tcaption\na.jpg\tA dog .\na.jpg\tOne dog .\n", "a.jpg"),
    "captions.jsonl": ("captions.jsonl", '{"image": "a.jpg", "captions": ["A dog .", "One dog ."]}\n', "images/a.jpg"),
    "JSON list": ("captions.json", '[{"image": "a.jpg", "captions": ["A dog .", "One dog ."]}]', "images/a.jpg"),
    "text beside": ("a.txt", "A dog .\nOne dog .\n", "a.jpg"),
    "text beside, nested": ("x/y/a.txt", "A dog .\nOne dog .\n", "x/y/a.jpg"),
    "captions in a folder of their own": ("captions/x/a.txt", "A dog .\nOne dog .\n", "images/x/a.jpg"),
    "caption beside": ("a.caption", "A dog .\nOne dog .\n", "a.JPG"),
}


@pytest.mark.parametrize("layout", CAPTIONS)
def test_captions_of_a_folder_are_read(tmp_path: Path, layout: str) -> None:
    file, content, image = CAPTIONS[layout]
    write(draw(tmp_path, image) / file, content)
    source = read_source(tmp_path)
    assert [(i.path, i.captions) for i in source.images] == [(tmp_path / image, ("A dog .", "One dog ."))]
    assert (source.skipped, source.notes) == ({}, {})


def test_two_tables_in_a_folder_are_not_chosen_between(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg")
    for name in ("one.csv", "two.csv"):
        write(tmp_path / name, "image,caption\na.jpg,A dog.\n")
    with pytest.raises(DataError, match=r"several tables describe images: one\.csv, two\.csv"):
        read_source(tmp_path)


def test_class_folders_say_that_their_names_are_not_read(tmp_path: Path) -> None:
    draw(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/2.jpg")
    with pytest.raises(DataError, match=r"names of their folders \(cat, dog\) are not read as descriptions.*--see"):
        described_source(tmp_path)
    seen = described_source(tmp_path, seen=True).images
    assert [image.id for image in seen] == ["cat/1", "dog/1", "2"]


def test_a_table_of_classes_is_named_where_nothing_describes_the_images(tmp_path: Path) -> None:
    write(draw(tmp_path, "a.jpg") / "labels.csv", "image,label\na.jpg,dog\n")
    with pytest.raises(DataError, match=r"no image has a caption or a box; labels\.csv is not read"):
        described_source(tmp_path)
    (tmp_path / "labels.csv").rename(tmp_path / "metadata.csv")
    with pytest.raises(DataError, match=r"no image has a caption or a box; columns that are not read: label\."):
        described_source(tmp_path)
    write(tmp_path / "metadata.json", {"license": "mine"})
    (tmp_path / "metadata.csv").unlink()
    assert read_source(tmp_path).notes == {"metadata.json is not read": 1}


NOT_RECOGNISED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "not recognised. Found no files"),
    "other files": (
        {"a/x.docx": "x", "b/y.docx": "x", "z.md": "x"},
        r"Found 2 \.docx, 1 \.md in a/, b/, the folder itself\.",
    ),
    "an archive": ({"coco.zip": "PK"}, "unpack the archive first"),
    "an unknown table": ({"x.csv": "bild,text\n1,2\n"}, "name the table itself, and its columns with --columns"),
    "broken JSON": ({"x.json": '{"images": ['}, r"x\.json:1: not JSON"),
}


@pytest.mark.parametrize("case", NOT_RECOGNISED)
def test_a_folder_that_is_not_recognised_is_described(tmp_path: Path, case: str) -> None:
    files, words = NOT_RECOGNISED[case]
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(DataError, match=words) as caught:
        read_source(tmp_path)
    assert caught.value.hint


def test_relative_boxes_of_a_list_stay_relative(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "boxes": [["dog", 0.1, 0.1, 0.5, 0.6]]}
    [image] = read_source(write(draw(tmp_path, "a.jpg") / "x.jsonl", json.dumps(row))).images
    assert corners(image.boxes[0]) == pytest.approx((0.1, 0.1, 0.5, 0.6))
