"""What is wrong with a row: where (`path:line`, field), what was got, what to do; and text proved to be text."""

from __future__ import annotations

import re
from typing import Any

from vistune.errors import DataError

_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


class RowError(DataError):
    """One row is bad, the next may be good; `reason` is the short code that rejects are counted by."""

    def __init__(self, place: str, field: str, problem: str, hint: str) -> None:
        super().__init__(f"{place}:{field}: {problem}" if field else f"{place}: {problem}", hint)
        self.reason = f"bad_{re.split(r'[^a-z_]', field)[0] or 'row'}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes: as it is, not made anew of its parts."""
        return _again, (self.message, self.hint, self.reason)


def _again(message: str, hint: str, reason: str) -> RowError:
    error = RowError("", "", message, hint)
    error.message, error.reason, error.args = message, reason, (message,)
    return error


def text(value: Any, place: str, field: str) -> str:
    """`value` if it is text that a UTF-8 file can hold. Raises RowError."""
    if not isinstance(value, str):
        raise RowError(place, field, f"text is wanted, got {shown(value)}", "mend the row")
    if bad := _NO_TEXT.search(value):
        raise RowError(place, field, f"the character {bad.group()!a} is no text", "remove it")
    return value


def shown(value: Any) -> str:
    """A value in a message: short, and printable whatever it holds."""
    written = ascii(value) if isinstance(value, str) and _NO_TEXT.search(value) else repr(value)
    return written if len(written) <= 40 else f"{written[:37]}…"


def printable(name: Any) -> str:
    """What stands where a row's id should be, in a message."""
    return str(name).encode(errors="replace").decode().replace("\0", "?")
