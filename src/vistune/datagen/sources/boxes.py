"""Convert boxes of every form to `Box`: corners, or corner and size; pixels or relative; polygons to their bounds."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard

from PIL import Image

from vistune.records import RecordError, count_unread, image_files, shown, text
from vistune.types import Box

JsonObject = Mapping[str, Any]  # an object of a user's file; its values are checked before they are used
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1
BoxForm = Literal["relative", "pixels", "coco"]
OBJECT_LABELS = ("categories", "category", "labels", "label", "names", "classes")
OBJECT_BOXES = ("bbox", "bboxes", "boxes", "box")
OBJECT_IGNORED = ("id", "area", "image_id", "bbox_id")
LARGEST = 1e9  # limit of a coordinate in pixels
NULLS = ("", "nan", "none", "null")  # how tables mark a missing caption, in upper or lower case
# Attribute values that do not describe how an object looks, such as CVAT's checkboxes.
_NO_WORDS = ("", "true", "false", "none", "null", "nan", "n/a", "unspecified", "__undefined__")


def box_of(
    label: str,
    corners: Sequence[float],
    size: tuple[float, float],
    location: str,
    field: str,
    attributes: Mapping[str, str] | None = None,
) -> Box:
    """Return a box from its corners (x0, y0, x1, y1) in an image of `size` (1 x 1: relative), clipped to the image.

    Annotators draw over the border, so a box is refused only if it is wholly outside or has a negative size.
    Raises RecordError.
    """
    width, height = size
    numbers = (width, height, *corners)
    if len(numbers) != 6 or not all(map(is_number, numbers)) or min(width, height) <= 0:
        raise RecordError(location, field, f"not a box: {shown(list(corners))} in {width} x {height}", "correct it")
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0:
        raise RecordError(location, field, f"a box of negative size: {shown(list(corners))}", "correct or remove it")
    if x0 > width or y0 > height or x1 < 0 or y1 < 0:
        unit = "the image" if size == (1, 1) else f"the image's {width:g} x {height:g} pixels"
        raise RecordError(
            location, field, f"the box {shown(list(corners))} is not within {unit}", "correct or remove it"
        )
    return Box(
        label,
        max(x0 / width, 0.0),
        max(y0 / height, 0.0),
        min(max(x1 / width, 0.0), 1.0),
        min(max(y1 / height, 0.0), 1.0),
        dict(attributes or {}),
    )


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that can be a coordinate; NaN and True are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def object_in(value: object, location: str, expected: str, hint: str = "export it again") -> JsonObject:
    """Return the value if it is an object. Raises RecordError, which names `expected`, for any other value."""
    if not isinstance(value, Mapping):
        raise RecordError(location, "", f"expected {expected}, got {shown(value)}", hint)
    return value


def list_in(value: object, location: str, field: str) -> list[object]:
    """Return the value if it is a list. Raises RecordError for any other value."""
    if not isinstance(value, list):
        raise RecordError(location, field, f"expected a list, got {shown(value)}", "export it again")
    return value


def is_missing(value: object) -> bool:
    """Return whether a cell or field marks its value as missing: None, NaN, or a text of NULLS."""
    if isinstance(value, float):
        return value != value
    return value is None or (isinstance(value, str) and value.strip().lower() in NULLS)


def count_filled(record: JsonObject, known: Collection[str], unread: Counter[str], prefix: str = "") -> None:
    """Like `count_unread`, but ignore empty fields: tools write many of them."""
    filled = {name: value for name, value in record.items() if value not in (None, "", [], {}, False)}
    count_unread(filled, known, unread, prefix)


def are_points(value: object) -> TypeGuard[list[list[object]]]:
    """Return whether a value is a list of pairs."""
    return isinstance(value, list) and all(isinstance(point, list) and len(point) == 2 for point in value)


def stated_size(fields: JsonObject, width: str, height: str) -> tuple[float, float] | None:
    """Return the size that a file states for an image, unchecked; None if a side is missing."""
    sides = fields.get(width), fields.get(height)
    return (sides[0], sides[1]) if sides[0] and sides[1] else None


def label_of(value: object, location: str, field: str) -> str:
    """Return the name of an object. Raises RecordError if it is not text or is empty."""
    label = " ".join(text(value, location, field).split())
    if not label:
        raise RecordError(location, field, "is empty", "name the object")
    return label


def number(value: object, location: str, field: str) -> float:
    """Return a number, which may be written as text. Raises RecordError."""
    try:
        parsed = float(value) if isinstance(value, str) else value
    except ValueError:
        parsed = None
    if parsed is None or not is_number(parsed):
        raise RecordError(location, field, f"expected a number, got {shown(value)}", "correct it")
    return float(parsed)


def numbers(fields: JsonObject, prefix: str, names: Sequence[str], location: str) -> list[float]:
    """Return several fields as numbers. Raises RecordError that names the field with its prefix."""
    return [number(fields.get(name), location, f"{prefix}{name}") for name in names]


def sized(x: float, y: float, width: float, height: float) -> Corners:
    """Return the corners of a box from one corner and the size."""
    return x, y, x + width, y + height


def around(x: float, y: float, across: float, down: float) -> Corners:
    """Return the corners of a box from its middle and its half width and height."""
    return x - across, y - down, x + across, y + down


def span(xs: object, ys: object, location: str, field: str) -> Corners:
    """Return the corners around points. Raises RecordError unless both lists hold numbers and are equally long."""
    if not isinstance(xs, list) or not isinstance(ys, list) or not xs or len(xs) != len(ys):
        raise RecordError(location, field, "points are missing", "correct or remove it")
    across, down = ([number(value, location, field) for value in values] for values in (xs, ys))
    return min(across), min(down), max(across), max(down)


def sizes_of(path: Path, location: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) of an image as it is shown, turned upright, and as it is stored.

    Only a PNG with an EXIF block is decoded, the block may follow the pixels; of other images the header is read.
    Raises RecordError if the file is not an image of the formats that are read.
    """
    try:
        with Image.open(path, formats=image_files.FORMATS) as image:
            stored = image.size
            turned = (image.format != "PNG" or _names_orientation(path)) and image_files.orientation_of(image) in (
                5,
                6,
                7,
                8,
            )
    except image_files.DAMAGE:
        hint = f"convert it to {', '.join(image_files.FORMATS)}, or give relative boxes"
        raise RecordError(location, "", f"{path} cannot be read as an image", hint) from None
    return (stored[1], stored[0]) if turned else stored, stored


