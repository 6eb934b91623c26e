"""Read XML of labelling tools: CVAT for images 1.1 (one `annotations.xml`) and Pascal VOC (one .xml per image)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

from vistune.datagen.sources.boxes import Corners, around, attributes_of, box_of, label_of, number, numbers, span
from vistune.datagen.sources.collector import SourceCollector
from vistune.datagen.sources.tree import (
    MOST_OPENED,
    PER_IMAGE,
    READ_SUFFIXES,
    Family,
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
                boxes = (
                    _cvat_box(shape, image, path, f"{location}.{shape.tag}[{k}]", collector, unread)
                    for k, shape in enumerate(image)
                )
                collector.add(path, boxes=[box for box in boxes if box is not None])


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
        x0, y0, x1, y1 = numbers(shape.attrib, "", ("xtl", "ytl", "xbr", "ybr"), location)
        corners: Corners = x0, y0, x1, y1
        if number(shape.get("rotation", "0"), location, "rotation"):
            collector.notes["rotated boxes, read without their rotation"] += 1
    elif shape.tag == "ellipse":
        corners = around(*numbers(shape.attrib, "", ("cx", "cy", "rx", "ry"), location))
    else:
        points = [point.split(",") for point in shape.get("points", "").split(";") if "," in point]
        corners = span([p[0] for p in points], [p[1] for p in points], location, "points")
    sides = image.get("width"), image.get("height")
    stated = (number(sides[0], location, "width"), number(sides[1], location, "height")) if all(sides) else None
    size = collector.size_of(path, location, stated)
    texts = {item.get("name", ""): (item.text or "").strip() for item in shape.findall("attribute")}
    return box_of(label, corners, size, location, shape.tag, attributes_of(texts, location, "attribute", unread))


VOC_FIELDS = ("folder", "filename", "path", "source", "owner", "size", "segmented", "object")
VOC_OBJECT = ("name", "bndbox", "pose", "truncated", "difficult", "occluded", "attributes", "id", "deleted", "type")


def find_voc(tree: Tree) -> dict[str, list[str]]:
    """Return the files of each split, by folder; a VOC release keeps all splits in one folder."""
    names = tree.with_suffix(".xml")
    if not any(tree.xml_root(name) == "annotation" for name in (*spread(names), *names[:MOST_OPENED])):
        return {}
    return by_folder(names)


def read_voc(collector: SourceCollector, files: list[Path]) -> None:
    unread = collector.unread(collector.source, (*VOC_FIELDS, *VOC_OBJECT))
    for file in files:
        root = read_xml(file)
        if root.tag != "annotation":
            continue
        collector.files.add(file)
        unread.update(f"<{child.tag}>" for child in root if child.tag not in VOC_FIELDS)
        name = text_of(root, "filename") or text_of(root, "path")
        same_name = [f"{file.stem}{suffix}" for suffix in READ_SUFFIXES]
        path = collector.find(name or same_name[0], str(file), "filename", *same_name)
        if path is not None:
            collector.add(path, boxes=_voc_boxes(root, path, file, collector, unread))


def _voc_boxes(root: Element, path: Path, file: Path, collector: SourceCollector, unread: Counter[str]) -> list[Box]:
    sides = {side: text_of(root, f"size/{side}") for side in ("width", "height")}
    stated = None
    if not {"", "0"} & set(sides.values()):
        width, height = numbers(sides, "size.", ("width", "height"), str(file))
        stated = width, height
    boxes = []
    for index, item in enumerate(root.findall("object")):
        location = f"{file}:object[{index}]"
        unread.update(f"object.<{child.tag}>" for child in item if child.tag not in VOC_OBJECT)
        box = item.find("bndbox")
        label = label_of(text_of(item, "name"), location, "name")
        if box is None:
            raise RecordError(location, "bndbox", "is missing", "draw its box, or remove the object")
        corners = [number(text_of(box, side), location, f"bndbox.{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        named = item.findall("attributes/attribute")
        texts = {text_of(attribute, "name"): text_of(attribute, "value") for attribute in named}
        attributes = attributes_of(texts, location, "attributes", unread)
        size = collector.size_of(path, location, stated)
        boxes.append(box_of(label, corners, size, location, "bndbox", attributes))
    return boxes


CVAT = Family("CVAT's annotations.xml", find_cvat, read_cvat, ("@/images/{split}", "@/images", "@", "."))
VOC = Family("an .xml per image (Pascal VOC)", find_voc, read_voc, ("@", "JPEGImages", "images", "."))
