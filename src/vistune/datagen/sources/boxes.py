"""Convert boxes of every form to `Box`: corners, or corner and size; pixels or relative; polygons to their bounds."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from PIL import ExifTags, Image

from vistune.records import RecordError, image_files, shown, text
from vistune.types import Box

JsonObject = Mapping[str, Any]  # an object of a user's file; its values are checked before they are used
LARGEST = 1e9  # limit of a coordinate in pixels
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


def span(xs: object, ys: object, location: str, field: str) -> tuple[float, float, float, float]:
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
            turned = (image.format != "PNG" or _names_orientation(path)) and _orientation(image) in (5, 6, 7, 8)
    except image_files.DAMAGE:
        hint = f"convert it to {', '.join(image_files.FORMATS)}, or give relative boxes"
        raise RecordError(location, "", f"{path} cannot be read as an image", hint) from None
    return (stored[1], stored[0]) if turned else stored, stored


def _orientation(image: Image.Image) -> int:
    """Return EXIF's number; 1 (upright) if it is missing or unreadable, as in training."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (ValueError, TypeError, SyntaxError, struct.error):
        return 1


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
