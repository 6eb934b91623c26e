"""Exports of labelling tools in their real layout: each gives the same box for the same dog."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotation_tools import CVAT, VOC, X0, X1, Y0, Y1, datumaro, label_studio, label_studio_min, labelme, via, via_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from source_folders import assert_dogs, coco, draw, write

from vistune.datagen import read_source
from vistune.errors import DataError, RecipeError, VistuneError

# (kind, the annotation file, the image, what the tool writes for its name)
TOOLS: dict[str, tuple[str, str, str, Callable[[str], Any]]] = {
    "labelImg": ("Pascal VOC", "a.xml", "a.jpg", lambda name: VOC.replace("NAME", name)),
    "VOC": ("Pascal VOC", "Annotations/a.xml", "JPEGImages/a.jpg", lambda name: VOC.replace("NAME", name)),
    "VOC without suffix": ("Pascal VOC", "a.xml", "a.png", lambda name: VOC.replace("NAME", "a")),
    "CVAT": ("CVAT", "annotations.xml", "images/a.jpg", lambda name: CVAT.replace("NAME", name)),
    "CVAT polygon": ("CVAT", "annotations.xml", "images/a.jpg", lambda name: CVAT.replace("NAME", name).replace(
        "<box", f'<polygon points="{X0},{Y0};{X1},{Y0};{X1},{Y1}"').replace("</box", "</polygon")),
    "labelme": ("labelme", "a.json", "a.jpg", labelme),
    "labelme apart": ("labelme", "json/a.json", "images/a.jpg", lambda name: labelme(f"..\\images\\{name}")),
    "VIA": ("VIA", "via_export_json.json", "a.jpg", via),
    "VIA project": ("VIA", "project.json", "images/a.jpg",
                    lambda name: {"_via_settings": {}, "_via_img_metadata": via(name), "_via_attributes": {}}),
    "VIA CSV": ("table", "via_region_data.csv", "a.jpg", via_csv),
    "Label Studio": ("Label Studio", "export.json", "images/a.jpg", label_studio),
    "Label Studio JSON_MIN": ("Label Studio", "min.json", "images/a.jpg", label_studio_min),
    "Datumaro": ("Datumaro", "annotations/default.json", "images/default/a.jpg", datumaro),
}  # fmt: skip
WITH_CAPTION = ("VIA", "Label Studio", "Datumaro")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tools_export_is_read_as_a_folder(tmp_path: Path, tool: str) -> None:
    kind, file, image, content = TOOLS[tool]
    draw(tmp_path, image)
    write(tmp_path / file, content(Path(image).name))
    source = read_source(tmp_path)
    assert_dogs(source.images, tmp_path / image)
    assert source.kind == kind
    assert source.images[0].captions == (("A dog.",) if tool.startswith(WITH_CAPTION) else ())
    assert source.skipped == {}
    assert not [note for note in source.notes if "not read" in note]


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if "apart" not in tool and "Datumaro" not in tool])
def test_a_tools_file_is_read_by_its_name(tmp_path: Path, tool: str) -> None:
    _, file, image, content = TOOLS[tool]
    if Path(file).parent != Path(image).parent and Path(image).parent.name != "images":
        image = Path(file).with_name(Path(image).name).as_posix()
    draw(tmp_path, image)
    write(tmp_path / file, content(Path(image).name))
    assert_dogs(read_source(tmp_path / file).images, tmp_path / image)


def test_what_a_tool_adds_and_nobody_reads_is_named(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg")
    tree = labelme("a.jpg")
    tree["shapes"][0]["description"] = "asleep"
    tree["shapes"].append({**tree["shapes"][0], "shape_type": "point", "points": [[1, 1]], "description": ""})
    tree["flags"] = {"blurred": True, "night": False}
    write(tmp_path / "a.json", tree)
    source = read_source(tmp_path)
    assert_dogs(source.images, tmp_path / "a.jpg")
    assert {field.field for field in source.unread} == {
        "flags.blurred", "shapes[].description", "shapes[] of type point"}  # fmt: skip
    cvat = tmp_path / "cvat"
    write(draw(cvat, "a.jpg") / "annotations.xml", CVAT.replace("NAME", "a.jpg").replace(
        "</image>", '<tag label="indoors"/><points label="nose" points="1,1"/></image>'))  # fmt: skip
    source = read_source(cvat)
    assert source.images[0].boxes[0].attributes == {"color": "brown"}
    assert {field.field for field in source.unread} == {"image.<tag>", "image.<points>", "attributes.muddy"}


def test_several_files_of_a_tool_are_one_source_and_a_strange_one_is_named(tmp_path: Path) -> None:
    for k in range(30):
        write(draw(tmp_path, f"{k}.jpg") / f"{k}.json", labelme(f"{k}.jpg"))
    write(tmp_path / "27.json", {"other": 1})
    source = read_source(tmp_path)
    assert [image.id for image in source.images] == [str(k) for k in range(30) if k != 27]
    assert source.skipped == {"no caption or box": 1}
    assert source.notes == {"27.json is not read": 1}


@pytest.mark.parametrize(
    ("kind", "suffix", "other", "content"),
    [
        ("labelme", ".json", {"other": 1}, labelme),
        ("labelme", ".json", {"images": 3}, labelme),
        ("Pascal VOC", ".xml", "<other/>", lambda name: VOC.replace("NAME", name)),
        ("CVAT", ".xml", "<other/>", lambda name: CVAT.replace("NAME", name)),
        ("VIA", ".json", {"other": 1}, via),
        ("Label Studio", ".json", [{"other": 1}], label_studio),
    ],
)
@pytest.mark.parametrize(("before", "count"), [(3, 22), (22, 3), (60, 1)])
def test_files_of_a_tool_are_found_behind_many_others(
    tmp_path: Path, kind: str, suffix: str, other: Any, content: Callable[[str], Any], before: int, count: int
) -> None:
    for k in range(before):
        write(tmp_path / f"a{k}{suffix}", other)
    for k in range(count):
        write(draw(tmp_path, f"b{k}.jpg") / f"b{k}{suffix}", content(f"b{k}.jpg"))
    write(tmp_path / f"c{suffix}", other)
    source = read_source(tmp_path)
    assert source.kind == kind
    assert_dogs(source.images, *(tmp_path / f"b{k}.jpg" for k in range(count)))
    assert sum(number for note, number in source.notes.items() if "not read" in note) == before + 1


@pytest.mark.parametrize("at", [0, 7, 29])
def test_a_broken_file_among_many_of_labelme_is_an_error_wherever_it_is(tmp_path: Path, at: int) -> None:
    for k in range(30):
        write(draw(tmp_path, f"{k}.jpg") / f"{k}.json", "{" if k == at else labelme(f"{k}.jpg"))
    with pytest.raises(DataError, match=rf"/{at}\.json:1"):
        read_source(tmp_path)


def test_boxes_of_yolo_are_found_behind_images_without_objects(tmp_path: Path) -> None:
    for k in range(60):
        write(draw(tmp_path, f"{k}.jpg") / f"{k}.txt", LINE if k == 59 else "")
    write(tmp_path / "classes.txt", "dog\n")
    source = read_source(tmp_path)
    assert source.kind == "YOLO"
    assert [len(image.boxes) for image in source.images] == [0] * 59 + [1]


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE annotation [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>',
        '<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_in_xml_is_refused(tmp_path: Path, content: str, encoding: str) -> None:
    draw(tmp_path, "a.jpg")
    (tmp_path / "a.xml").write_text(content, encoding=encoding)
    for path in (tmp_path, tmp_path / "a.xml"):
        with pytest.raises(DataError, match=r"a\.xml:1: contains a document type"):
            read_source(path)


FAULTS: dict[str, tuple[str, Any, str]] = {
    "broken XML": ("a.xml", "<annotation><object>", r"a\.xml:1: not XML"),
    "VOC without a name": (
        "a.xml",
        VOC.replace("NAME", "a.jpg").replace("dog", ""),
        r"/a\.xml:object\[0\]:name: is empty",
    ),
    "VOC corner": (
        "a.xml",
        VOC.replace(f"<xmin>{X0}", "<xmin>x"),
        r"/a\.xml:object\[0\]:bndbox\.xmin: expected a number",
    ),
    "CVAT tracks": ("x.xml", "<annotations><track id='0'/></annotations>", "tracks of a video"),
    "labelme points": (
        "a.json",
        {**labelme("a.jpg"), "shapes": [{"label": "d", "points": [1]}]},
        r"/a\.json:shapes\[0\]:points",
    ),
    "labelme outside": (
        "a.json",
        {**labelme("a.jpg"), "imageWidth": 10},
        r"/a\.json:shapes\[0\]:points: the box .* not within",
    ),
    "VIA without label": (
        "v.json",
        json.loads(json.dumps(via("a.jpg")).replace('"label"', '"animal"')),
        r"/v\.json:a\.jpg1234:regions\[0\]:region_attributes: none of the attributes is called .*are animal, color",
    ),
    "VIA polygon": (
        "v.json",
        json.loads(json.dumps(via("a.jpg")).replace('"rect"', '"polygon", "all_points_x": [1, 2], "all_points_y": 3')),
        r"/v\.json:a\.jpg1234:regions\[0\]:shape_attributes: points are missing",
    ),
    "CVAT corner": (
        "x.xml",
        CVAT.replace("NAME", "a.jpg").replace(f'xtl="{X0}.00"', 'xtl="x"'),
        r"/x\.xml:image\[0\]\.box\[0\]:xtl: expected a number",
    ),
    "Label Studio polygon": (
        "l.json",
        json.loads(
            json.dumps(label_studio("a.jpg"))
            .replace("rectanglelabels", "polygonlabels")
            .replace('"x": 10', '"points": 1.5')
        ),
        r"/l\.json:1:annotations\.result\[0\]:value\.points: expected points",
    ),
    "Label Studio JSON_MIN number": (
        "l.json",
        json.loads(json.dumps(label_studio_min("a.jpg")).replace('"x": 10', '"x": "left"')),
        r"/l\.json:1:label\[0\]:value\.x: expected a number",
    ),
    "Label Studio number": (
        "l.json",
        json.loads(json.dumps(label_studio("a.jpg")).replace('"x": 10', '"x": "left"')),
        r"l\.json:1:annotations\.result\[0\]:value\.x: expected a number",
    ),
    "Datumaro label": (
        "annotations/d.json",
        json.loads(json.dumps(datumaro("a.jpg")).replace('"label_id": 1', '"label_id": 9')),
        r"/d\.json:items\[0\]\.annotations\[0\]:label_id: no label has the number 9",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_place(tmp_path: Path, fault: str) -> None:
    file, content, words = FAULTS[fault]
    write(draw(tmp_path, "a.jpg") / file, content)
    with pytest.raises(VistuneError, match=words) as caught:
        read_source(tmp_path)
    assert caught.value.hint
    assert str(tmp_path) in str(caught.value)


def coco_polygon(name: str) -> dict[str, Any]:
    return coco(name, bbox=None, segmentation=[[X0, Y0, X1, Y0, X1, Y1]], attributes={"color": "brown"})


def via_polygon(name: str) -> dict[str, Any]:
    [image] = via(name).values()
    image["regions"][0]["shape_attributes"] = {
        "name": "polygon", "all_points_x": [X0, X1, X1], "all_points_y": [Y0, Y0, Y1]}  # fmt: skip
    return {name: image}


def label_studio_polygon(name: str) -> list[dict[str, Any]]:
    value = {"points": [[10, 10], [50, 10], [50, 60]], "polygonlabels": ["dog"]}
    return [{"data": {"image": name}, "annotations": [{"result": [{"type": "polygonlabels", "value": value}]}]}]


# More content for the test of odd values, in the form of TOOLS.
SHAPES: dict[str, tuple[str, str, str, Callable[[str], Any]]] = {
    "COCO": ("COCO", "x.json", "a.jpg", coco),
    "COCO polygon": ("COCO", "x.json", "a.jpg", coco_polygon),
    "VIA polygon": ("VIA", "v.json", "a.jpg", via_polygon),
    "Label Studio polygon": ("Label Studio", "l.json", "a.jpg", label_studio_polygon),
}
ODD: list[Any] = [None, True, -1, 1.5, "", "x", "../..", "/a", "\0", [], [1], [[]], {}, {"a": 1}, [{}], 10**400,
                  1e308, "9" * 400, "²", [[1, 2], 7], [[1, 2, 3, 4, 5, 6]], {"x": None}]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in items] + [place for _, inner in items for place in places(inner)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_odd_values_end_in_a_result_or_in_an_error_that_says_what_to_do(data: st.DataObject) -> None:
    tools = TOOLS | SHAPES
    _, file, image, content = tools[data.draw(st.sampled_from(sorted(tools)))]
    written = copy.deepcopy(content(Path(image).name))
    if isinstance(written, str):
        at = data.draw(st.integers(0, len(written) - 1))
        written = (
            written[:at] + data.draw(st.sampled_from(["", "<", ">", '"', "-1", "&", "é", ","])) + written[at + 1 :]
        )
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            if found := places(written):
                container, key = data.draw(st.sampled_from(found))
                container[key] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
    with tempfile.TemporaryDirectory() as folder:
        root = draw(Path(folder), image)
        write(root / file, written)
        for path in (root, root / file):
            try:
                read_source(path)
            except VistuneError as error:
                hint = error.hint
            else:
                continue
            assert hint


# --- YOLO ---

LINE = "0 0.3 0.35 0.4 0.5\n"
YOLO = {
    "flat": ({"a.txt": LINE, "classes.txt": "dog\ncat\n"}, "a.jpg", None),
    "labelImg": ({"a.txt": LINE, "predefined_classes.txt": "dog\n"}, "a.jpg", None),
    "Label Studio": ({"labels/a.txt": LINE, "classes.txt": "dog\n", "notes.json": {"info": 1}}, "images/a.jpg", None),
    "ultralytics": (
        {"labels/train/a.txt": LINE, "data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: dog\n"},
        "images/train/a.jpg",
        None,
    ),
    "Roboflow": (
        {"train/labels/a.txt": LINE, "data.yaml": "train: ../train/images\nnc: 1\nnames: ['dog']\nroboflow: {v: 1}\n"},
        "train/images/a.jpg",
        "train",
    ),
    "CVAT": (
        {
            "obj_train_data/a.txt": LINE,
            "obj.names": "dog\n",
            "obj.data": "classes = 1\n",
            "train.txt": "data/x/a.jpg\n",
        },
        "obj_train_data/a.jpg",
        None,
    ),
    "confidence": ({"a.txt": LINE.strip() + " 0.9\n", "classes.txt": "dog\n"}, "a.jpg", None),
    "polygon": ({"a.txt": "0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n", "classes.txt": "dog\n"}, "a.jpg", None),
}


@pytest.mark.parametrize("layout", YOLO)
def test_yolos_numbers_are_boxes_in_every_layout(tmp_path: Path, layout: str) -> None:
    files, image, split = YOLO[layout]
    draw(tmp_path, image)
    for name, content in files.items():
        write(tmp_path / name, content)
    source = read_source(tmp_path, split)
    assert_dogs(source.images, tmp_path / image)
    assert source.kind == "YOLO"
    assert source.images[0].captions == ()
    assert source.notes == {}
    assert [field.field for field in source.unread] == (["confidence"] if layout == "confidence" else [])


def test_yolos_splits_background_images_and_own_yaml(tmp_path: Path) -> None:
    draw(tmp_path, "images/train/a.jpg", "images/train/b.jpg", "images/train/c.jpg", "images/val/d.jpg")
    write(tmp_path / "labels/train/a.txt", LINE)
    write(tmp_path / "labels/train/b.txt", "")
    write(tmp_path / "labels/val/d.txt", LINE)
    yaml = write(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [dog]\n")
    with pytest.raises(DataError, match="has the splits train, val"):
        read_source(tmp_path)
    for path in (tmp_path, yaml):
        source = read_source(path, "train")
        assert [len(image.boxes) for image in source.images] == [1, 0]
        assert source.skipped == {"no caption or box": 1, "in another split": 1}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.txt": LINE}, r"no file names the classes.*data\.yaml.*or classes\.txt"),
        (
            {"a.txt": "3 0.3 0.35 0.4 0.5\n", "classes.txt": "dog\n"},
            r"a\.txt:1:class: 3 has no name; there are 1 classes",
        ),
        ({"a.txt": LINE + "0 7 7 0.1 0.1\n", "classes.txt": "dog\n"}, r"a\.txt:2: the box .* is not within the image"),
        ({"a.txt": LINE + "0 1 2 3 4 5 6 7\n", "classes.txt": "dog\n"}, r"a\.txt:2: 7 numbers after the class"),
        (
            {"a.txt": f"{'9' * 400} 0.3 0.35 0.4 0.5\n", "classes.txt": "dog\n"},
            r"a\.txt:1:class: 9{19}… has no name; there are 1 classes",
        ),
        (
            {"a.txt": f"0 {'9' * 400} 0.35 0.4 0.5\n", "classes.txt": "dog\n"},
            r"a\.txt:1: not a box: \[nan|a\.txt:1: not a box: \[inf",
        ),
        (
            {"a.txt": LINE, "data.yaml": "names: {0: dog, '0': cat}\n"},
            r"data\.yaml:names: two classes have the same number",
        ),
        ({"a.txt": LINE, "b.txt": LINE, "classes.txt": "dog\n"}, r"1 label files have no image: b\.txt"),
        ({"a.txt": LINE + "A dog.\n", "c.txt": LINE, "classes.txt": "dog\n"}, r"a\.txt:2: not a YOLO line: 'A dog\.'"),
    ],
)
def test_what_is_wrong_with_yolo_is_said(tmp_path: Path, files: dict[str, str], words: str) -> None:
    draw(tmp_path, "a.jpg", "c.jpg")
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises((DataError, RecipeError), match=words) as caught:
        read_source(tmp_path)
    assert caught.value.hint


def test_a_very_long_line_of_digits_is_refused_in_linear_time(tmp_path: Path) -> None:
    """With two ways to match each digit this takes hours."""
    draw(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "a.txt", LINE)
    write(tmp_path / "b.txt", "0 0.5 0.5 0.1 " + "1" * 200_000 + "x\n")
    write(tmp_path / "classes.txt", "dog\n")
    with pytest.raises(DataError, match=r"b\.txt:1: not a YOLO line"):
        read_source(tmp_path)


def test_numbers_are_never_captions_even_late_in_a_folder_of_captions(tmp_path: Path) -> None:
    for k in range(60):
        write(draw(tmp_path, f"{k:02}.jpg") / f"{k:02}.txt", LINE if k == 55 else "A dog.")
    with pytest.raises(DataError, match=r"55\.txt: holds numbers"):
        read_source(tmp_path)
