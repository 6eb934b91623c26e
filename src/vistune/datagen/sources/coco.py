"""Read JSON in COCO form (`images`, `annotations` with captions or boxes, `categories`), and Datumaro's JSON.

COCO form: annotations/{captions,instances}_SPLIT.json (COCO, CVAT, Datumaro), SPLIT/_annotations.coco.json (Roboflow),
result.json (Label Studio), and any other .json of that form.
Datumaro: annotations/SPLIT.json with `items` and label categories, and images/SPLIT/*.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vistune.datagen.sources.boxes import (
    Corners,
    JsonObject,
    attributes_of,
    box_of,
    count_filled,
    is_number,
    label_of,
    object_in,
    sized,
    span,
    stated_size,
)
from vistune.datagen.sources.collector import SourceCollector
from vistune.datagen.sources.tree import READ_SUFFIXES, Family, Tree, split_in
from vistune.errors import DataError
from vistune.files import read_json
from vistune.records import RecordError, count_unread, shown, text
from vistune.records.tar import natural
from vistune.scenes.draw import DESCRIPTION, SPLITS
from vistune.types import Box

OFFICIAL = re.compile(r"(?:.*/)?annotations/(captions|instances)_(.+)\.json")
NOT_DESCRIBING = re.compile(r"(?:.*/)?(?:person_keypoints|keypoints|panoptic|stuff|image_info)_.+\.json")
# Fields of COCO's format that do not describe the image.
TOP = frozenset({"images", "annotations", "categories", "info", "licenses", "type"})
IMAGE = frozenset(
    {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "date_captured", "flickr_id", "extra"}
)
ANNOTATION = frozenset(
    {"id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "attributes", "caption", "extra"}
)
DRAWN_ANNOTATION = ANNOTATION | {"language"}  # of `vistune scenes`; the caption itself shows its language
CATEGORY = frozenset({"id", "name", "supercategory", "color", "isthing"})
CORRECT = "correct or remove it"


def find(tree: Tree) -> dict[str, list[str]]:
    """Return the COCO files of each split, recognised by name, otherwise by content."""
    splits: dict[str, list[str]] = {}
    for name in tree.with_suffix(".json"):
        if official := OFFICIAL.fullmatch(name):
            splits.setdefault(official[2], []).append(name)
    if splits:
        return splits
    for name in tree.of_form("COCO"):
        if not NOT_DESCRIBING.fullmatch(name):
            splits.setdefault(split_in(name) or PurePosixPath(name).stem, []).append(name)
    return splits


@dataclass(slots=True)
class _Images:
    """The images and annotations of a split's files, by image id."""

    collector: SourceCollector
    unread: Counter[str] = field(default_factory=Counter)  # of the current file
    known: frozenset[str] = ANNOTATION  # fields of an annotation in the current file
    fields: dict[str, JsonObject] = field(default_factory=dict)
    paths: dict[str, Path | None] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    boxes: dict[str, list[Box]] = field(default_factory=lambda: defaultdict(list))
    crowds: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def read(collector: SourceCollector, files: list[Path]) -> None:
    """Read the files of one split. Raises DataError for a file that is not in COCO form."""
    images = _Images(collector)
    collector.prefix = f"COCO_{collector.split}_" if collector.split else ""
    for file in files:
        tree = read_json(file)
        unread = images.unread = collector.unread(file, ANNOTATION | IMAGE)
        for name in ("images", "annotations"):
            _check_list(tree.get(name) if isinstance(tree, dict) else None, file, name)
        count_unread(tree, TOP, unread)
        info = tree.get("info")
        is_drawn = isinstance(info, dict) and info.get("description") == DESCRIPTION
        images.known = DRAWN_ANNOTATION if is_drawn else ANNOTATION
        if is_drawn and collector.tree is not None:  # evaluation questions, which are not annotations
            collector.files.update(collector.tree.path(f"questions_{split}.jsonl") for split in SPLITS)
        for index, image in enumerate(tree["images"]):
            _add_image(image, images, f"{file}:images[{index}]")
            count_unread(image, IMAGE, unread, "images[].")
        labels = _labels(tree.get("categories") or [], file, unread)
        for index, row in enumerate(tree["annotations"]):
            _add_annotation(row, images, labels, f"{file}:annotations[{index}]", file)
    for key in sorted(images.fields, key=natural):
        if (path := images.paths[key]) is not None:
            collector.add(path, captions=images.captions[key], boxes=images.boxes[key], crowds=images.crowds[key])


