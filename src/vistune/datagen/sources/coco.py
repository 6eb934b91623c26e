"""Read JSON in COCO form (`images`, `annotations` with captions or boxes, `categories`): COCO, and exports to it.

annotations/{captions,instances}_SPLIT.json (COCO, CVAT, Datumaro) · SPLIT/_annotations.coco.json (Roboflow) ·
result.json (Label Studio) · any other .json of that form
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vistune.datagen.sources.boxes import attributes_of, box_of, is_number, label_of, span
from vistune.datagen.sources.gathering import SourceCollector
from vistune.datagen.sources.tree import Tree, split_in
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
    """The COCO files of each split, recognised by name, otherwise by content."""
    found: dict[str, list[str]] = {}
    for name in tree.with_suffix(".json"):
        if official := OFFICIAL.fullmatch(name):
            found.setdefault(official[2], []).append(name)
    if found:
        return found
    for name in tree.of_form("COCO"):
        if not NOT_DESCRIBING.fullmatch(name):
            found.setdefault(split_in(name) or PurePosixPath(name).stem, []).append(name)
    return found


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    """Folders that may contain the images of a split, the most likely first."""
    beside = [place for file in files for place in (file.parent, file.parent / "images", file.parent / "data")]
    return [
        root / split,
        root / "images" / split,
        root / split / "images",
        *beside,
        root / "images",
        root / "data",
        root,
    ]


def read(gathered: SourceCollector, files: list[Path]) -> None:
    """Read the files of one split. Raises DataError for a file that is not in COCO form."""
    images: dict[str, dict[str, Any]] = {}
    captions: dict[str, list[str]] = {}
    boxes: dict[str, list[Box]] = {}
    crowds: dict[str, set[str]] = {}
    paths: dict[str, Path | None] = {}
    gathered.prefix = f"COCO_{gathered.split}_" if gathered.split else ""
    for file in files:
        tree = read_json(file)
        unread = gathered.unread(file, ANNOTATION | IMAGE)
        _check_lists(tree, file)
        count_unread(tree, TOP, unread)
        for index, image in enumerate(tree["images"]):
            location = f"{file}:images[{index}]"
            key = _add_image(image, images, location)
            count_unread(image, IMAGE, unread, "images[].")
            if key not in paths:
                paths[key] = gathered.find(image["file_name"], location, "file_name", *_other_names(image, gathered))
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
                if said := gathered.caption(row["caption"], location, "caption", file, even=False):
                    captions.setdefault(key, []).append(said)
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
                found = _box(row, labels[category], images[key], path, location, gathered, unread)
                if found is None:
                    gathered.notes["annotations with a mask (RLE) and no bbox"] += 1
                else:
                    boxes.setdefault(key, []).append(found)
    for key in sorted(images, key=natural):
        if (path := paths[key]) is not None:
            gathered.add(path, captions=captions.get(key, ()), boxes=boxes.get(key, ()), crowds=crowds.get(key, ()))


def _check_lists(tree: Any, file: Path) -> None:
    for key in ("images", "annotations"):
        if not isinstance(tree, dict) or not isinstance(tree.get(key), list):
            raise DataError(f"{file}:{key}: a COCO file has a list here", "check that the file is in COCO format")


def _key(value: Any, location: str, field: str) -> str:
    """An id as text; 1, 1.0 and "1" are equal. Raises RecordError."""
    if type(value) is int:
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise RecordError(location, field, f"expected a number or text, got {shown(value)}", "correct or remove it")
    return text(str(value), location, field)


def _add_image(image: Any, images: dict[str, dict[str, Any]], location: str) -> str:
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


def _other_names(image: Mapping[str, Any], gathered: SourceCollector) -> tuple[str, ...]:
    """The image's name with or without the prefix that COCO uses in 2014 file names but not in 2017 ones."""
    if not gathered.prefix:
        return ()
    bare = image["file_name"].removeprefix(gathered.prefix)
    return tuple(name for name in (bare, f"{gathered.prefix}{bare}") if name != image["file_name"])


def _labels(categories: Any, file: Path, unread: Counter[str]) -> dict[str, str]:
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
    row: Mapping[str, Any],
    label: str,
    image: Mapping[str, Any],
    path: Path,
    location: str,
    gathered: SourceCollector,
    unread: Counter[str],
) -> Box | None:
    """The box of an annotation, from `bbox` or what its polygons span; None where it has a mask alone."""
    stated = image.get("width"), image.get("height")
    size = gathered.size_of(path, location, stated if all(stated) else None)  # type: ignore[arg-type]
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
    attributes: Mapping[str, str] = {}
    if given := row.get("attributes"):
        counted: Counter[str] = Counter()
        attributes = attributes_of(given, location, "attributes", counted)
        unread.update({f"annotations[].{name}": count for name, count in counted.items()})
    return box_of(label, corners, size, location, "bbox", attributes)


def _span_of(segmentation: Any, location: str) -> tuple[float, float, float, float] | None:
    if not isinstance(segmentation, list):
        return None
    polygons = segmentation if any(isinstance(polygon, list) for polygon in segmentation) else [segmentation]
    if not all(isinstance(polygon, list) for polygon in polygons):
        hint = "write polygons as lists: [[x, y, x, y, x, y]]"
        raise RecordError(location, "segmentation", f"not a list of polygons: {shown(segmentation)}", hint)
    flat = [coordinate for polygon in polygons for coordinate in polygon]
    return span(flat[::2], flat[1::2], location, "segmentation")
