"""Check the fields of a client's JSON: our own error messages, a list of unused fields, and images in `data:` URLs.

`data:` URLs are read as common tools write them; other texts get an error with a remedy.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote, unquote_to_bytes

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from vistune.errors import DataError
from vistune.processor import LARGEST_FILE_BYTES, load_bytes
from vistune.records.image_files import SUFFIXES

NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})  # values that request nothing
MOST_NAMED = 64  # characters of a field's name in a list of unused fields
AND_MORE = "and more"
KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a whole number",
    float: "a decimal number",
    str: "text",
    list: "a list",
    dict: "an object",
}

# Forms in which clients write images.
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


class FieldError(DataError):
    """An error in a field of a request. `path`: the field, such as `messages[0].content[1].text`."""

    def __init__(self, path: str, message: str, hint: str = "", *, is_unsupported: bool = False) -> None:
        super().__init__(f"{path or 'the body'}: {message}", hint)
        self.path = path
        self.is_unsupported = is_unsupported


class Body(BaseModel):
    """A client's JSON object, strictly typed. Unknown fields are kept, so that they can be reported.

    `refused`: unknown fields that would change the answer, each with its remedy.
    `neutral`: unknown fields, each with the values that request the default behaviour: not refused and not reported.
    For a name in `refused` but not in `neutral`, the values in NOTHING are neutral.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    refused: ClassVar[Mapping[str, str]] = {}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def extras(self) -> Iterator[tuple[str, bool]]:
        """Yield (name, whether it must be refused) of each unknown field whose value is not neutral."""
        for name, value in (self.model_extra or {}).items():
            is_refused = name in self.refused
            neutral = self.neutral.get(name) or (NOTHING if is_refused else ())
            if value not in neutral and not (is_refused and value is None):
                yield name, is_refused


def unused_fields(body: Body, path: str = "", most: int = 32) -> list[str]:
    """Return the paths of the unused fields, without indices and each once: `messages[].content[].cache_control`.

    At most `most` are listed, then AND_MORE. Raises FieldError for an unused field that would change the answer.
    """
    unused: dict[tuple[str, str], None] = {}
    for location, inner in _bodies(body, path):
        for name, is_refused in inner.extras():
            if is_refused:
                where = f"{location}.{name}" if location else name
                raise FieldError(where, "not supported", inner.refused[name], is_unsupported=True)
            if len(unused) <= most:
                unused.setdefault((without_indices(location), name))
    listed = [f"{generic}.{_written(name)}" if generic else _written(name) for generic, name in list(unused)[:most]]
    return [*listed, AND_MORE] if len(unused) > most else listed


def _bodies(body: Body, path: str) -> Iterator[tuple[str, Body]]:
    """Yield every object of a body with its path."""
    yield path, body
    for name in type(body).model_fields:
        value = getattr(body, name)
        inner = f"{path}.{name}" if path else name
        if isinstance(value, Body):
            yield from _bodies(value, inner)
        elif isinstance(value, list):
            for k, item in enumerate(value):
                if isinstance(item, Body):
                    yield from _bodies(item, f"{inner}[{k}]")


def _written(name: str) -> str:
    """Return a client's field name in ASCII; characters that are special in a header or path are percent-escaped."""
    kept = name[:MOST_NAMED] + ("..." if len(name) > MOST_NAMED else "")
    return quote(kept, safe="$:/@+", errors="replace") or '""'


def without_indices(path: str) -> str:
    """Convert `messages[0].content[1].text` to `messages[].content[].text`."""
    return re.sub(r"\[\d+\]", "[]", path)


def field_error(
    error: ValidationError,
    expected: Mapping[str, str],
    instead: Mapping[str, Mapping[str, str]],
    path: str = "",
) -> FieldError:
    """Return the error for the first fault of a body. The message has the type of the value, not its text.

    Args:
        expected: a field's path without indices -> the kind of value, so that the message does not depend on pydantic.
        instead: a field's path without indices -> known wrong values -> their remedies.
        path: the path of the validated object in the request.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    is_about_type = first["type"].startswith("union_tag")
    location = _path_of((path, *first["loc"]) if path else first["loc"]) + (".type" if is_about_type else "")
    generic = without_indices(location)
    value = first["input"]
    if is_about_type:
        value = value.get("type") if isinstance(value, dict) else None
    expectation = expected.get(generic, "of another kind")
    if isinstance(value, str) and value in instead.get(generic, {}):
        return FieldError(location, f"{value!r} is not supported", instead[generic][value])
    if first["type"] in ("missing", "union_tag_not_found"):
        return FieldError(location, "missing", f"give {expectation}")
    is_of_wrong_kind = first["type"].endswith("_type") or first["type"] == "int_from_float"
    got = f"; got {KINDS.get(type(value), 'something else')}" if is_of_wrong_kind else ""
    return FieldError(location, f"must be {expectation}{got}")


def _path_of(location: tuple[Any, ...]) -> str:
    """Format a path: `messages[0].content[1].text`. pydantic's type name after a part's index is removed."""
    path = ""
    for k, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
        elif not (k >= 2 and location[k - 2] == "content" and isinstance(location[k - 1], int)):
            path += f".{step}" if path else str(step)
    return path


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
    """Return the bytes of a `data:` URL. Raises FieldError; for a URL that is too long, before decoding."""
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
    """Return the error for a text that is not a `data:` URL, with a hint that names the right form.

    `links`: message and hint for an http link. `files`: hint for a path.
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
