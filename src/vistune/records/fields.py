"""Count the fields that vistune does not read, and report each once with its count.

records -> Counter of unread fields -> one UnreadField each, printed as a line or as JSON
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from vistune.errors import DataError

NAMED = 20  # most fields that are printed per file; --json has all


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
        """One line for a person."""
        noun = "record" if self.field.isidentifier() or "." not in self.field else "time"
        times = f"{self.count:,} {noun}{'' if self.count == 1 else 's'}"
        meant = f" (did you mean `{self.near}`?)" if self.near else ""
        return f'{self.file}: field "{self.field}" is not read: {times}{meant}'

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def count_unread(record: Mapping[str, Any], known: Collection[str], unread: Counter[str], prefix: str = "") -> None:
    """Count each field of `record` that is not among the `known` ones."""
    if names := record.keys() - known:
        unread.update(f"{prefix}{name}" for name in names)


def unread_fields(file: object, unread: Mapping[str, int], known: Iterable[str] = ()) -> list[UnreadField]:
    """The unread fields of one file, most frequent first; `known`: names that are read, for "did you mean"."""
    names = sorted(known)
    return [
        UnreadField(str(file), field, count, "" if field in names else _nearest(field, names))
        for field, count in sorted(unread.items(), key=lambda item: (-item[1], item[0]))
    ]


def _nearest(field: str, names: list[str]) -> str:
    """The known field of the same object with nearly this name; of a nested one its last part."""
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
