"""A data file as an index: where each row lies, what it shows and how long it is; found again by the file's content.

data file + Processor -> Index (one pass, or out of the cache) -> chosen rows -> Rows: a Sample when a step needs it

A run holds no samples: 665,000 rows are some 50 bytes each, and resuming does not encode them again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vistune.data.proving import Fault, Prover, proved
from vistune.errors import DataError
from vistune.files import own_code, replacing, user_cache
from vistune.processor import Processor
from vistune.progress import Progress, no_progress
from vistune.records import (
    FORMS,
    DataFile,
    ImageFolders,
    UnreadField,
    columns_read,
    kind_of_file,
    names_to_suggest,
    open_data,
    open_file,
    read_sample,
    unread_fields,
)
from vistune.types import Reject, Sample

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
LARGE = 2 * 2**20  # bytes of a file that is worth several processes


@dataclass(frozen=True, slots=True)
class Index:
    """All good rows of one file, in its order, a column each; `faults` are the others.

    `shown` holds the rows' pictures one after another, as places in `names`, which are as the file writes them ·
    `lengths`: tokens of every row, image slots counted; zeros where it was made without a processor · `cut`: of rows
    that were too long, how many messages are kept (truncation.py), of which `notes` tells.
    """

    data: DataFile
    digest: str  # SHA-256 of the user's file; of a shard's, of the lines unpacked from it
    columns: dict[str, np.ndarray]
    lengths: np.ndarray
    shown: np.ndarray
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    warnings: dict[str, int]
    unread: dict[str, int]  # fields of the records that nothing reads, with their counts
    folders: ImageFolders
    faults: tuple[Fault, ...] = ()
    cut: Mapping[int, int] = field(default_factory=dict)
    notes: Mapping[int, Reject] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["begin"])

    @property
    def path(self) -> Path:
        """The file as the user named it."""
        return self.data.path

    @property
    def unread_fields(self) -> list[UnreadField]:
        of_file = Counter(self.data.unread or {})  # columns and members: of the user's file, not of the copy
        return unread_fields(self.data.name, of_file + Counter(self.unread), names_to_suggest())

    def origin(self, row: int) -> str:
        """The location of a record in the user's file."""
        return self.data.location(*self.at(row))

    def at(self, row: int) -> tuple[int, int]:
        """What sorts rows as the file has them: the line, and the number in the list where rows share that line."""
        return int(self.columns["line"][row]), int(self.columns["nth"][row])

    def sample(self, row: int) -> Sample:
        """The row as it stands in the file, cut where it must be. Raises DataError where the file is another now."""
        begin, size = int(self.columns["begin"][row]), int(self.columns["size"][row])
        try:
            with open(self.data.lines, "rb") as file:
                file.seek(begin)
                written = file.read(size)
            if zlib.crc32(written) != self.columns["crc"][row]:
                raise ValueError("checksum mismatch")
            sample = read_sample(json.loads(written), self.origin(row), self.folders, Counter())
            return replace(sample, messages=sample.messages[: self.cut[row]]) if row in self.cut else sample
        except (OSError, ValueError, DataError) as error:
            raise DataError(
                f"{self.origin(row)}: cannot be read again ({error})",
                "the file changed while it was in use: start again",
            ) from None

    def of_kind(self, wanted: Sequence[str] | None) -> np.ndarray:
        """Rows of these kinds, all of them without any named."""
        if not wanted:
            return np.arange(len(self))
        codes = [code for code, kind in enumerate(self.kinds) if kind in wanted]
        return np.flatnonzero(np.isin(self.columns["kind"], codes))


def index(
    data: DataFile | Path,
    folders: Sequence[Path] | None,
    processor: Processor | None,
    *,
    label: str = "encode",
    progress: Progress = no_progress,
    processes: int = 1,
    keep: bool = True,
) -> Index:
    """Read, prove and encode every row once; the same bytes under the same template are not encoded again.

    Without `folders` no picture need be there; without a processor nothing is encoded. A file with faults is not
    kept, none without `keep`. `processes` encode a large file. Raises DataError where the file cannot be read at all.
    """
    if isinstance(data, Path):
        data = open_data(data, columns_read())
    if not (digest := data.digest):
        with open_file(data.lines, data.name) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    builder = _Builder(data, digest, ImageFolders(folders), processor)
    kept = None if processor is None or not keep else _kept(f"{digest} {kind_of_file(data.path.name)}", processor)
    if kept is not None and (known := _read(kept, builder)) is not None:
        return known
    with progress(label, _rough_rows(data.lines)) as advance:
        made = builder.build(advance, processes=processes if processor and data.lines.stat().st_size > LARGE else 1)
    if kept is not None and not made.faults:
        _keep(kept, made)
    return made


