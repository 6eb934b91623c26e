"""Boxes in pixels refer to the image as training sees it: turned upright as EXIF says, and of the stated size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from annotation_tools import CVAT, VOC, X0, X1, Y0, Y1, datumaro, label_studio, label_studio_min, labelme, via
from annotation_tools import via_csv as csv_of_via
from PIL import Image
from source_folders import coco, corners, draw, write

from vistune.datagen import read_source
from vistune.errors import DataError

SCALED = "images whose size differs from the annotations; their boxes are scaled"
TURNED = "turned by EXIF although the annotations state the size before that (save them upright, or correct the size)"
OTHER_SHAPE = "with other proportions than the annotations state (correct or remove the size)"


def without_sizes(content: Any) -> Any:
    """What a tool writes, without the size of the image."""
    if isinstance(content, str):
        content = re.sub(r"<size>.*</size>", "", content)
        return content.replace(' width="200" height="100"', "")
    if isinstance(content, dict):
        sizes = (
            ("imageWidth", "imageHeight", "width", "height") if "file_name" in content or "shapes" in content else ()
        )
        return {name: without_sizes(value) for name, value in content.items() if name not in sizes}
    return [without_sizes(value) for value in content] if isinstance(content, list) else content


PIXELS = {
    "COCO": ("x.json", coco),
    "VOC": ("a.xml", lambda name: VOC.replace("NAME", name)),
    "CVAT": ("annotations.xml", lambda name: CVAT.replace("NAME", name)),
    "labelme": ("a.json", labelme),
    "VIA": ("via.json", via),
    "VIA CSV": ("via.csv", csv_of_via),
    "Datumaro": ("annotations/default.json", datumaro),
    "corners in columns": ("x.csv", lambda name: f"image,label,xmin,ymin,xmax,ymax\n{name},dog,{X0},{Y0},{X1},{Y1}\n"),
    "objects": (
        "x.jsonl",
        lambda name: json.dumps(
            {"file_name": name, "objects": {"bbox": [[X0, Y0, X1 - X0, Y1 - Y0]], "categories": ["dog"]}}
        ),
    ),
}
STATED = {  # tools that state the size of an image: the file, and its content for an image of this size
    "COCO": ("x.json", lambda w, h: sized_coco(w, h)),
    "VOC": (
        "a.xml",
        lambda w, h: (
            VOC.replace("NAME", "a.jpg").replace("<width>200", f"<width>{w}").replace("<height>100", f"<height>{h}")
        ),
    ),
    "CVAT": (
        "annotations.xml",
        lambda w, h: CVAT.replace("NAME", "a.jpg").replace('width="200" height="100"', f'width="{w}" height="{h}"'),
    ),
    "labelme": ("a.json", lambda w, h: {**labelme("a.jpg"), "imageWidth": w, "imageHeight": h}),
    "Datumaro": ("annotations/default.json", lambda w, h: sized_datumaro(w, h)),
    "Label Studio": ("l.json", lambda w, h: sized_label_studio(label_studio, w, h)),
    "Label Studio JSON_MIN": ("l.json", lambda w, h: sized_label_studio(label_studio_min, w, h)),
    "table": (
        "x.csv",
        lambda w, h: f"image,label,width,height,xmin,ymin,xmax,ymax\na.jpg,dog,{w},{h},{X0},{Y0},{X1},{Y1}\n",
    ),
}


def sized_coco(width: int, height: int) -> dict[str, Any]:
    tree = coco("a.jpg")
    tree["images"][0].update(width=width, height=height)
    return tree


def sized_datumaro(width: int, height: int) -> dict[str, Any]:
    tree = datumaro("a.jpg")
    tree["items"][0]["image"]["size"] = [height, width]
    return tree


def sized_label_studio(content: Any, width: int, height: int) -> Any:
    text = json.dumps(content("a.jpg"))
    text = text.replace('"original_width": 200', f'"original_width": {width}')
    return json.loads(text.replace('"original_height": 100', f'"original_height": {height}'))


def turn(path: Path, size: tuple[int, int], orientation: int) -> None:
    """Write an image of this stored size that EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, exif=exif)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_of_the_upright_image(tmp_path: Path, orientation: int, suffix: str) -> None:
    turn(tmp_path / f"a{suffix}", (100, 50), orientation)
    shape = {"name": "rect", "x": 5, "y": 5, "width": 35, "height": 35}
    region = {"shape_attributes": shape, "region_attributes": {"label": "dog"}}
    write(tmp_path / "via.json", {"a": {"filename": f"a{suffix}", "size": 1, "regions": [region]}})
    [image] = read_source(tmp_path).images
    expected = (0.1, 0.05, 0.8, 0.4) if orientation >= 5 else (0.05, 0.1, 0.4, 0.8)
    assert corners(image.boxes[0]) == pytest.approx(expected)


