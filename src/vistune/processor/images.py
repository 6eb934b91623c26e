"""Open images: check the file, convert it to upright RGB, and fit it to the vision tower's square.

Sizes and formats are checked from the header, before anything is decoded.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vistune.errors import DataError
from vistune.records.image_files import (
    DAMAGE,
    FORMATS,
    LARGEST_PIXELS,
    broken_chunk,
    foreign_kind,
    format_of,
    orientation_of,
)
from vistune.types import ImageRef, Spec

LARGEST_FILE_BYTES = 10 * 2**20
LARGEST_SIDE, SMALLEST_SIDE = 8192, 2  # pixels
LARGEST_ASPECT = 100
TRANSPOSITIONS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"xmp")  # a PNG with an orientation contains one of these


def open_image(image: ImageRef) -> Image.Image:
    """Open an image as upright RGB: EXIF applied, first frame, transparency over white, 16 bits scaled to 8.

    Raises:
        DataError: If the file is missing, damaged, of another format or outside the limits; names the file.
    """
    if isinstance(image.source, Image.Image):
        _refuse_size(image.source, "an image in memory")
        return upright_rgb(image.source)
    return decode(read_image(image.source), str(image.source))


def read_image(path: Path) -> bytes:
    """Return the bytes of an image file. Raises DataError if it is missing, unreadable or too large."""
    return _checked(path).read_bytes()


def image_size(image: ImageRef) -> tuple[int, int]:
    """Return (width, height) in pixels of the upright image, from its header. Raises DataError as `open_image` does."""
    if isinstance(image.source, Image.Image):
        _refuse_size(image.source, "an image in memory")
        return _upright_size(image.source)
    location = str(image.source)
    with _checked(image.source).open("rb") as file:
        opened = _open(file, location)
        if opened.format != "PNG":
            return _upright_size(opened)
        file.seek(0)
        data = file.read()
    if not any(mark in data for mark in PNG_EXIF):
        return opened.size
    return _upright_size(load_bytes(data, location))  # a PNG may store its orientation after its pixels


def _checked(path: Path) -> Path:
    """Return the path after checking that the file can be read and is small enough."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such image", "check the path and the image folder")
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise DataError(f"{path}: larger than {LARGEST_FILE_BYTES >> 20} MB", "reduce the image's size or quality")
        with path.open("rb"):
            return path
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "check the file's permissions") from None


def _open(file: BinaryIO, location: str) -> Image.Image:
    """Open an encoded image without decoding it, and check its header against the limits."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(f"{location}: more than {LARGEST_PIXELS} pixels", "resize it") from None
    except DAMAGE as error:
        file.seek(0)
        raise _unreadable(file.read(), location, error) from None
    _refuse_size(image, location)
    return image


def _unreadable(data: bytes, location: str, error: BaseException) -> DataError:
    """Return the error for bytes that Pillow does not decode.

    Pillow's own message is not used: it may contain bytes of the file or memory addresses.
    """
    form = format_of(data)
    if form is None:
        what, hint = foreign_kind(data)
        return DataError(f"{location}: not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image: {what}", hint)
    chunk = broken_chunk(data) if form == "PNG" else None
    why = ""
    if chunk:
        why = f": the checksum of its {chunk} chunk is wrong"
    elif "too large for" in str(error):
        why = ": its metadata is too large"
    return DataError(f"{location}: a damaged or cut-off {form} image{why}", "save or download it again")


def _refuse_size(image: Image.Image, location: str) -> None:
    width, height = image.size
    if not SMALLEST_SIDE <= min(width, height) <= max(width, height) <= LARGEST_SIDE:
        raise DataError(
            f"{location}: {width}x{height} pixels; each side must have {SMALLEST_SIDE} to {LARGEST_SIDE}", "resize it"
        )
    if width * height > LARGEST_PIXELS:
        raise DataError(f"{location}: {width}x{height} pixels; at most {LARGEST_PIXELS} are allowed", "resize it")
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise DataError(
            f"{location}: {width}x{height} pixels; one side may be at most {LARGEST_ASPECT} times the other",
            "crop it",
        )


def decode(data: bytes, location: str) -> Image.Image:
    """Decode an image as upright RGB. Raises DataError as `open_image` does; `location` names the image in messages."""
    return upright_rgb(load_bytes(data, location))


def load_bytes(data: bytes, location: str) -> Image.Image:
    """Decode an image without applying its EXIF orientation, after checking its size and header."""
    if len(data) > LARGEST_FILE_BYTES:
        raise DataError(f"{location}: larger than {LARGEST_FILE_BYTES >> 20} MB", "reduce the image's size or quality")
    image = _open(io.BytesIO(data), location)
    try:
        if image.format == "PNG":
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # load() does not check the checksums
        image.load()
    except DAMAGE as error:
        raise _unreadable(data, location, error) from None
    return image


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return (image.height, image.width) if orientation_of(image) in (5, 6, 7, 8) else image.size


def upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, and convert to RGB: transparency over white, 16 bits scaled to 8."""
    transposition = TRANSPOSITIONS.get(orientation_of(image))
    image = image if transposition is None else image.transpose(transposition)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image, dtype=np.float64) / 257  # 65535 -> 255: scaled, not clipped
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def pad_to_square(image: Image.Image, spec: Spec) -> Image.Image:
    """Paste the image on a square canvas of colour int(mean * 255), as LLaVA-1.5 does; (122, 116, 104) for CLIP."""
    side = max(image.size)
    if image.width == image.height:
        return image
    red, green, blue = (int(mean * 255) for mean in spec.image_mean)
    canvas = Image.new("RGB", (side, side), (red, green, blue))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def fit(image: Image.Image, spec: Spec) -> Image.Image:
    """Fit an image to the tower's square: resize the shorter edge or stretch (`image_fit`), and cut out the centre."""
    side, resample = spec.image_side, Image.Resampling(spec.image_resample)
    size = resized_to(image.size, spec)
    if image.size != size:
        image = image.resize(size, resample)
    left, top = cut_corner(size, spec)
    return image if size == (side, side) else image.crop((left, top, left + side, top + side))


def cut_corner(size: tuple[int, int], spec: Spec) -> tuple[int, int]:
    """Return (left, top) of the square that is cut out of a resized image."""
    rounded = round if spec.image_fit == "crop_round" else math.floor
    return rounded((size[0] - spec.image_side) / 2), rounded((size[1] - spec.image_side) / 2)


def resized_to(size: tuple[int, int], spec: Spec) -> tuple[int, int]:
    """Return (width, height) to which an image of this size is resized before the centre is cut out.

    A padded image is not cut: padding is meant to keep all of it.
    """
    edge = spec.image_resize if spec.image_resize and spec.image_mode != "pad" else spec.image_side
    width, height = size
    if spec.image_fit == "stretch":
        return edge, edge
    scaled = int(edge * max(width, height) / min(width, height))
    return (edge, scaled) if width <= height else (scaled, edge)
