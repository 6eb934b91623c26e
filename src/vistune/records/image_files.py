"""The image formats that vistune reads, the same everywhere. No other decoder of Pillow opens a user's file."""

from __future__ import annotations

import re
import struct
import zlib

from PIL import ExifTags, Image

FORMAT_SUFFIXES = {  # by Pillow's name; files are written with the first suffix
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
}
FORMATS = tuple(FORMAT_SUFFIXES)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
LARGEST_PIXELS = 40_000_000
# Errors of Pillow on damaged files. LookupError and struct.error come from reading parts that are missing.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, LookupError, struct.error, Image.DecompressionBombError)

CONVERT = "convert it to JPEG or PNG"
AGAIN = "download it again"
PNG_MARK = b"\x89PNG\r\n\x1a\n"
MARKS = {"JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG\r\n", "WEBP": rb"RIFF.{4}WEBP", "GIF": rb"GIF8[79]a"}
KINDS = (  # how a file begins, what it is, and what to do
    (rb".{4}ftyp(avif|avis)", "it is an AVIF image", CONVERT),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "it is a HEIC image", CONVERT),
    (rb".{4}ftyp", "it is a video", "save a frame of it as JPEG or PNG"),
    (rb"\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "it is a video", "save a frame of it as JPEG or PNG"),
    (rb"\xff\x0a|.{4}JXL ", "it is a JPEG XL image", CONVERT),
    (rb".{4}jP  |\xff\x4f\xff\x51", "it is a JPEG 2000 image", CONVERT),
    (rb"II[*+]\0|MM\0[*+]", "it is a TIFF image", CONVERT),
    (rb"BM.{8}", "it is a BMP image", CONVERT),
    (rb"\0\0[\1\2]\0", "it is an ICO image", CONVERT),
    (rb"8BPS", "it is a Photoshop file", CONVERT),
    (rb"%PDF-", "it is a PDF", "save the page as JPEG or PNG"),
    (rb"%!PS", "it is PostScript", CONVERT),
    (rb"P[1-7]\s", "it is a PNM image", CONVERT),
    (rb"SIMPLE  =", "it is a FITS image", CONVERT),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "it is an archive", "unpack it"),
    (rb"version https://git-lfs", "it is a Git LFS pointer, not the file itself", "run `git lfs pull`"),
)
UNKNOWN = "its format is not known here", CONVERT
HEAD = 2000  # first bytes of a file that are inspected


def format_of(data: bytes) -> str | None:
    """Return the one of FORMATS that a file's first bytes indicate, or None."""
    return next((form for form, mark in MARKS.items() if re.match(mark, data, re.DOTALL)), None)


def foreign_kind(data: bytes) -> tuple[str, str]:
    """Return what a file in none of FORMATS is, and what to do about it."""
    head = data[:HEAD]
    if not head:
        return "it is empty", AGAIN
    for mark, what, hint in KINDS:
        if re.match(mark, head, re.DOTALL):
            return what, hint
    if b"\0" in head:
        return UNKNOWN
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < HEAD - 3:  # otherwise the end is cut within a character
            return UNKNOWN
        text = head[: error.start].decode("utf-8-sig")
    text = text.lstrip().lower()
    if text.startswith("<"):
        is_page = any(mark in text for mark in ("<!doctype html", "<html", "<head", "<body"))
        return ("it is a web page (HTML)", AGAIN) if is_page else _markup(text)
    return "it is JSON" if text.startswith(("{", "[")) else "it is text", AGAIN


def _markup(text: str) -> tuple[str, str]:
    return ("it is an SVG drawing", CONVERT) if "<svg" in text else ("it is XML", AGAIN)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (ValueError, TypeError, SyntaxError, struct.error):
        return 1


def broken_chunk(png: bytes) -> str | None:
    """Return the name of a PNG's first chunk with a wrong checksum; None if all complete chunks are correct."""
    at = len(PNG_MARK)
    while at + 12 <= len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        kind = bytes(name)
        end = at + 8 + length
        if end + 4 > len(png) or not kind.isalpha():
            return None
        if zlib.crc32(png[at + 4 : end]) != struct.unpack_from(">I", png, end)[0]:
            return kind.decode("ascii")
        at = end + 4
    return None
