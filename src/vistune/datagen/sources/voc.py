"""Read Pascal VOC: one .xml per image with its objects, as labelImg, CVAT and Roboflow write it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

from vistune.datagen.sources.boxes import attributes_of, box_of, label_of, number
from vistune.datagen.sources.gathering import SourceCollector
from vistune.datagen.sources.tree import MOST_OPENED, READ_SUFFIXES, Tree, by_folder, spread
from vistune.datagen.sources.xml_text import read_xml, text_of
from vistune.records import RecordError
from vistune.types import Box

TOP = ("folder", "filename", "path", "source", "owner", "size", "segmented", "object")
OBJECT = ("name", "bndbox", "pose", "truncated", "difficult", "occluded", "attributes", "id", "deleted", "type")


def find(tree: Tree) -> dict[str, list[str]]:
    """The files of each split, by folder; a VOC release keeps all splits in one folder."""
    names = tree.with_suffix(".xml")
    if not any(tree.xml_root(name) == "annotation" for name in (*spread(names), *names[:MOST_OPENED])):
        return {}
    return by_folder(names)


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [*dict.fromkeys(file.parent for file in files), root / "JPEGImages", root / "images", root]


def read(gathered: SourceCollector, files: list[Path]) -> None:
    unread = gathered.unread(gathered.source, (*TOP, *OBJECT))
    for file in files:
        gathered.files.add(file)
        root = read_xml(file)
        if root.tag != "annotation":
            gathered.files.discard(file)
            continue
        unread.update(f"<{child.tag}>" for child in root if child.tag not in TOP)
        name = text_of(root, "filename") or text_of(root, "path")
        own = [f"{file.stem}{suffix}" for suffix in READ_SUFFIXES]
        path = gathered.find(name or own[0], str(file), "filename", *own)
        if path is not None:
            gathered.add(path, boxes=_boxes(root, path, file, gathered, unread))


def _boxes(root: Element, path: Path, file: Path, gathered: SourceCollector, unread: Counter[str]) -> list[Box]:
    sides = [text_of(root, f"size/{side}") for side in ("width", "height")]
    stated = None
    if all(side not in ("", "0") for side in sides):
        stated = number(sides[0], str(file), "size.width"), number(sides[1], str(file), "size.height")
    found = []
    for index, thing in enumerate(root.findall("object")):
        location = f"{file}:object[{index}]"
        unread.update(f"object.<{child.tag}>" for child in thing if child.tag not in OBJECT)
        box = thing.find("bndbox")
        label = label_of(text_of(thing, "name"), location, "name")
        if box is None:
            raise RecordError(location, "bndbox", "is missing", "draw its box, or remove the object")
        corners = [number(text_of(box, side), location, f"bndbox.{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        given = {text_of(item, "name"): text_of(item, "value") for item in thing.findall("attributes/attribute")}
        kept = attributes_of(given, location, "attributes", unread)
        size = gathered.size_of(path, location, stated)
        found.append(box_of(label, corners, size, location, "bndbox", kept))
    return found
