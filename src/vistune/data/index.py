"""A data file as an index: where each row lies, what it shows and how long it is; found again by the file's content.

data file + Processor -> Index (one pass, or out of the cache) -> chosen rows -> Rows: a Sample when a step needs it

A run holds no samples: 665,000 rows are some 40 bytes each, and resuming does not encode them again.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, overload
from zipfile import BadZipFile

import numpy as np

from vistune.data.faults import RowError
from vistune.data.pictures import PictureFolders
from vistune.data.readers import Written, printable, written_rows
from vistune.data.rows import READERS, kind_of, read_row
from vistune.errors import DataError
from vistune.files import read_text, replacing, sha256_of, user_cache
from vistune.processor import Processor
from vistune.types import IGNORE, Reject, Sample

Watch = Callable[[str, int], AbstractContextManager[Callable[..., None]]]

COLUMNS = {
    "begin": np.int64,  # bytes from the file's start
    "size": np.int32,  # bytes
    "line": np.int32,
    "kind": np.int16,  # a place in `kinds`
    "text_tokens": np.int32,  # image slots not counted: how many a picture takes is the vision tower's matter
    "learnt": np.int32,  # supervised tokens
    "pictures": np.int32,  # how many it shows
}
KEPT = 64  # indices in the cache
CHUNK = 256  # rows that a thread encodes at once


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be learnt from; its kind is "" where not even that can be read."""

    reject: Reject
    kind: str
    error: DataError
    line: int


@dataclass(frozen=True, slots=True)
class Index:
    """All good rows of one file, in its order, a column each; `faults` are the others.

    `shown` holds the rows' pictures one after another, as places in `names`, which are as the file writes them.
    """

    path: Path
    digest: str  # SHA-256 of the file
    columns: dict[str, np.ndarray]
    shown: np.ndarray
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    warnings: dict[str, int]
    folders: PictureFolders
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["begin"])

    def origin(self, row: int) -> str:
        return f"{self.path}:{self.columns['line'][row]}"

    def sample(self, row: int) -> Sample:
        """The row as it stands in the file. Raises DataError where the file is no longer what was indexed."""
        begin, size = int(self.columns["begin"][row]), int(self.columns["size"][row])
        try:
            with open(self.path, "rb") as file:
                file.seek(begin)
                value = json.loads(file.read(size))
            return read_row(value, self.origin(row), self.folders, Counter())
        except (OSError, ValueError, DataError) as error:
            raise DataError(
                f"{self.origin(row)}: cannot be read again ({error})",
                "the file changed while it was in use: start anew",
            ) from None

    def of_kind(self, wanted: Sequence[str] | None) -> np.ndarray:
        """Rows of these kinds, all of them without any named."""
        if not wanted:
            return np.arange(len(self))
        codes = [code for code, kind in enumerate(self.kinds) if kind in wanted]
        return np.flatnonzero(np.isin(self.columns["kind"], codes))

    def lengths(self, processor: Processor) -> np.ndarray:
        """Tokens of every row, image slots counted. Anyres opens each picture's header, other modes none."""
        slots = np.array([processor.slots(self.folders.find(name, str(self.path), "image")) for name in self.names])
        per_picture = slots[self.shown] if len(self.shown) else np.zeros(0, np.int64)
        ends = np.cumsum(self.columns["pictures"])
        sums = np.concatenate([[0], np.cumsum(per_picture)])
        return np.asarray(self.columns["text_tokens"] + sums[ends] - sums[ends - self.columns["pictures"]])


def index(
    path: Path,
    folders: Sequence[Path] | None,
    processor: Processor | None,
    *,
    label: str = "encode",
    watch: Watch = lambda label, total: nullcontext(lambda *done: None),
) -> Index:
    """Read, prove and encode every row once; the same bytes under the same template are not encoded again.

    Without `folders` no picture need be there; without a processor nothing is encoded. A file with faults is not
    kept. Raises DataError where the file as a whole cannot be read.
    """
    content = read_text(path)
    digest = sha256_of(path)
    pictures = PictureFolders(folders)
    kept = None if processor is None else _kept(digest, processor)
    if kept is not None and (known := _read(kept, path, digest, pictures)) is not None:
        return known
    with watch(label, _rough_rows(content)) as advance:
        made = _Builder(path, digest, pictures, processor).build(content, advance)
    if kept is not None and not made.faults:
        _keep(kept, made)
    return made


