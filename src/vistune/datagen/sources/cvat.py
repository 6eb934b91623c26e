"""Read CVAT for images 1.1: `annotations.xml` with every image and its boxes and polygons."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

from vistune.datagen.sources.boxes import attributes_of, box_of, label_of, number, span
from vistune.datagen.sources.gathering import SourceCollector
from vistune.datagen.sources.tree import MOST_OPENED, PER_IMAGE, Tree, spread
from vistune.datagen.sources.xml_text import read_xml
from vistune.errors import DataError
from vistune.types import Box

SHAPE = ("label", "occluded", "source", "z_order", "points", "xtl", "ytl", "xbr", "ybr", "group_id", "rotation")
IMAGE = ("id", "name", "width", "height", "subset", "task_id")


def find(tree: Tree) -> dict[str, list[str]]:
    names = tree.with_suffix(".xml")
    if len(names) > PER_IMAGE and {tree.xml_root(name) for name in spread(names)} == {"annotation"}:  # Pascal VOC
        return {}
    found = [name for name in names[:MOST_OPENED] if tree.xml_root(name) == "annotations"]
    if not found:
        return {}
    subsets = {image.get("subset") or "" for name in found for image in read_xml(tree.path(name)).iter("image")}
    return dict.fromkeys(sorted(subsets), found) or {"": found}


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    beside = [file.parent for file in files]
    return [*(place / "images" / split for place in beside), *(place / "images" for place in beside), *beside, root]


def read(gathered: SourceCollector, files: list[Path]) -> None:
    for file in files:
        unread = gathered.unread(file, (*SHAPE, *IMAGE))
        root = read_xml(file)
        if root.find("track") is not None:
            hint = 'export the task again as "CVAT for images 1.1" or COCO'
            raise DataError(f"{file}: tracks of a video, which are not read", hint)
        unread.update(f"<{child.tag}>" for child in root if child.tag not in ("version", "meta", "image"))
        for index, image in enumerate(root.iter("image")):
            if (image.get("subset") or "") != gathered.split:
                continue
            location = f"{file}:image[{index}]"
            unread.update(f"image.{name}" for name in image.keys() if name not in IMAGE)  # noqa: SIM118 - an Element
            path = gathered.find(image.get("name"), location, "name")
            if path is not None:
                boxes = [
                    box
                    for k, shape in enumerate(image)
                    if (box := _box(shape, image, path, f"{location}.{shape.tag}[{k}]", gathered, unread)) is not None
                ]
                gathered.add(path, boxes=boxes)


def _box(
    shape: Element, image: Element, path: Path, location: str, gathered: SourceCollector, unread: Counter[str]
) -> Box | None:
    if shape.tag not in ("box", "polygon", "ellipse"):
        unread[f"image.<{shape.tag}>"] += 1
        return None
    unread.update(f"image.{shape.tag}.{name}" for name in shape.keys() if name not in (*SHAPE, "cx", "cy", "rx", "ry"))  # noqa: SIM118
    label = label_of(shape.get("label", ""), location, "label")
    if shape.tag == "box":
        corners: tuple[float, ...] = tuple(
            number(shape.get(side), location, side) for side in ("xtl", "ytl", "xbr", "ybr")
        )
        if number(shape.get("rotation", "0"), location, "rotation"):
            gathered.notes["rotated boxes, read without their rotation"] += 1
    elif shape.tag == "ellipse":
        x, y, across, down = (number(shape.get(name), location, name) for name in ("cx", "cy", "rx", "ry"))
        corners = x - across, y - down, x + across, y + down
    else:
        points = [point.split(",") for point in shape.get("points", "").split(";") if "," in point]
        corners = span([p[0] for p in points], [p[1] for p in points], location, "points")
    sides = image.get("width"), image.get("height")
    stated = (number(sides[0], location, "width"), number(sides[1], location, "height")) if all(sides) else None
    size = gathered.size_of(path, location, stated)
    given = {item.get("name", ""): (item.text or "").strip() for item in shape.findall("attribute")}
    return box_of(label, corners, size, location, shape.tag, attributes_of(given, location, "attribute", unread))
