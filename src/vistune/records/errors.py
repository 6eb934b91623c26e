"""Errors that name a record: `file:where:field: what is wrong`, with what to do about it."""

from __future__ import annotations

import re
from typing import Any

from vistune.errors import DataError

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


def location_of(file: object, number: int, nth: int = 0) -> str:
    """The one way in which a record's location is written, in the user's own file.

    `file:12` is line 12 · `file:12[3]` the record with index 3 of a JSON list, where an earlier record begins on the
    same line · `file.parquet:12` row 12 of a parquet file, from 1 · tar shards name the sample's key: `shard.tar:key`.
    """
    return f"{file}:{number}[{nth}]" if nth else f"{file}:{number}"


class RecordError(DataError):
    """One record is bad, the next may be good; `reason` is the short code that rejects are counted by."""

    def __init__(self, location: str, field: str, problem: str, hint: str) -> None:
        super().__init__(f"{location}:{field}: {problem}" if field else f"{location}: {problem}", hint)
        self.reason = f"bad_{re.split(r'[^a-z_]', field)[0] or 'row'}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the finished message, so that another process does not prefix it twice."""
        return restored, (self.message, self.hint, self.reason)


def restored(message: str, hint: str, reason: str) -> RecordError:
    """A RecordError whose message is complete."""
    error = RecordError("", "", message, hint)
    error.message, error.reason, error.args = message, reason, (message,)
    return error


def text(value: Any, location: str, field: str) -> str:
    """`value` if it is text that a UTF-8 file can hold. Raises RecordError."""
    if not isinstance(value, str):
        raise RecordError(location, field, f"text is wanted, got {shown(value)}", "write it as text")
    if bad := _NOT_TEXT.search(value):
        raise RecordError(location, field, f"the character {bad.group()!a} is not text", "remove it")
    return value


def shown(value: Any) -> str:
    """A value in a message: short, and printable whatever it holds."""
    written = ascii(value) if isinstance(value, str) and _NOT_TEXT.search(value) else repr(value)
    return written if len(written) <= 40 else f"{written[:37]}…"


def printable(name: Any) -> str:
    """A record's id in a message, whatever stands in its place."""
    return str(name).encode(errors="replace").decode().replace("\0", "?")
