"""A data file as an index: where each row lies, what it shows and how long it is; found again by the file's content.

data file + Processor -> Index (one pass, or out of the cache) -> chosen rows -> Rows: a Sample when a step needs it

A run holds no samples: 665,000 rows are some 50 bytes each, and resuming does not encode them again.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vistune.data.faults import RowError
from vistune.data.pictures import PictureFolders
from vistune.data.readers import Written, place_of, printable, written_rows
from vistune.data.rows import READERS, kind_of, read_row
from vistune.errors import DataError
from vistune.files import decoded, read_bytes, replacing, user_cache
from vistune.processor import Processor
from vistune.types import IGNORE, Reject, Sample

Watch = Callable[[str, int], AbstractContextManager[Callable[..., None]]]

COLUMNS = {
    "begin": np.int64,  # bytes from the file's start
    "size": np.int32,  # bytes
    "crc": np.uint32,  # of those bytes
    "line": np.int32,
    "nth": np.int32,  # in the file's list, where a row before begins on the same line; else 0
    "kind": np.int32,  # a place in `kinds`
    "text_tokens": np.int32,  # image slots not counted: how many a picture takes is the vision tower's matter
    "learnt": np.int32,  # supervised tokens
    "pictures": np.int32,  # how many it shows
}
KEPT = 64  # indices in the cache


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be learnt from; its kind is "" where not even that can be read; `at` as `Index.at`."""

    reject: Reject
    kind: str
    error: DataError
    at: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Index:
    """All good rows of one file, in its order, a column each; `faults` are the others.

    `shown` holds the rows' pictures one after another, as places in `names`, which are as the file writes them ·
    `lengths`: tokens of every row, image slots counted; zeros where it was made without a processor.
    """

    path: Path
    digest: str  # SHA-256 of the file
    columns: dict[str, np.ndarray]
    lengths: np.ndarray
    shown: np.ndarray
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    warnings: dict[str, int]
    folders: PictureFolders
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["begin"])

    def origin(self, row: int) -> str:
        return place_of(self.path, *self.at(row))

    def at(self, row: int) -> tuple[int, int]:
        """What sorts rows as the file has them: the line, and the number in the list where rows share that line."""
        return int(self.columns["line"][row]), int(self.columns["nth"][row])

    def sample(self, row: int) -> Sample:
        """The row as it stands in the file. Raises DataError where the file is no longer what was indexed."""
        begin, size = int(self.columns["begin"][row]), int(self.columns["size"][row])
        try:
            with open(self.path, "rb") as file:
                file.seek(begin)
                written = file.read(size)
            if zlib.crc32(written) != self.columns["crc"][row]:
                raise ValueError("its bytes are others")
            return read_row(json.loads(written), self.origin(row), self.folders, Counter())
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
    content = read_bytes(path)
    digest = hashlib.sha256(content).hexdigest()
    builder = _Builder(path, digest, PictureFolders(folders), processor)
    kept = None if processor is None else _kept(digest, processor)
    if kept is not None and (known := _read(kept, builder)) is not None:
        return known
    with watch(label, _rough_rows(content)) as advance:
        made = builder.build(content, advance)
    if kept is not None and not made.faults:
        _keep(kept, made)
    return made


def _rough_rows(content: bytes) -> int:
    """For a progress bar: rows, where no text speaks of the fields' own names."""
    return max(1, sum(content.count(f'"{name}"'.encode()) for name in READERS))


@dataclass(slots=True)
class _Row:
    """What a good row adds to the columns."""

    sample: Sample
    text_tokens: int
    learnt: int