def test_an_orientation_behind_the_pixels_of_a_png_is_seen(tmp_path: Path) -> None:
    turn(tmp_path / "a.png", (100, 50), 6)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    assert end <= last
    (tmp_path / "a.png").write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    write(tmp_path / "x.csv", "image,label,xmin,ymin,xmax,ymax\na.png,dog,5,5,40,40\n")
    [image] = read_source(tmp_path).images
    assert corners(image.boxes[0]) == pytest.approx((0.1, 0.05, 0.8, 0.4))


@pytest.mark.parametrize("tool", PIXELS)
def test_every_tool_without_sizes_means_the_upright_image(tmp_path: Path, tool: str) -> None:
    file, content = PIXELS[tool]
    turn(tmp_path / "a.jpg", (100, 200), 6)
    write(tmp_path / file, without_sizes(content("a.jpg")))
    source = read_source(tmp_path)
    assert corners(source.images[0].boxes[0]) == pytest.approx((0.1, 0.1, 0.5, 0.6))
    assert not source.skipped


@pytest.mark.parametrize("tool", STATED)
@pytest.mark.parametrize(
    ("stored", "orientation", "stated", "account"),
    [
        ((200, 100), 1, (200, 100), ({}, {})),
        ((100, 200), 6, (200, 100), ({}, {})),
        ((200, 100), 6, (200, 100), ({TURNED: 1}, {})),
        ((400, 200), 8, (200, 100), ({TURNED: 1}, {})),
        ((50, 25), 1, (200, 100), ({}, {SCALED: 1})),
        ((200, 150), 1, (200, 100), ({OTHER_SHAPE: 1}, {})),
    ],
)
def test_a_stated_size_is_compared_with_the_file(
    tmp_path: Path, tool: str, stored: tuple[int, int], orientation: int, stated: tuple[int, int], account: Any
) -> None:
    file, content = STATED[tool]
    turn(tmp_path / "a.jpg", stored, orientation)
    draw(tmp_path, "b.jpg")
    write(tmp_path / file, content(*stated))
    source = read_source(tmp_path)
    skipped, notes = account
    assert source.skipped == {"no caption or box": 1, **skipped}
    assert source.notes == notes
    assert [corners(box) for image in source.images for box in image.boxes] == (
        [] if skipped else [pytest.approx((0.1, 0.1, 0.5, 0.6))]
    )


def test_an_image_turned_in_label_studio_is_counted(tmp_path: Path) -> None:
    for content in (label_studio("a.jpg"), label_studio_min("a.jpg")):
        text = json.dumps(content).replace('"original_width"', '"image_rotation": 90, "original_width"')
        text = text.replace('"image_rotation": 0, ', "")
        write(draw(tmp_path, "a.jpg") / "l.json", text)
        source = read_source(tmp_path)
        assert source.images == []
        assert source.skipped == {"with image_rotation in Label Studio (turn the file and label it again)": 1}


def test_a_broken_image_is_counted_where_its_size_is_stated_and_refused_where_it_is_needed(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", "no image")
    write(tmp_path / "x.json", coco("a.jpg"))
    assert read_source(tmp_path).skipped == {"that cannot be read": 1}
    write(tmp_path / "x.json", without_sizes(coco("a.jpg")))
    with pytest.raises(DataError, match=r"x\.json:annotations\[0\]: .*a\.jpg cannot be read as an image"):
        read_source(tmp_path)