def too_long(made: Index, lengths: np.ndarray, tokens_per_row: int | None) -> list[Fault]:
    """A fault for every row that is longer than a packed row may be."""
    faults = []
    for row in np.flatnonzero(lengths > (tokens_per_row or np.inf)).tolist():
        origin, kind = made.origin(row), made.kinds[made.columns["kind"][row]]
        error = DataError(
            f"{origin}: {lengths[row]} tokens do not fit a row of {tokens_per_row}",
            "raise the stage's tokens_per_row, or shorten the sample",
        )
        reject = Reject(made.sample(row).id, origin, "too_long", str(error))
        faults.append(Fault(reject, kind, error, int(made.columns["line"][row])))
    return faults


def _rough_rows(content: str) -> int:
    """For a progress bar: rows, where no text speaks of the fields' own names."""
    return max(1, sum(content.count(f'"{name}"') for name in READERS))


@dataclass(slots=True)
class _Row:
    """What a row adds to the columns; `sample` is None for a bad one."""

    written: Written
    kind: str
    sample: Sample | None
    fault: Fault | None
    text_tokens: int = 0
    learnt: int = 0


@dataclass(slots=True)
class _Builder:
    path: Path
    digest: str
    folders: PictureFolders
    processor: Processor | None
    warnings: Counter[str] = field(default_factory=Counter)

    def build(self, content: str, advance: Callable[..., None]) -> Index:
        columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
        shown: list[int] = []
        names: dict[str, int] = {}
        kinds: dict[str, int] = {}
        faults: list[Fault] = []
        bytes_before = _byte_offsets(self.path, content)
        with ThreadPoolExecutor() as pool:  # the tokenizer works without the interpreter's lock
            for row in self._proved(written_rows(self.path, content), pool):
                advance(1)
                if row.fault is not None or row.sample is None:
                    faults += [row.fault] if row.fault is not None else []
                    continue
                begin, end = bytes_before(row.written.begin), bytes_before(row.written.end)
                used = [self.folders.name_of(picture) for picture in row.sample.pictures]
                shown += [names.setdefault(name, len(names)) for name in used]
                code = kinds.setdefault(row.kind, len(kinds))
                values = (begin, end - begin, row.written.line, code, row.text_tokens, row.learnt, len(used))
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        if not columns["begin"] and not faults:
            raise DataError(f"{self.path}: holds no rows", "give a file with at least one sample")
        return Index(
            self.path,
            self.digest,
            {name: np.array(column, COLUMNS[name]) for name, column in columns.items()},
            np.array(shown, np.int32),
            tuple(names),
            tuple(kinds),
            dict(self.warnings),
            self.folders,
            tuple(faults),
        )

    def _proved(self, rows: Iterator[Written], pool: ThreadPoolExecutor) -> Iterator[_Row]:
        """Rows in order: read one after another, encoded by the pool a few chunks ahead."""
        ahead = []
        while chunk := [self._read(written) for written in islice(rows, CHUNK)]:
            ahead.append(pool.submit(self._encode, chunk))
            if len(ahead) > 4:
                yield from ahead.pop(0).result()
        for future in ahead:
            yield from future.result()

    def _read(self, written: Written) -> _Row:
        place, value, kind = f"{self.path}:{written.line}", written.value, ""
        try:
            if isinstance(value, RowError):
                raise value
            if not isinstance(value, dict):
                raise RowError(place, "", f"a row must be an object, got {type(value).__name__}", "see docs/data.md")
            kind = kind_of(value, place)
            return _Row(written, kind, read_row(value, place, self.folders, self.warnings), None)
        except RowError as error:
            name = value.get("id", "") if isinstance(value, dict) else ""
            return _Row(
                written,
                kind,
                None,
                Fault(Reject(printable(name), place, error.reason, str(error)), kind, error, written.line),
            )

    def _encode(self, rows: list[_Row]) -> list[_Row]:
        for row in rows:
            if row.sample is None or self.processor is None:
                continue
            try:
                encoded = self.processor.encode_ids(row.sample)
                row.learnt = sum(label != IGNORE for label in encoded.labels[1:])  # the first token never is
                row.text_tokens = len(encoded.ids) - sum(encoded.slots)
                if row.learnt == 0:
                    raise DataError(f"{row.sample.origin}: nothing in it is learnt", "give it an answer")
            except DataError as error:
                reject = Reject(row.sample.id, row.sample.origin, "bad_tokens", str(error))
                row.fault = Fault(reject, row.kind, error, row.written.line)
        return rows


