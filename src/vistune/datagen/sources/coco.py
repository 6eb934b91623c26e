"""Read JSON in COCO form (`images`, `annotations` with captions or boxes, `categories`), and Datumaro's JSON.

COCO form: annotations/{captions,instances}_SPLIT.json (COCO, CVAT, Datumaro), SPLIT/_annotations.coco.json (Roboflow),
result.json (Label Studio), and any other .json of that form.
Datumaro: annotations/SPLIT.json with `items` and label categories, and images/SPLIT/*.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vistune.datagen.sources.boxes import JsonObject, attributes_of, box_of, is_number, label_of, span
from vistune.datagen.sources.collector import Family, SourceCollector, count_filled
from vistune.datagen.sources.tree import READ_SUFFIXES, Tree, split_in
from vistune.errors import DataError
from vistune.files import read_json
from vistune.records import RecordError, count_unread, shown, text
from vistune.records.tar import natural
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
CATEGORY = frozenset({"id", "name", "supercategory", "color", "isthing"})


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


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    """Return the folders that may contain the images of a split, the most likely first."""
    near_files = [folder for file in files for folder in (file.parent, file.parent / "images", file.parent / "data")]
    return [
        root / split,
        root / "images" / split,
        root / split / "images",
        *near_files,
        root / "images",
        root / "data",
        root,
    ]


def read(collector: SourceCollector, files: list[Path]) -> None:
    """Read the files of one split. Raises DataError for a file that is not in COCO form."""
    images: dict[str, JsonObject] = {}
    captions: dict[str, list[str]] = {}
    boxes: dict[str, list[Box]] = {}
    crowds: dict[str, set[str]] = {}
    paths: dict[str, Path | None] = {}
    collector.prefix = f"COCO_{collector.split}_" if collector.split else ""
    for file in files:
        tree = read_json(file)
        unread = collector.unread(file, ANNOTATION | IMAGE)
        _check_lists(tree, file)
        count_unread(tree, TOP, unread)
        for index, image in enumerate(tree["images"]):
            location = f"{file}:images[{index}]"
            key = _add_image(image, images, location)
            count_unread(image, IMAGE, unread, "images[].")
            if key not in paths:
                paths[key] = collector.find(image["file_name"], location, "file_name", *_other_names(image, collector))
        labels = _labels(tree.get("categories") or [], file, unread)
        for index, row in enumerate(tree["annotations"]):
            location = f"{file}:annotations[{index}]"
            if not isinstance(row, Mapping):
                raise RecordError(location, "", f"expected an object, got {shown(row)}", "correct or remove it")
            count_unread(row, ANNOTATION, unread, "annotations[].")
            key = _key(row.get("image_id"), location, "image_id")
            if key not in images:
                raise RecordError(location, "image_id", f"no image has the id {shown(row.get('image_id'))}",
                                  "add the image or remove the annotation")  # fmt: skip
            if "caption" in row:
                if caption := collector.caption(row["caption"], location, "caption", file, even=False):
                    captions.setdefault(key, []).append(caption)
                if row.get("category_id") is None:
                    continue
            elif row.get("category_id") is None:
                raise RecordError(location, "", "neither a `caption` nor a `category_id`", "correct or remove it")
            category = _key(row.get("category_id"), location, "category_id")
            if category not in labels:
                raise RecordError(location, "category_id", f"no category has the id {shown(row.get('category_id'))}",
                                  "add the category or remove the annotation")  # fmt: skip
            if row.get("iscrowd"):  # its box covers a group of unknown size
                crowds.setdefault(key, set()).add(labels[category])
            elif (path := paths[key]) is not None:
                box = _box(row, labels[category], images[key], path, location, collector, unread)
                if box is None:
                    collector.notes["annotations with a mask (RLE) and no bbox"] += 1
                else:
                    boxes.setdefault(key, []).append(box)
    for key in sorted(images, key=natural):
        if (path := paths[key]) is not None:
            collector.add(path, captions=captions.get(key, ()), boxes=boxes.get(key, ()), crowds=crowds.get(key, ()))


def _check_lists(tree: object, file: Path) -> None:
    for key in ("images", "annotations"):
        if not isinstance(tree, dict) or not isinstance(tree.get(key), list):
            raise DataError(f"{file}:{key}: a COCO file has a list here", "check that the file is in COCO format")


def _key(value: object, location: str, field: str) -> str:
    """Return an id as text; 1, 1.0 and "1" are equal. Raises RecordError."""
    if type(value) is int:
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise RecordError(location, field, f"expected a number or text, got {shown(value)}", "correct or remove it")
    return text(str(value), location, field)


def _add_image(image: object, images: dict[str, JsonObject], location: str) -> str:
    if not isinstance(image, dict):
        raise RecordError(location, "", f"expected an object, got {shown(image)}", "correct or remove it")
    key = _key(image.get("id"), location, "id")
    name = text(image.get("file_name"), location, "file_name")
    before = images.setdefault(key, image)
    if before is not image:
        if PurePosixPath(before["file_name"]).name != PurePosixPath(name).name:
            raise RecordError(location, "id", f"{key} is the id of {before['file_name']!r} too", "one id per image")
        images[key] = {**before, **{name: value for name, value in image.items() if value is not None}}
    return key


def _other_names(image: JsonObject, collector: SourceCollector) -> tuple[str, ...]:
    """Return the image's name with or without the prefix that COCO uses in 2014 file names but not in 2017 ones."""
    if not collector.prefix:
        return ()
    bare = image["file_name"].removeprefix(collector.prefix)
    return tuple(name for name in (bare, f"{collector.prefix}{bare}") if name != image["file_name"])


