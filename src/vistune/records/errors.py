"""Errors about a record: `file:location:field: problem`, with a hint on how to fix it."""

from __future__ import annotations

import re
from typing import Any

from vistune.errors import DataError

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


def location_of(file: object, number: int, nth: int = 0) -> str:
    """Format the location of a record in the user's file. All messages use this format.

    - `file:12`: line 12
    - `file:12[3]`: index 3 of a JSON list, if an earlier record begins on the same line
    - `file.parquet:12`: row 12 of a parquet file, from 1
    - `shard.tar:key`: the sample with that key in a tar shard
    """
    return f"{file}:{number}[{nth}]" if nth else f"{file}:{number}"


class RecordError(DataError):
    """One record is bad; the next one may be good. `reason`: short code by which rejects are counted."""

    def __init__(self, location: str, field: str, problem: str, hint: str) -> None:
        super().__init__(f"{location}:{field}: {problem}" if field else f"{location}: {problem}", hint)
        self.reason = f"bad_{re.split(r'[^a-z_]', field)[0] or 'row'}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the complete message, so that unpickling does not add the location again."""
        return restored, (self.message, self.hint, self.reason)


def restored(message: str, hint: str, reason: str) -> RecordError:
    """A RecordError whose message is complete."""
    error = RecordError("", "", message, hint)
    error.message, error.reason, error.args = message, reason, (message,)
    return error


def text(value: Any, location: str, field: str) -> str:
    """Return `value` if it is text that can be encoded as UTF-8. Raises RecordError."""
    if not isinstance(value, str):
        raise RecordError(location, field, f"expected text, got {shown(value)}", "write it as text")
    if bad := _NOT_TEXT.search(value):
        raise RecordError(location, field, f"the character {bad.group()!a} is not text", "remove it")
    return value


def shown(value: Any) -> str:
    """Format any value for a message: short and printable."""
    written = ascii(value) if isinstance(value, str) and _NOT_TEXT.search(value) else repr(value)
    return written if len(written) <= 40 else f"{written[:37]}…"


def printable(name: Any) -> str:
    """Format a record's id for a message, of any type."""
    return str(name).encode(errors="replace").decode().replace("\0", "?")
