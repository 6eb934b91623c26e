"""A record of a file, errors about it, and fields that vistune does not read.

An error is `file:location:field: problem`, with a hint on how to fix it. Unread fields are counted, and each is
reported once with its count: records -> Counter of unread fields -> one UnreadField each, printed as a line or as JSON.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches

from vistune.errors import DataError

NAMED = 20  # most fields that are printed per file; --json has all
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


def location_of(file: object, number: int, nth: int = 0) -> str:
    """Format the location of a record in the user's file. All messages use this format.

    - `file:12`: line 12
    - `file:12[3]`: index 3 of a JSON list, on line 12; only if another record begins on that line before it
    - `file.parquet:12`: row 12 of a parquet file, from 1
    - `shard.tar:key`: the sample with that key in a tar shard
    """
    return f"{file}:{number}[{nth}]" if nth else f"{file}:{number}"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file: its location, and its value or its error.

    `number`, `nth`: the numbers in `location` (`location_of`). `begin`, `size`, `crc`: the record's
    byte range and CRC-32, to read it again; -1 if the record cannot be read separately.
    """

    location: str
    value: object
    number: int = 0
    nth: int = 0
    begin: int = -1
    size: int = 0
    crc: int = 0


class RecordError(DataError):
    """One record is bad; the next one may be good. `reason`: short code by which rejects are counted."""

    def __init__(self, location: str, field: str, problem: str, hint: str) -> None:
        super().__init__(f"{location}:{field}: {problem}" if field else f"{location}: {problem}", hint)
        self.reason = f"bad_{re.split(r'[^a-z_]', field)[0] or 'row'}"

    def __reduce__(self) -> tuple[Callable[[str, str, str], RecordError], tuple[str, str, str]]:
        """Pickle the complete message, so that unpickling does not add the location again."""
        return restored, (self.message, self.hint, self.reason)


def restored(message: str, hint: str, reason: str) -> RecordError:
    """Return a RecordError whose message is complete."""
    error = RecordError("", "", message, hint)
    error.message, error.reason, error.args = message, reason, (message,)
    return error


def text(value: object, location: str, field: str) -> str:
    """Return `value` if it is text that can be encoded as UTF-8. Raises RecordError."""
    if not isinstance(value, str):
        raise RecordError(location, field, f"expected text, got {shown(value)}", "write it as text")
    if bad := _NOT_TEXT.search(value):
        raise RecordError(location, field, f"the character {bad.group()!a} is not text", "remove it")
    return value


def shown(value: object) -> str:
    """Format any value for a message: short and printable."""
    written = ascii(value) if isinstance(value, str) and _NOT_TEXT.search(value) else repr(value)
    return written if len(written) <= 40 else f"{written[:37]}…"


def printable(name: object) -> str:
    """Format a record's id for a message, of any type."""
    return str(name).encode(errors="replace").decode().replace("\0", "?")


@dataclass(frozen=True, slots=True)
class UnreadField:
    """A field of a file that vistune does not read.

    `field`: such as `difficulty` or `messages[].score`. `count`: the number of records, or of occurrences for a nested
    field. `near`: a field that is read and has a similar name.
    """

    file: str
    field: str
    count: int
    near: str = ""

    def __str__(self) -> str:
        """Return one line that names the field and its count."""
        noun = "record" if self.field.isidentifier() or "." not in self.field else "time"
        times = f"{self.count:,} {noun}{'' if self.count == 1 else 's'}"
        meant = f" (did you mean `{self.near}`?)" if self.near else ""
        return f'{self.file}: field "{self.field}" is not read: {times}{meant}'

    def to_dict(self) -> dict[str, str | int]:
        return asdict(self)


def count_unread(record: Mapping[str, object], known: Collection[str], unread: Counter[str], prefix: str = "") -> None:
    """Count each field of `record` that is not among the `known` ones."""
    if names := record.keys() - known:
        unread.update(f"{prefix}{name}" for name in names)


def unread_fields(file: object, unread: Mapping[str, int], known: Iterable[str] = ()) -> list[UnreadField]:
    """Return a file's unread fields, the most frequent first. `known`: names that are read, for "did you mean"."""
    names = sorted(known)
    return [
        UnreadField(str(file), field, count, "" if field in names else _nearest(field, names))
        for field, count in sorted(unread.items(), key=lambda item: (-item[1], item[0]))
    ]


def _nearest(field: str, names: list[str]) -> str:
    """Return the known field with nearly this name. A nested field is compared by the last part of its path."""
    path, _, last = field.rpartition(".")
    known = [name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == path]
    return next(iter(get_close_matches(last.lower(), known, n=1, cutoff=0.75)), "")


def lines_of(fields: Iterable[UnreadField]) -> list[str]:
    """Format one line per field, at most NAMED per file, and a line with the number of the others."""
    by_file: dict[str, list[UnreadField]] = {}
    for field in fields:
        by_file.setdefault(field.file, []).append(field)
    lines: list[str] = []
    for file, of_file in by_file.items():
        lines += map(str, of_file[:NAMED])
        if len(of_file) > NAMED:
            lines.append(f"{file}: {len(of_file) - NAMED} more fields are not read; --json names them all")
    return lines


def refuse_unread(fields: Iterable[UnreadField]) -> None:
    """Raise DataError if any field is not read (`--strict`)."""
    if lines := lines_of(fields):
        raise DataError("; ".join(lines), "remove these fields, or check without --strict")