@dataclass(slots=True)
class _Builder:
    path: Path
    digest: str
    folders: PictureFolders
    processor: Processor | None
    warnings: Counter[str] = field(default_factory=Counter)

    def build(self, content: bytes, advance: Callable[..., None]) -> Index:
        columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
        shown: list[int] = []
        names: dict[str, int] = {}
        kinds: dict[str, int] = {}
        faults: list[Fault] = []
        text = decoded(content, self.path)
        bytes_before = _byte_offsets(text, len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0)
        for written in written_rows(self.path, text):
            row = self._proved(written)
            advance(1)
            if isinstance(row, Fault):
                faults.append(row)
                continue
            begin, end = bytes_before(written.begin), bytes_before(written.end)
            used = [self.folders.name_of(picture) for picture in row.sample.pictures]
            shown += [names.setdefault(name, len(names)) for name in used]
            place = (begin, end - begin, zlib.crc32(content[begin:end]), written.line, written.nth)
            code = kinds.setdefault(row.sample.kind, len(kinds))
            for column, value in zip(
                columns.values(), (*place, code, row.text_tokens, row.learnt, len(used)), strict=True
            ):
                column.append(value)
        if not columns["begin"] and not faults:
            raise DataError(f"{self.path}: holds no rows", "give a file with at least one sample")
        arrays = {name: np.array(column, COLUMNS[name]) for name, column in columns.items()}
        texts = {"names": list(names), "kinds": list(kinds), "warnings": dict(self.warnings)}
        return self.index_of(arrays, np.array(shown, np.int32), texts, faults)

    def index_of(
        self, columns: dict[str, np.ndarray], shown: np.ndarray, texts: dict[str, Any], faults: Sequence[Fault] = ()
    ) -> Index:
        """Raises DataError where a picture is not there, or its size is wanted (anyres) and cannot be read."""
        names, kinds = tuple(texts["names"]), tuple(texts["kinds"])
        pictures = [self.folders.find(name, str(self.path), "image") for name in names]
        slots = np.array([self.processor.slots(picture) if self.processor else 0 for picture in pictures], np.int64)
        sums = np.concatenate([[0], np.cumsum(slots[shown])])
        ends = np.cumsum(columns["pictures"])
        lengths = columns["text_tokens"] + sums[ends] - sums[ends - columns["pictures"]]
        return Index(self.path, self.digest, columns, lengths, shown, names, kinds, texts["warnings"], self.folders,
                     tuple(faults))  # fmt: skip

    def _proved(self, written: Written) -> _Row | Fault:
        place, value, kind = place_of(self.path, written.line, written.nth), written.value, ""
        at = (written.line, written.nth)
        try:
            if isinstance(value, RowError):
                raise value
            if not isinstance(value, dict):
                raise RowError(place, "", f"a row must be an object, got {type(value).__name__}", "see docs/data.md")
            kind = kind_of(value, place)
            sample = read_row(value, place, self.folders, self.warnings)
        except RowError as error:
            name = value.get("id", "") if isinstance(value, dict) else ""
            return Fault(Reject(printable(name), place, error.reason, str(error)), kind, error, at)
        if self.processor is None:
            return _Row(sample, 0, 0)
        try:
            encoded = self.processor.encode_ids(sample)
            learnt = len(encoded.labels) - 1 - encoded.labels[1:].count(IGNORE)  # the first token never is
            if learnt == 0:
                raise DataError(f"{sample.origin}: nothing in it is learnt", "give it an answer")
        except DataError as error:
            return Fault(Reject(sample.id, sample.origin, "bad_tokens", str(error)), kind, error, at)
        return _Row(sample, len(encoded.ids) - sum(encoded.slots), learnt)


def _byte_offsets(content: str, mark: int) -> Callable[[int], int]:
    """Where a character stands in the file, behind `mark` bytes of a byte-order mark; asked in growing order."""
    if content.isascii():
        return lambda place: mark + place
    at, bytes_at = 0, mark

    def offset(place: int) -> int:
        nonlocal at, bytes_at
        bytes_at += len(content[at:place].encode())
        at = place
        return bytes_at

    return offset


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


def _read(kept: Path, builder: _Builder) -> Index | None:
    """The index that was kept; None where there is none, it is damaged, or a picture is no longer as it was."""
    try:
        with open(kept, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in COLUMNS}
            shown, texts = arrays["shown"], json.loads(arrays["text"].tobytes())
        return builder.index_of(columns, shown, texts)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile, DataError):
        return None