def _check_list(value: object, file: Path, name: str) -> None:
    if not isinstance(value, list):
        raise DataError(f"{file}:{name}: a COCO file has a list here", "check that the file is in COCO format")


def _key(value: object, location: str, field: str) -> str:
    """Return an id as text; 1, 1.0 and "1" are equal. Raises RecordError."""
    if type(value) is int:
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise RecordError(location, field, f"expected a number or text, got {shown(value)}", "correct or remove it")
    return text(str(value), location, field)


def _add_image(value: object, images: _Images, location: str) -> None:
    image = object_in(value, location, "an object", CORRECT)
    key = _key(image.get("id"), location, "id")
    name = text(image.get("file_name"), location, "file_name")
    before = images.fields.setdefault(key, image)
    if before is not image:
        if PurePosixPath(before["file_name"]).name != PurePosixPath(name).name:
            raise RecordError(location, "id", f"{key} is the id of {before['file_name']!r} too", "one id per image")
        images.fields[key] = {**before, **{name: value for name, value in image.items() if value is not None}}
    if key not in images.paths:
        other_names = _other_names(name, images.collector.prefix)
        images.paths[key] = images.collector.find(name, location, "file_name", *other_names)


def _other_names(name: str, prefix: str) -> tuple[str, ...]:
    """Return the image's name with or without the prefix that COCO uses in 2014 file names but not in 2017 ones."""
    bare = name.removeprefix(prefix)
    return tuple(other for other in (bare, f"{prefix}{bare}") if other != name)


def _add_annotation(value: object, images: _Images, labels: Mapping[str, str], location: str, file: Path) -> None:
    collector = images.collector
    row = object_in(value, location, "an object", CORRECT)
    count_unread(row, images.known, images.unread, "annotations[].")
    image_id, category_id = row.get("image_id"), row.get("category_id")
    key = _key(image_id, location, "image_id")
    if key not in images.fields:
        hint = "add the image or remove the annotation"
        raise RecordError(location, "image_id", f"no image has the id {shown(image_id)}", hint)
    if "caption" in row:
        if caption := collector.caption(row["caption"], location, "caption", file, even=False):
            images.captions[key].append(caption)
        if category_id is None:
            return
    if category_id is None:
        raise RecordError(location, "", "neither a `caption` nor a `category_id`", CORRECT)
    label = labels.get(_key(category_id, location, "category_id"))
    if label is None:
        hint = "add the category or remove the annotation"
        raise RecordError(location, "category_id", f"no category has the id {shown(category_id)}", hint)
    path = images.paths[key]
    if row.get("iscrowd"):  # its box covers a group of unknown size
        images.crowds[key].add(label)
    elif path is not None:
        size = collector.size_of(path, location, stated_size(images.fields[key], "width", "height"))
        corners = _corners(row, location)
        if corners is None:
            collector.notes["annotations with a mask (RLE) and no bbox"] += 1
            return
        fields = row.get("attributes") or None
        attributes = attributes_of(fields, location, "attributes", images.unread, "annotations[].")
        images.boxes[key].append(box_of(label, corners, size, location, "bbox", attributes))


def _labels(categories: list[object], file: Path, unread: Counter[str]) -> dict[str, str]:
    _check_list(categories, file, "categories")
    labels: dict[str, str] = {}
    for index, value in enumerate(categories):
        location = f"{file}:categories[{index}]"
        category = object_in(value, location, "an object", "correct it")
        count_unread(category, CATEGORY, unread, "categories[].")
        key = _key(category.get("id"), location, "id")
        name = label_of(category.get("name"), location, "name")
        if labels.setdefault(key, name) != name:
            raise RecordError(location, "id", f"{key} is the id of {labels[key]!r} and of {name!r}", "one id per name")
    return labels


def _corners(row: JsonObject, location: str) -> Corners | None:
    """Return the corners of `bbox` or around the polygons; None if there is only a mask."""
    bbox = row.get("bbox")
    if bbox in (None, []) and row.get("segmentation"):
        return _span_of(row["segmentation"], location)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise RecordError(location, "bbox", f"expected [x, y, width, height], got {shown(bbox)}", "correct it")
    return sized(*bbox)


