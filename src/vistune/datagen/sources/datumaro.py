"""Read Datumaro's own format: annotations/SPLIT.json with `items` and label categories, images/SPLIT/*."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vistune.datagen.sources.boxes import attributes_of, box_of, label_of, span
from vistune.datagen.sources.gathering import SourceCollector, count_filled
from vistune.datagen.sources.tree import READ_SUFFIXES, Tree
from vistune.files import read_json
from vistune.records import RecordError, count_unread, shown
from vistune.types import Box

TOP = ("dm_format_version", "media_type", "infos", "info", "categories", "items")
ITEM = ("id", "annotations", "image", "media", "attr")
ANNOTATION = ("id", "type", "attributes", "group", "label_id", "z_order", "bbox", "points", "caption", "object_id")


def find(tree: Tree) -> dict[str, list[str]]:
    return {PurePosixPath(name).stem: [name] for name in tree.of_form("Datumaro")}


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [root / "images" / split, root / "images", root / split, root, *(file.parent for file in files)]


def read(gathered: SourceCollector, files: list[Path]) -> None:
    for file in files:
        tree = read_json(file)
        unread = gathered.unread(file, (*ITEM, *ANNOTATION))
        count_filled(tree, TOP, unread)
        try:
            labels = [label["name"] for label in tree["categories"]["label"]["labels"]]
        except (LookupError, TypeError):
            labels = []
        for index, item in enumerate(tree["items"]):
            location = f"{file}:items[{index}]"
            if not isinstance(item, Mapping) or not isinstance(item.get("annotations", []), list):
                raise RecordError(location, "", f"expected an item, got {shown(item)}", "export it again")
            count_filled(item, ITEM, unread, "items[].")
            image = item.get("image") or item.get("media") or {}
            name = image.get("path") if isinstance(image, Mapping) else None
            own = [f"{item.get('id')}{suffix}" for suffix in READ_SUFFIXES]
            path = gathered.find(name or own[0], location, "image.path", *own)
            if path is not None:
                _add(gathered, path, item, labels, location, unread, file)


def _add(
    gathered: SourceCollector, path: Path, item: Mapping[str, Any], labels: list[Any], location: str, unread: Counter[str],
    file: Path,
) -> None:  # fmt: skip
    captions: list[str] = []
    boxes: list[Box] = []
    image = item.get("image") or item.get("media") or {}
    sides = image.get("size") if isinstance(image, Mapping) else None  # height first
    stated = (sides[1], sides[0]) if isinstance(sides, list) and len(sides) == 2 and all(sides) else None
    for index, row in enumerate(item.get("annotations", [])):
        place = f"{location}.annotations[{index}]"
        if not isinstance(row, Mapping):
            raise RecordError(place, "", f"expected an annotation, got {shown(row)}", "export it again")
        kind = row.get("type")
        if kind == "caption":
            if said := gathered.caption(row.get("caption"), place, "caption", file):
                captions.append(said)
        elif kind in ("bbox", "polygon"):
            count_unread(row, ANNOTATION, unread, "items[].annotations[].")
            label = row.get("label_id")
            if not isinstance(label, int) or not 0 <= label < len(labels):
                raise RecordError(place, "label_id", f"no label has the number {shown(label)}", "add the label")
            counted: Counter[str] = Counter()
            attributes = attributes_of(row.get("attributes"), place, "attributes", counted)
            unread.update({f"items[].annotations[].{name}": count for name, count in counted.items()})
            name = label_of(labels[label], place, "label_id")
            size = gathered.size_of(path, place, stated)
            boxes.append(box_of(name, _corners(row, kind, place), size, place, kind, attributes))
        else:
            unread[f"items[].annotations[] of type {kind}"] += 1
    gathered.add(path, captions=captions, boxes=boxes)


def _corners(row: Mapping[str, Any], kind: str, place: str) -> tuple[float, ...]:
    values = row.get("bbox" if kind == "bbox" else "points")
    if not isinstance(values, list) or len(values) < 4 or not all(type(value) in (int, float) for value in values):
        raise RecordError(place, kind, f"expected numbers, got {shown(values)}", "export it again")
    if kind == "polygon":
        return span(values[::2], values[1::2], place, "points")
    x, y, width, height = values[:4]
    return x, y, x + width, y + height
