"""Decode images in messages: `data:` URLs as common tools write them; other texts get an error with a remedy.

URL -> bytes within the limits of image files -> a decoded image
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from PIL import Image

from vistune.generation.fields import FieldError
from vistune.processor import LARGEST_FILE_BYTES, load_bytes
from vistune.records.image_files import SUFFIXES

LONGEST_HEADER = 1000  # characters before the comma
BLANKS = (" ", "\t", "\n", "\r", "\f", "\v")
BEGINNINGS = {"/9j/": "jpeg", "iVBORw0KGgo": "png", "R0lGOD": "gif", "UklGR": "webp"}  # first bytes in base64
BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{64,}={0,2}\s*")
URL_SAFE = str.maketrans("-_", "+/")
DATA = re.compile(r"\s*data:", re.IGNORECASE)
COMMA = re.compile(r",|%2c", re.IGNORECASE)
WITHOUT_SCHEME = re.compile(r"\s*(image/[\w.+-]+)?\s*;?\s*base64\s*,", re.IGNORECASE)
LINK = re.compile(r"\s*https?:/", re.IGNORECASE)
FILE = re.compile(r"\s*(file:|/|\\|~|\.{1,2}[/\\]|[a-z]:[/\\])", re.IGNORECASE)
SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)
FORM = 'send the image as "data:image/jpeg;base64," and then its bytes in base64'


def is_data_url(url: str) -> bool:
    return DATA.match(url) is not None


def is_link(url: str) -> bool:
    return LINK.match(url) is not None


def read_data_url(url: str, path: str) -> Image.Image:
    """Decode the image of a `data:` URL. Raises DataError that names `path`, the field of the URL.

    The limits of image files are checked before anything is decoded. The format is detected from the content; the
    URL's media type is ignored.
    """
    return load_bytes(bytes_of(url, path), path)


def bytes_of(url: str, path: str) -> bytes:
    """The bytes of a `data:` URL. Raises FieldError; for a URL that is too long, before decoding."""
    scheme = DATA.match(url)
    if scheme is None:
        raise url_error(url, path)
    comma = COMMA.search(url, scheme.end(), scheme.end() + LONGEST_HEADER)
    if comma is None:
        raise FieldError(path, "a data: URL without a comma before its bytes", FORM)
    header = unquote_to_bytes(url[scheme.end() : comma.start()]).decode("ascii", "replace")
    if "base64" not in [parameter.strip().lower() for parameter in header.split(";")]:
        raise FieldError(path, "a data: URL whose bytes are not base64", FORM)
    begin = comma.end()
    # Computed without a copy: a URL that is too long is refused before its payload is processed.
    idle = sum(url.count(blank, begin) for blank in BLANKS) + 2 * url.count("%", begin)
    if len(url) - begin - idle > LARGEST_FILE_BYTES * 4 // 3 + 4:
        raise FieldError(path, f"larger than {LARGEST_FILE_BYTES >> 20} MB", "send it smaller")
    return _decoded(url[begin:], path)


def _decoded(payload: str, path: str) -> bytes:
    """Decode base64. Line breaks, percent escapes, the URL-safe alphabet and missing padding are accepted."""
    if payload.startswith(("b'", 'b"')):
        hint = "in Python write base64.b64encode(data).decode()"
        raise FieldError(path, "not base64: it begins with b', as Python writes bytes", hint)
    try:
        written = unquote_to_bytes(payload) if "%" in payload else payload.encode("ascii")
        text = b"".join(written.split()).decode("ascii").translate(URL_SAFE).rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(path, "not base64", "send the image's bytes in base64") from None


def url_error(
    url: str,
    path: str,
    *,
    links: tuple[str, str] = ("a link, and links are not fetched here", FORM),
    files: str = f"the server opens no files; {FORM}",
) -> FieldError:
    """The error for a text that is not a `data:` URL: what it is, and what to send instead.

    Args:
        links: message and hint for an http link.
        files: hint for a path.
    """
    if not url.strip():
        return FieldError(path, "empty", FORM)
    if LINK.match(url):
        return FieldError(path, *links)
    begin = url[: 2 * LONGEST_HEADER].lstrip()
    if WITHOUT_SCHEME.match(begin):
        return FieldError(path, "a data: URL without its first word", 'begin it with "data:image/jpeg;base64,"')
    bare = begin.removeprefix("b'").removeprefix('b"')
    known = next((kind for mark, kind in BEGINNINGS.items() if bare.startswith(mark)), None)
    if known or (BASE64.fullmatch(begin) and not FILE.match(begin)):
        return FieldError(
            path, "base64 without a data: prefix", f'put "data:image/{known or "jpeg"};base64," before it'
        )
    if FILE.match(begin) or begin.rstrip().lower().endswith(SUFFIXES):
        return FieldError(path, "a path", files)
    if SCHEME.match(begin):
        return FieldError(path, "a link of a kind that is not read", FORM)
    return FieldError(path, "not a data: URL", FORM)