def _span_of(segmentation: object, location: str) -> Corners | None:
    if not isinstance(segmentation, list):
        return None
    polygons = segmentation if any(isinstance(polygon, list) for polygon in segmentation) else [segmentation]
    if not all(isinstance(polygon, list) for polygon in polygons):
        hint = "write polygons as lists: [[x, y, x, y, x, y]]"
        raise RecordError(location, "segmentation", f"not a list of polygons: {shown(segmentation)}", hint)
    flat = [coordinate for polygon in polygons for coordinate in polygon]
    return span(flat[::2], flat[1::2], location, "segmentation")


DATUMARO_FIELDS = ("dm_format_version", "media_type", "infos", "info", "categories", "items")
DATUMARO_ITEM = ("id", "annotations", "image", "media", "attr")
DATUMARO_ANNOTATION = (
    "id",
    "type",
    "attributes",
    "group",
    "label_id",
    "z_order",
    "bbox",
    "points",
    "caption",
    "object_id",
)


def find_datumaro(tree: Tree) -> dict[str, list[str]]:
    return {PurePosixPath(name).stem: [name] for name in tree.of_form("Datumaro")}


def read_datumaro(collector: SourceCollector, files: list[Path]) -> None:
    for file in files:
        tree = read_json(file)
        unread = collector.unread(file, (*DATUMARO_ITEM, *DATUMARO_ANNOTATION))
        count_filled(tree, DATUMARO_FIELDS, unread)
        try:
            labels = [label["name"] for label in tree["categories"]["label"]["labels"]]
        except (LookupError, TypeError):
            labels = []
        for index, item in enumerate(tree["items"]):
            location = f"{file}:items[{index}]"
            if not isinstance(item, Mapping) or not isinstance(item.get("annotations", []), list):
                raise RecordError(location, "", f"expected an item, got {shown(item)}", "export it again")
            count_filled(item, DATUMARO_ITEM, unread, "items[].")
            by_id = [f"{item.get('id')}{suffix}" for suffix in READ_SUFFIXES]
            path = collector.find(_image_of(item).get("path") or by_id[0], location, "image.path", *by_id)
            if path is not None:
                _add_item(collector, path, item, labels, location, file)


def _image_of(item: JsonObject) -> JsonObject:
    image = item.get("image") or item.get("media")
    return image if isinstance(image, Mapping) else {}


def _add_item(
    collector: SourceCollector, path: Path, item: JsonObject, labels: list[object], location: str, file: Path
) -> None:
    unread, prefix = collector.unread(file), "items[].annotations[]"
    captions: list[str] = []
    boxes: list[Box] = []
    sides = _image_of(item).get("size")  # height first
    stated = (sides[1], sides[0]) if isinstance(sides, list) and len(sides) == 2 and all(sides) else None
    for index, value in enumerate(item.get("annotations", [])):
        at = f"{location}.annotations[{index}]"
        row = object_in(value, at, "an annotation")
        kind = row.get("type")
        if kind == "caption":
            if caption := collector.caption(row.get("caption"), at, "caption", file):
                captions.append(caption)
        elif kind in ("bbox", "polygon"):
            count_unread(row, DATUMARO_ANNOTATION, unread, f"{prefix}.")
            label = row.get("label_id")
            if not isinstance(label, int) or not 0 <= label < len(labels):
                raise RecordError(at, "label_id", f"no label has the number {shown(label)}", "add the label")
            attributes = attributes_of(row.get("attributes"), at, "attributes", unread, f"{prefix}.")
            name = label_of(labels[label], at, "label_id")
            size = collector.size_of(path, at, stated)
            boxes.append(box_of(name, _item_corners(row, kind, at), size, at, kind, attributes))
        else:
            unread[f"{prefix} of type {kind}"] += 1
    collector.add(path, captions=captions, boxes=boxes)


def _item_corners(row: JsonObject, kind: str, location: str) -> Corners:
    values = row.get("bbox" if kind == "bbox" else "points")
    if not isinstance(values, list) or len(values) < 4 or not all(type(value) in (int, float) for value in values):
        raise RecordError(location, kind, f"expected numbers, got {shown(values)}", "export it again")
    return span(values[::2], values[1::2], location, "points") if kind == "polygon" else sized(*values[:4])


COCO = Family(
    "a COCO .json (images, annotations)",
    find,
    read,
    ("{split}", "images/{split}", "{split}/images", "@ @/images @/data", "images", "data", "."),
)
DATUMARO = Family(
    "a Datumaro .json (items, categories)",
    find_datumaro,
    read_datumaro,
    ("images/{split}", "images", "{split}", ".", "@"),
)