def _labels(categories: object, file: Path, unread: Counter[str]) -> dict[str, str]:
    if not isinstance(categories, list):
        raise DataError(f"{file}:categories: a COCO file has a list here", "check that the file is in COCO format")
    labels: dict[str, str] = {}
    for index, category in enumerate(categories):
        location = f"{file}:categories[{index}]"
        if not isinstance(category, Mapping):
            raise RecordError(location, "", f"expected an object, got {shown(category)}", "correct it")
        count_unread(category, CATEGORY, unread, "categories[].")
        key = _key(category.get("id"), location, "id")
        name = label_of(category.get("name"), location, "name")
        if labels.setdefault(key, name) != name:
            raise RecordError(location, "id", f"{key} is the id of {labels[key]!r} and of {name!r}", "one id per name")
    return labels


def _box(
    row: JsonObject,
    label: str,
    image: JsonObject,
    path: Path,
    location: str,
    collector: SourceCollector,
    unread: Counter[str],
) -> Box | None:
    """Return the box of an annotation, from `bbox` or around its polygons; None if it has only a mask."""
    stated = image.get("width"), image.get("height")
    size = collector.size_of(path, location, stated if all(stated) else None)  # type: ignore[arg-type]
    if row.get("bbox") in (None, []) and row.get("segmentation"):
        corners = _span_of(row["segmentation"], location)
        if corners is None:
            return None
    else:
        bbox = row.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
            raise RecordError(location, "bbox", f"expected [x, y, width, height], got {shown(bbox)}", "correct it")
        x, y, width, height = bbox
        corners = x, y, x + width, y + height
    attributes = attributes_of(row.get("attributes") or None, location, "attributes", unread, "annotations[].")
    return box_of(label, corners, size, location, "bbox", attributes)


def _span_of(segmentation: object, location: str) -> tuple[float, float, float, float] | None:
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


def datumaro_folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [root / "images" / split, root / "images", root / split, root, *(file.parent for file in files)]


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
            image = item.get("image") or item.get("media") or {}
            name = image.get("path") if isinstance(image, Mapping) else None
            by_id = [f"{item.get('id')}{suffix}" for suffix in READ_SUFFIXES]
            path = collector.find(name or by_id[0], location, "image.path", *by_id)
            if path is not None:
                _add_item(collector, path, item, labels, location, file)


def _add_item(
    collector: SourceCollector, path: Path, item: JsonObject, labels: list[object], location: str, file: Path
) -> None:
    unread = collector.unread(file)
    captions: list[str] = []
    boxes: list[Box] = []
    image = item.get("image") or item.get("media") or {}
    sides = image.get("size") if isinstance(image, Mapping) else None  # height first
    stated = (sides[1], sides[0]) if isinstance(sides, list) and len(sides) == 2 and all(sides) else None
    for index, row in enumerate(item.get("annotations", [])):
        item_location = f"{location}.annotations[{index}]"
        if not isinstance(row, Mapping):
            raise RecordError(item_location, "", f"expected an annotation, got {shown(row)}", "export it again")
        kind = row.get("type")
        if kind == "caption":
            if caption := collector.caption(row.get("caption"), item_location, "caption", file):
                captions.append(caption)
        elif kind in ("bbox", "polygon"):
            count_unread(row, DATUMARO_ANNOTATION, unread, "items[].annotations[].")
            label = row.get("label_id")
            if not isinstance(label, int) or not 0 <= label < len(labels):
                raise RecordError(item_location, "label_id", f"no label has the number {shown(label)}", "add the label")
            fields, prefix = row.get("attributes"), "items[].annotations[]."
            attributes = attributes_of(fields, item_location, "attributes", unread, prefix)
            name = label_of(labels[label], item_location, "label_id")
            size = collector.size_of(path, item_location, stated)
            boxes.append(box_of(name, _item_corners(row, kind, item_location), size, item_location, kind, attributes))
        else:
            unread[f"items[].annotations[] of type {kind}"] += 1
    collector.add(path, captions=captions, boxes=boxes)


def _item_corners(row: JsonObject, kind: str, item_location: str) -> tuple[float, ...]:
    values = row.get("bbox" if kind == "bbox" else "points")
    if not isinstance(values, list) or len(values) < 4 or not all(type(value) in (int, float) for value in values):
        raise RecordError(item_location, kind, f"expected numbers, got {shown(values)}", "export it again")
    if kind == "polygon":
        return span(values[::2], values[1::2], item_location, "points")
    x, y, width, height = values[:4]
    return x, y, x + width, y + height


COCO = Family("a COCO .json (images, annotations)", find, folders, read)
DATUMARO = Family("a Datumaro .json (items, categories)", find_datumaro, datumaro_folders, read_datumaro)
