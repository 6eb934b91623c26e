"""Check the fields of a client's JSON: errors in our own words, and a list of the fields that were not used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from vistune.errors import DataError

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


class FieldError(DataError):
    """An error in a field of a request. `path`: the field, such as `messages[0].content[1].text`."""

    def __init__(self, path: str, message: str, hint: str = "", *, is_unsupported: bool = False) -> None:
        super().__init__(f"{path or 'the body'}: {message}", hint)
        self.path = path
        self.is_unsupported = is_unsupported


class Body(BaseModel):
    """A client's JSON object, strictly typed. Unknown fields are kept, so that they can be reported.

    `refused`: unknown fields that would change the answer, each with what to do instead.
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
    """Paths of the unused fields, without indices and each once: `messages[].content[].cache_control`.

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
    """Every object of a body with its path."""
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
    """A client's field name in ASCII; characters that are special in a header or path are percent-escaped."""
    kept = name[:MOST_NAMED] + ("..." if len(name) > MOST_NAMED else "")
    return quote(kept, safe="$:/@+", errors="replace") or '""'


def without_indices(path: str) -> str:
    """`messages[0].content[1].text` -> `messages[].content[].text`."""
    return re.sub(r"\[\d+\]", "[]", path)


def field_error(
    error: ValidationError,
    expected: Mapping[str, str],
    instead: Mapping[str, Mapping[str, str]],
    path: str = "",
) -> FieldError:
    """The error for the first fault of a body. The message has the type of the value, not its text.

    Args:
        expected: a field's path without indices -> what it must be, so that the message does not depend on pydantic.
        instead: a field's path without indices -> known wrong values -> what to do instead.
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
