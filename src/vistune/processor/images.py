"""Pictures as pixels: which files are read, how they are made upright RGB, and how they become a square tile.

path or PIL image -> upright RGB -> a square of the tower's side (tiles.py makes tensors of them)
Sizes and formats are judged from the header, before anything is decoded.
"""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from vistune.errors import DataError
from vistune.records.image_files import DAMAGE, FORMATS, LARGEST_PIXELS, broken_chunk, foreign_kind, format_of
from vistune.types import ImageRef, Spec

LARGEST_FILE_BYTES = 10 * 2**20
LARGEST_SIDE, SMALLEST_SIDE = 8192, 2  # pixels
LARGEST_ASPECT = 100
TURNS = {  # EXIF's orientations, 1 being upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"xmp")  # one of these is in a PNG that names an orientation


def open_image(image: ImageRef) -> Image.Image:
    """An upright RGB image: EXIF applied, first frame, transparency over white, 16 bits scaled.

    Raises DataError naming the file and what is wrong with it.
    """
    if isinstance(image.source, Image.Image):
        _refuse_size(image.source, "a picture in memory")
        return upright_rgb(image.source)
    return decode(read_image(image.source), str(image.source))


def read_image(path: Path) -> bytes:
    """A picture's file, encoded as it lies there. Raises DataError where it is none, or larger than is read."""
    return _checked(path).read_bytes()


def image_size(opened: ImageRef) -> tuple[int, int]:
    """(width, height) in pixels as the opened will stand, from its header. Raises DataError as `open_image`."""
    if isinstance(opened.source, Image.Image):
        _refuse_size(opened.source, "a opened in memory")
        return _upright_size(opened.source)
    place = str(opened.source)
    with _checked(opened.source).open("rb") as file:
        image = _open(file, place)
        if image.format != "PNG":
            return _upright_size(image)
        file.seek(0)
        data = file.read()
    if not any(mark in data for mark in PNG_EXIF):
        return image.size
    # A PNG may tell its orientation behind its pixels.
    return _upright_size(load_bytes(data, place))


def _checked(path: Path) -> Path:
    """A file that may be read whole."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such picture", "check the path and the picture folder")
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise DataError(f"{path}: larger than {LARGEST_FILE_BYTES >> 20} MB", "save it smaller")
        with path.open("rb"):
            return path
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "check the file's permissions") from None


def _open(file: BinaryIO, place: str) -> Image.Image:
    """An encoded picture, not decoded yet, whose header has passed the limits."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(f"{place}: more than the {LARGEST_PIXELS} pixels that are read", "resize it") from None
    except DAMAGE as error:
        file.seek(0)
        raise _unreadable(file.read(), place, error) from None
    _refuse_size(image, place)
    return image


def _unreadable(data: bytes, place: str, error: BaseException) -> DataError:
    """The error for bytes that Pillow does not decode.

    Pillow's own message is not used: it may contain bytes of the file or memory addresses.
    """
    form = format_of(data)
    if form is None:
        what, hint = foreign_kind(data)
        return DataError(f"{place}: not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image: {what}", hint)
    chunk = broken_chunk(data) if form == "PNG" else None
    why = ""
    if chunk:
        why = f": the checksum of its {chunk} chunk is wrong"
    elif "too large for" in str(error):
        why = ": its metadata is larger than is read"
    return DataError(f"{place}: a damaged or cut-off {form} image{why}", "save or download it again")


def _refuse_size(image: Image.Image, place: str) -> None:
    width, height = image.size
    if not SMALLEST_SIDE <= min(width, height) <= max(width, height) <= LARGEST_SIDE:
        raise DataError(
            f"{place}: {width}x{height} pixels; sides of {SMALLEST_SIDE} to {LARGEST_SIDE} are read", "resize it"
        )
    if width * height > LARGEST_PIXELS:
        raise DataError(f"{place}: {width}x{height} pixels is too many; {LARGEST_PIXELS} are read", "resize it")
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise DataError(
            f"{place}: {width}x{height} pixels is too narrow; one side may be {LARGEST_ASPECT} times the other",
            "crop it",
        )


def decode(data: bytes, place: str) -> Image.Image:
    """An encoded picture as upright RGB, after its header has passed the limits."""
    return upright_rgb(load_bytes(data, place))


def load_bytes(data: bytes, place: str) -> Image.Image:
    """An encoded picture as it lies in the file, not turned yet, after its size and header have passed the limits."""
    if len(data) > LARGEST_FILE_BYTES:
        raise DataError(f"{place}: larger than {LARGEST_FILE_BYTES >> 20} MB", "send it smaller")
    image = _open(io.BytesIO(data), place)
    try:
        if image.format == "PNG":
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # loading does not look at the pixels' checksums
        image.load()
    except DAMAGE as error:
        raise _unreadable(data, place, error) from None
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF's number; 1 where there is none, or none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (ValueError, TypeError, SyntaxError, struct.error):
        return 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return (image.height, image.width) if _orientation(image) in (5, 6, 7, 8) else image.size


def upright_rgb(image: Image.Image) -> Image.Image:
    turn = TURNS.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
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
    """On a square canvas of the mean colour, int(mean * 255): (122, 116, 104) for CLIP, as LLaVA-1.5 does."""
    side = max(image.size)
    if image.width == image.height:
        return image
    red, green, blue = (int(mean * 255) for mean in spec.image_mean)
    canvas = Image.new("RGB", (side, side), (red, green, blue))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def fit(image: Image.Image, spec: Spec) -> Image.Image:
    """A square of the tower's side: the shorter edge resized and the centre cut out, or both edges resized."""
    side, resample = spec.image_side, Image.Resampling(spec.image_resample)
    if spec.image_fit == "stretch":
        return image if image.size == (side, side) else image.resize((side, side), resample)
    width, height = image.size
    scaled = int(side * max(width, height) / min(width, height))
    size = (side, scaled) if width <= height else (scaled, side)
    if image.size != size:
        image = image.resize(size, resample)
    top, left = math.floor((size[1] - side) / 2), math.floor((size[0] - side) / 2)
    return image.crop((left, top, left + side, top + side))