def _rough_rows(path: Path) -> int:
    """For a progress bar: rows, as in the file's first megabyte, where no text speaks of the fields' own names."""
    with open_file(path) as file:
        content = file.read(1 << 20)
    rows = sum(content.count(f'"{name}"'.encode()) for name in FORMS)
    return max(1, round(rows * path.stat().st_size / max(1, len(content))))


@dataclass(slots=True)
class _Builder:
    data: DataFile
    digest: str
    folders: ImageFolders
    processor: Processor | None

    def build(self, advance: Callable[..., None], *, processes: int) -> Index:
        self.folders.missing.clear()  # a kept index may have looked for the same pictures in vain
        columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
        shown: list[int] = []
        names: dict[str, int] = {}
        kinds: dict[str, int] = {}
        faults: list[Fault] = []
        prover = Prover(self.folders, self.processor)
        of_file = Counter[str]()
        for record, row in proved(prover, self.data.records(FORMS, of_file), processes=processes):
            advance(1)
            if isinstance(row, Fault):
                faults.append(row)
                continue
            shown += [names.setdefault(name, len(names)) for name in row.names]
            place = (record.begin, record.size, record.crc, record.number, record.nth)
            code = kinds.setdefault(row.kind, len(kinds))
            for column, value in zip(
                columns.values(), (*place, code, row.text_tokens, row.learnt, len(row.names)), strict=True
            ):
                column.append(value)
        advance(0, total=len(columns["begin"]) + len(faults))  # it was guessed
        if not columns["begin"] and not faults:
            raise DataError(f"{self.data.name}: holds no records", "give a file with at least one record")
        arrays = {name: np.array(column, COLUMNS[name]) for name, column in columns.items()}
        unread = dict(prover.unread + of_file)
        texts = {"names": list(names), "kinds": list(kinds), "warnings": dict(prover.warnings), "unread": unread}
        return self.index_of(arrays, np.array(shown, np.int32), texts, faults)

    def index_of(
        self, columns: dict[str, np.ndarray], shown: np.ndarray, texts: dict[str, Any], faults: Sequence[Fault] = ()
    ) -> Index:
        """Raises DataError where a picture is not there, or its size is wanted (anyres) and cannot be read."""
        names, kinds = tuple(texts["names"]), tuple(texts["kinds"])
        self.folders.find_all(names, self.data.name, "image")
        slots = np.full(len(names), self.processor.spec.slots_per_image if self.processor else 0, np.int64)
        if self.processor is not None and self.processor.spec.image_mode == "anyres":
            images = (self.folders.find(name, self.data.name, "image") for name in names)
            slots = np.array([self.processor.slots(image) for image in images], np.int64)
        sums = np.concatenate([[0], np.cumsum(slots[shown])])
        ends = np.cumsum(columns["pictures"])
        lengths = columns["text_tokens"] + sums[ends] - sums[ends - columns["pictures"]]
        return Index(self.data, self.digest, columns, lengths, shown, names, kinds, texts["warnings"], texts["unread"],
                     self.folders, tuple(faults))  # fmt: skip


def _kept(content: str, processor: Processor) -> Path:
    """The path of the index of a file with this content (digest and kind) under a processor's text rules."""
    key = hashlib.sha256(
        f"{content} {processor.text_rules} {own_code('data', 'processor', 'records')}".encode()
    ).hexdigest()
    return user_cache() / "index" / f"{key}.npz"


def _keep(kept: Path, made: Index) -> None:
    """Best effort: a cache that cannot be written costs time, no answer."""
    text = json.dumps({"names": made.names, "kinds": made.kinds, "warnings": made.warnings, "unread": made.unread})
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