def _byte_offsets(path: Path, content: str) -> Callable[[int], int]:
    """Where a character stands in the file, in bytes; asked in growing order."""
    mark = path.stat().st_size - len(content.encode())  # of a byte-order mark
    if content.isascii():
        return lambda place: mark + place
    at, bytes_at = 0, mark

    def offset(place: int) -> int:
        nonlocal at, bytes_at
        bytes_at += len(content[at:place].encode())
        at = place
        return bytes_at

    return offset


class Rows(Sequence[Sample]):
    """Chosen rows of one or several files, as samples read when asked for."""

    def __init__(self, parts: Sequence[tuple[Index, np.ndarray]]) -> None:
        self.parts = [(file, chosen) for file, chosen in parts if len(chosen)]
        self.ends = list(accumulate(len(chosen) for _, chosen in self.parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        file, row = self._find(place)
        return file.sample(row)

    def origin(self, place: int) -> str:
        """`path:line` of a row, without reading it."""
        file, row = self._find(place)
        return file.origin(row)

    def _find(self, place: int) -> tuple[Index, int]:
        if not 0 <= place < len(self):
            raise IndexError(place)
        part = bisect_right(self.ends, place)
        file, chosen = self.parts[part]
        return file, int(chosen[place - (self.ends[part] - len(chosen))])


def _kept(digest: str, processor: Processor) -> Path:
    key = hashlib.sha256(f"{digest} {processor.text_rules} {_own_code()}".encode()).hexdigest()
    return user_cache() / "index" / f"{key}.npz"


@cache
def _own_code() -> str:
    """A hash of the code that reads and encodes rows: another version makes its own indices."""
    found = hashlib.sha256()
    for room in ("data", "processor"):
        for entry in sorted(resources.files(f"vistune.{room}").iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith((".py", ".json")):
                found.update(entry.read_bytes())
    return found.hexdigest()


def _keep(kept: Path, made: Index) -> None:
    """Best effort: a cache that cannot be written costs time, no answer."""
    text = json.dumps({"names": made.names, "kinds": made.kinds, "warnings": made.warnings})
    try:
        with replacing(kept) as file:
            arrays: dict[str, Any] = {"shown": made.shown, "text": np.frombuffer(text.encode(), np.uint8)}
            arrays |= made.columns
            np.savez(file, **arrays)
        older = sorted(kept.parent.glob("*.npz"), key=lambda found: found.stat().st_mtime)[:-KEPT]
        for file_ in older:
            file_.unlink(missing_ok=True)
    except OSError:
        return


def _read(kept: Path, path: Path, digest: str, folders: PictureFolders) -> Index | None:
    """The index that was kept; None where there is none, it is damaged, or a picture is no longer there."""
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in COLUMNS}
            shown, text = arrays["shown"], json.loads(arrays["text"].tobytes())
        for name in text["names"]:
            folders.find(name, str(path), "image")
    except (OSError, ValueError, KeyError, BadZipFile, RowError):
        return None
    return Index(path, digest, columns, shown, tuple(text["names"]), tuple(text["kinds"]), text["warnings"], folders)
