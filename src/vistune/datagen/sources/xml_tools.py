"""Read XML of labelling tools: CVAT for images 1.1 (one `annotations.xml`) and Pascal VOC (one .xml per image)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

from vistune.datagen.sources.boxes import attributes_of, box_of, label_of, number, span
from vistune.datagen.sources.collector import Family, SourceCollector
from vistune.datagen.sources.tree import (
    MOST_OPENED,
    PER_IMAGE,
    READ_SUFFIXES,
    Tree,
    by_folder,
    read_xml,
    spread,
    text_of,
)
from vistune.errors import DataError
from vistune.records import RecordError
from vistune.types import Box

CVAT_SHAPE = ("label", "occluded", "source", "z_order", "points", "xtl", "ytl", "xbr", "ybr", "group_id", "rotation")
CVAT_IMAGE = ("id", "name", "width", "height", "subset", "task_id")


def find_cvat(tree: Tree) -> dict[str, list[str]]:
    names = tree.with_suffix(".xml")
    if len(names) > PER_IMAGE and {tree.xml_root(name) for name in spread(names)} == {"annotation"}:  # Pascal VOC
        return {}
    files = [name for name in names[:MOST_OPENED] if tree.xml_root(name) == "annotations"]
    if not files:
        return {}
    subsets = {image.get("subset") or "" for name in files for image in read_xml(tree.path(name)).iter("image")}
    return dict.fromkeys(sorted(subsets), files) or {"": files}


def cvat_folders(root: Path, files: list[Path], split: str) -> list[Path]:
    own = [file.parent for file in files]
    return [*(folder / "images" / split for folder in own), *(folder / "images" for folder in own), *own, root]


def read_cvat(collector: SourceCollector, files: list[Path]) -> None:
    for file in files:
        unread = collector.unread(file, (*CVAT_SHAPE, *CVAT_IMAGE))
        root = read_xml(file)
        if root.find("track") is not None:
            hint = 'export the task again as "CVAT for images 1.1" or COCO'
            raise DataError(f"{file}: tracks of a video, which are not read", hint)
        unread.update(f"<{child.tag}>" for child in root if child.tag not in ("version", "meta", "image"))
        for index, image in enumerate(root.iter("image")):
            if (image.get("subset") or "") != collector.split:
                continue
            location = f"{file}:image[{index}]"
            unread.update(f"image.{name}" for name in image.keys() if name not in CVAT_IMAGE)  # noqa: SIM118 - an Element
            path = collector.find(image.get("name"), location, "name")
            if path is not None:
                boxes = [
                    box
                    for k, shape in enumerate(image)
                    if (box := _cvat_box(shape, image, path, f"{location}.{shape.tag}[{k}]", collector, unread))
                    is not None
                ]
                collector.add(path, boxes=boxes)


def _cvat_box(
    shape: Element, image: Element, path: Path, location: str, collector: SourceCollector, unread: Counter[str]
) -> Box | None:
    if shape.tag not in ("box", "polygon", "ellipse"):
        unread[f"image.<{shape.tag}>"] += 1
        return None
    known = (*CVAT_SHAPE, "cx", "cy", "rx", "ry")
    unread.update(f"image.{shape.tag}.{name}" for name in shape.keys() if name not in known)  # noqa: SIM118
    label = label_of(shape.get("label", ""), location, "label")
    if shape.tag == "box":
        corners: tuple[float, ...] = tuple(
            number(shape.get(side), location, side) for side in ("xtl", "ytl", "xbr", "ybr")
        )
        if number(shape.get("rotation", "0"), location, "rotation"):
            collector.notes["rotated boxes, read without their rotation"] += 1
    elif shape.tag == "ellipse":
        x, y, across, down = (number(shape.get(name), location, name) for name in ("cx", "cy", "rx", "ry"))
        corners = x - across, y - down, x + across, y + down
    else:
        points = [point.split(",") for point in shape.get("points", "").split(";") if "," in point]
        corners = span([p[0] for p in points], [p[1] for p in points], location, "points")
    sides = image.get("width"), image.get("height")
    stated = (number(sides[0], location, "width"), number(sides[1], location, "height")) if all(sides) else None
    size = collector.size_of(path, location, stated)
    given = {item.get("name", ""): (item.text or "").strip() for item in shape.findall("attribute")}
    return box_of(label, corners, size, location, shape.tag, attributes_of(given, location, "attribute", unread))


VOC_FIELDS = ("folder", "filename", "path", "source", "owner", "size", "segmented", "object")
VOC_OBJECT = ("name", "bndbox", "pose", "truncated", "difficult", "occluded", "attributes", "id", "deleted", "type")


def find_voc(tree: Tree) -> dict[str, list[str]]:
    """Return the files of each split, by folder; a VOC release keeps all splits in one folder."""
    names = tree.with_suffix(".xml")
    if not any(tree.xml_root(name) == "annotation" for name in (*spread(names), *names[:MOST_OPENED])):
        return {}
    return by_folder(names)


def voc_folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [*dict.fromkeys(file.parent for file in files), root / "JPEGImages", root / "images", root]


def read_voc(collector: SourceCollector, files: list[Path]) -> None:
    unread = collector.unread(collector.source, (*VOC_FIELDS, *VOC_OBJECT))
    for file in files:
        collector.files.add(file)
        root = read_xml(file)
        if root.tag != "annotation":
            collector.files.discard(file)
            continue
        unread.update(f"<{child.tag}>" for child in root if child.tag not in VOC_FIELDS)
        name = text_of(root, "filename") or text_of(root, "path")
        by_stem = [f"{file.stem}{suffix}" for suffix in READ_SUFFIXES]
        path = collector.find(name or by_stem[0], str(file), "filename", *by_stem)
        if path is not None:
            collector.add(path, boxes=_voc_boxes(root, path, file, collector, unread))


def _voc_boxes(root: Element, path: Path, file: Path, collector: SourceCollector, unread: Counter[str]) -> list[Box]:
    sides = [text_of(root, f"size/{side}") for side in ("width", "height")]
    stated = None
    if all(side not in ("", "0") for side in sides):
        stated = number(sides[0], str(file), "size.width"), number(sides[1], str(file), "size.height")
    boxes = []
    for index, item in enumerate(root.findall("object")):
        location = f"{file}:object[{index}]"
        unread.update(f"object.<{child.tag}>" for child in item if child.tag not in VOC_OBJECT)
        box = item.find("bndbox")
        label = label_of(text_of(item, "name"), location, "name")
        if box is None:
            raise RecordError(location, "bndbox", "is missing", "draw its box, or remove the object")
        corners = [number(text_of(box, side), location, f"bndbox.{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        listed = item.findall("attributes/attribute")
        texts = {text_of(attribute, "name"): text_of(attribute, "value") for attribute in listed}
        attributes = attributes_of(texts, location, "attributes", unread)
        size = collector.size_of(path, location, stated)
        boxes.append(box_of(label, corners, size, location, "bndbox", attributes))
    return boxes


CVAT = Family("CVAT's annotations.xml", find_cvat, cvat_folders, read_cvat)
VOC = Family("an .xml per image (Pascal VOC)", find_voc, voc_folders, read_voc)