def _names_orientation(path: Path) -> bool:
    """Return whether a chunk of a PNG may hold an orientation."""
    with path.open("rb") as file:
        start = len(image_files.PNG_MARK)
        file.seek(start)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"eXIf":
                return True
            if name in (b"tEXt", b"zTXt", b"iTXt") and re.search(b"exif|xmp", file.read(length)):
                return True
            start += 12 + length
            file.seek(start)
    return False


def attributes_of(
    attributes: object, location: str, field: str, unread: Counter[str], prefix: str = ""
) -> dict[str, str]:
    """Return the attributes that are words, such as {"color": "red"}; count numbers and yes/no as unread."""
    if attributes in (None, "", [], {}):
        return {}
    if not isinstance(attributes, Mapping):
        raise RecordError(
            location, field, f"expected attributes by name, got {shown(attributes)}", 'write {"color": "red"}'
        )
    kept = {}
    for name, value in attributes.items():
        if isinstance(value, str) and value.strip().lower() not in _NO_WORDS and not _is_digits(value):
            kept[str(name)] = value.strip()
        elif value not in (None, ""):
            unread[f"{prefix}attributes.{name}"] += 1
    return kept


def _is_digits(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def objects_in(cell: JsonObject, location: str, field: str, unread: Counter[str]) -> tuple[list[JsonObject], list[str]]:
    """Return (boxes, labels of crowds) of {"bbox": […], "categories": […]}, also with `iscrowd`."""
    bbox = next((name for name in OBJECT_BOXES if name in cell), None)
    label = next((name for name in OBJECT_LABELS if name in cell), None)
    if bbox is None or label is None or not isinstance(cell[bbox], list) or not isinstance(cell[label], list):
        hint = 'write {"bbox": [[x, y, width, height]], "categories": ["dog"]}'
        raise RecordError(location, field, f"no lists of boxes and labels: {shown(dict(cell))}", hint)
    count_unread(cell, (bbox, label, "iscrowd", *OBJECT_IGNORED), unread, f"{field}.")
    if len(cell[bbox]) != len(cell[label]):
        problem = f"{len(cell[bbox])} boxes and {len(cell[label])} labels"
        raise RecordError(location, field, problem, "one label per box")
    if any(isinstance(name, int) for name in cell[label]):
        hint = "write the names of the classes instead of their numbers"
        raise RecordError(location, f"{field}.{label}", f"numbers, not names: {shown(cell[label])}", hint)
    crowd = cell.get("iscrowd") or [0] * len(cell[bbox])
    if not isinstance(crowd, list) or len(crowd) != len(cell[bbox]):
        raise RecordError(location, f"{field}.iscrowd", f"expected a number per box, got {shown(crowd)}", "correct it")
    rows = list(zip(cell[bbox], cell[label], crowd, strict=True))
    boxes: list[JsonObject] = [{"label": name, "box": corners} for corners, name, is_crowd in rows if not is_crowd]
    return boxes, [label_of(name, location, f"{field}.{label}") for _, name, is_crowd in rows if is_crowd]


def listed_box(
    value: object, form: BoxForm, size: tuple[float, float], location: str, field: str, unread: Counter[str]
) -> Box:
    """Parse a box that is an item of a list. Raises RecordError."""
    attributes: dict[str, str] = {}
    if isinstance(value, Mapping):
        name = next((name for name in ("label", "category", "class", "name") if name in value), "label")
        label, corners = value.get(name), value.get("box", value.get("bbox"))
        count_unread(value, (name, "box", "bbox", "attributes"), unread, f"{field.partition('[')[0]}[].")
        attributes = attributes_of(value.get("attributes"), location, f"{field}.attributes", unread)
    elif isinstance(value, list) and len(value) == 5:
        label, *corners = value
    else:
        label = corners = None
    if not isinstance(label, str) or not isinstance(corners, list) or len(corners) != 4:
        hint = 'write {"label": "dog", "box": [x0, y0, x1, y1]} or ["dog", x0, y0, x1, y1]'
        raise RecordError(location, field, f"not a box: {str(value)[:60]}", hint)
    values = [number(c, location, field) for c in corners]
    if any(isinstance(c, str | bool) for c in corners):
        raise RecordError(location, field, f"expected four numbers, got {corners}", "correct the row")
    return box_in_form(label_of(label, location, field), values, form, size, location, field, attributes)


def box_in_form(
    label: str,
    values: list[float],
    form: BoxForm,
    size: tuple[float, float],
    location: str,
    field: str,
    attributes: Mapping[str, str] | None = None,
) -> Box:
    """Return a box. Raises RecordError if it is far outside the image: it probably has another form."""
    x0, y0, x1, y1 = values
    if form == "coco":
        x1, y1 = x0 + x1, y0 + y1
    wide, high = size
    slack = 0.01  # rounding, and boxes drawn a little over the edge
    if not (-slack <= x0 / wide <= x1 / wide <= 1 + slack and -slack <= y0 / high <= y1 / high <= 1 + slack):
        hint = "say how they are written: --boxes-as relative, pixels or coco (x, y, width, height)"
        raise RecordError(location, field, f"{values} is not a box of the form {form!r} in this image", hint)
    return box_of(label, (x0, y0, x1, y1), size, location, field, attributes)
