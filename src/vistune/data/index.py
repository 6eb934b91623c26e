"""A data file as an index: where each record is, which images it shows and how long it is.

source -> DataFile and image folders -> Index

The index is built in one pass over the file, or read from the cache. The name of the cached file is a hash of the data
file's content and of everything else that decides the index.

A run keeps no samples in memory: a record takes about 50 bytes, and a resumed run does not encode it again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vistune.data.record_check import Fault, RecordChecker, check_records
from vistune.errors import DataError
from vistune.files import own_code, replacing, user_cache
from vistune.processor import Processor
from vistune.progress import Advance, Progress, no_progress
from vistune.records import (
    FORMS,
    GENERATED_FILES,
    RECORD_FIELDS,
    DataFile,
    ImageFolders,
    UnreadField,
    columns_read,
    folders_next_to,
    kind_of_file,
    names_to_suggest,
    open_data,
    open_file,
    read_sample,
    unread_fields,
)
from vistune.records.conversations import TABLE
from vistune.types import Reject, Sample

COLUMNS = {
    "begin": np.int64,  # offset in the file, bytes
    "size": np.int32,  # bytes
    "crc": np.uint32,  # CRC-32 of these bytes
    "line": np.int32,
    "nth": np.int32,  # index in the file's list, if an earlier record begins on the same line; else 0
    "kind": np.int32,  # index into `kinds`
    "text_tokens": np.int32,  # without image slots, whose number depends on the vision tower
    "supervised": np.int32,  # tokens with a label
    "images": np.int32,  # number of images
    "rejected_text": np.int32,  # of a preference pair: text tokens of the rejected side; else 0
    "chosen_answer": np.int32,  # of a preference pair: supervised tokens of the chosen answer; else 0
    "rejected_answer": np.int32,
}
CACHED_INDICES = 64
PARALLEL_BYTES = 2 * 2**20  # smaller files are encoded by one process


def data_path(path: Path) -> Path:
    """Return the data file of a source: the named file, or the one in a folder that `generate` wrote."""
    if not path.is_dir():
        return path
    for name in GENERATED_FILES:
        if (path / name).is_file():
            return path / name
    candidates = sorted(file.name for file in path.iterdir() if file.is_file() and kind_of_file(file.name))[:8]
    hint = f"name the data file, such as {path / candidates[0]}" if candidates else "name the data file"
    raise DataError(f"{path}: has neither {' nor '.join(GENERATED_FILES)}", hint)


def open_source(path: Path) -> DataFile:
    """Open the data file of a source, unpacked if necessary. Raises DataError."""
    path = data_path(path)
    if kind_of_file(path.name) in (".csv", ".tsv"):
        raise DataError(f"{path}: a table has no conversations", TABLE)
    return open_data(path, columns_read())


def folders_of(data: DataFile, images: Path | None) -> list[Path]:
    """Return the image folders of a data file: of unpacked images, then `images`, or images.json, or its own folder."""
    unpacked = [data.images] if data.images is not None else []
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{images}: no such image folder", "check --images, or the recipe's data.images")
        return [*unpacked, images]
    return [*unpacked, *folders_next_to(data.path)]


@dataclass(frozen=True, slots=True)
class Index:
    """The good records of one file in the file's order, one array per column, and the faults of the bad records.

    Attributes:
        data: The file.
        digest: SHA-256 of the user's file; for a shard, of the lines unpacked from it.
        columns: Arrays of COLUMNS.
        lengths: Tokens of every record, image slots included; zeros if it was indexed without a processor.
        shown: The images of all records one after another, as indices into `names`.
        names: Image names as the file writes them.
        kinds: The kinds of records.
        warnings: Counts of missing values that were filled in.
        unread: Fields of the records that are not read, with their counts.
        folders: Where the images are looked for.
        faults: The records that cannot be trained on.
        cut: For records that are too long, the number of messages that are kept.
        notes: A note on each record in `cut`.
    """

    data: DataFile
    digest: str
    columns: dict[str, np.ndarray]
    lengths: np.ndarray
    shown: np.ndarray
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    warnings: dict[str, int]
    unread: dict[str, int]
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
        of_file = Counter(self.data.unread or {})  # columns and members of the user's file
        return unread_fields(self.data.name, of_file + Counter(self.unread), names_to_suggest())

    def image_path(self, name: str) -> str:
        """Return the file of an image that a record names."""
        return self.folders.path_of(name, self.data.name, "image")

    def images_of(self, records: np.ndarray) -> np.ndarray:
        """Return the images of these records, one record after another, as indices into `names`."""
        counts = self.columns["images"][records]
        ends = np.cumsum(self.columns["images"])[records]
        offsets = np.repeat(ends - np.cumsum(counts), counts)  # from an image's number here to its index in `shown`
        images: np.ndarray = self.shown[offsets + np.arange(counts.sum())]
        return images

    def location(self, record: int) -> str:
        """Return the location of a record in the user's file."""
        return self.data.location(*self.at(record))

    def at(self, record: int) -> tuple[int, int]:
        """Return (line, index on that line), which sorts records in the order of the file."""
        return int(self.columns["line"][record]), int(self.columns["nth"][record])

    def sample(self, record: int) -> Sample:
        """Read one sample, cut if it is too long. Raises DataError if the file has changed."""
        begin, size = int(self.columns["begin"][record]), int(self.columns["size"][record])
        try:
            with open(self.data.lines, "rb") as file:
                file.seek(begin)
                content = file.read(size)
            if zlib.crc32(content) != self.columns["crc"][record]:
                raise ValueError("checksum mismatch")
            sample = read_sample(json.loads(content), self.location(record), self.folders, Counter())
            if record in self.cut:  # a pair loses its chosen answer
                sample = replace(sample, messages=sample.messages[: self.cut[record]], rejected=None)
            return sample
        except (OSError, ValueError, DataError) as error:
            raise DataError(
                f"{self.location(record)}: cannot be read again ({error})",
                "the file changed while it was in use: start again",
            ) from None

    def of_kind(self, kinds: Sequence[str] | None) -> np.ndarray:
        """Return the records of these kinds, or all if none is named."""
        if not kinds:
            return np.arange(len(self))
        codes = [code for code, kind in enumerate(self.kinds) if kind in kinds]
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
    """Read, check and encode every record once. A file with the same content and text rules is not encoded again.

    Args:
        folders: Image folders; None if images are not looked for.
        processor: None if nothing is encoded.
        processes: How many processes encode a large file.
        keep: Whether the index may be cached; an index with faults never is.

    Raises:
        DataError: The file cannot be read as a whole.
    """
    if isinstance(data, Path):
        data = open_data(data, columns_read())
    if not (digest := data.digest):
        with open_file(data.lines, data.name) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    builder = _Builder(data, digest, ImageFolders(folders), processor)
    content = f"{digest} {kind_of_file(data.path.name)}"
    cached = None if processor is None or not keep else _cache_path(content, processor)
    if cached is not None and (known := _read_cache(cached, builder)) is not None:
        return known
    is_large = processor is not None and data.lines.stat().st_size > PARALLEL_BYTES
    with progress(label, _estimated_records(data.lines)) as advance:
        built = builder.build(advance, processes=processes if is_large else 1)
    if cached is not None and not built.faults:
        _write_cache(cached, built)
    return built


def _estimated_records(path: Path) -> int:
    """Estimate the number of records from the file's first megabyte, for a progress bar."""
    with open_file(path) as file:
        content = file.read(1 << 20)
    records = sum(content.count(f'"{name}"'.encode()) for name in FORMS)
    return max(1, round(records * path.stat().st_size / max(1, len(content))))


@dataclass(slots=True)
class _Builder:
    data: DataFile
    digest: str
    folders: ImageFolders
    processor: Processor | None

    def build(self, advance: Advance, *, processes: int) -> Index:
        self.folders.missing.clear()  # reading a cached index may have counted the same missing images
        columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
        shown: list[int] = []
        names: dict[str, int] = {}
        kinds: dict[str, int] = {}
        faults: list[Fault] = []
        checker = RecordChecker(self.folders, self.processor)
        of_file = Counter[str]()
        for record, entry in check_records(checker, self.data.records(RECORD_FIELDS, of_file), processes=processes):
            advance(1)
            if isinstance(entry, Fault):
                faults.append(entry)
                continue
            shown += [names.setdefault(name, len(names)) for name in entry.names]
            kind = kinds.setdefault(entry.kind, len(kinds))
            values = (record.begin, record.size, record.crc, record.number, record.nth, kind, entry.text_tokens,
                      entry.supervised, len(entry.names), *entry.pair)  # fmt: skip
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
        advance(0, total=len(columns["begin"]) + len(faults))  # the total was an estimate
        if not columns["begin"] and not faults:
            raise DataError(f"{self.data.name}: has no records", "give a file with at least one record")
        arrays = {name: np.array(column, COLUMNS[name]) for name, column in columns.items()}
        unread = dict(checker.unread + of_file)
        texts = {"names": list(names), "kinds": list(kinds), "warnings": dict(checker.warnings), "unread": unread}
        return self.index_of(arrays, np.array(shown, np.int32), texts, faults)

    def index_of(
        self, columns: dict[str, np.ndarray], shown: np.ndarray, texts: dict[str, Any], faults: Sequence[Fault] = ()
    ) -> Index:
        """Build the Index from its arrays.

        Raises DataError if an image is missing, or if its size is needed and cannot be read.
        """
        names, kinds = tuple(texts["names"]), tuple(texts["kinds"])
        self.folders.find_all(names, self.data.name, "image")
        slots = np.full(len(names), self.processor.spec.slots_per_image if self.processor else 0, np.int64)
        if self.processor is not None and self.processor.spec.slots_vary:
            images = (self.folders.find(name, self.data.name, "image") for name in names)
            slots = np.array([self.processor.slots(image) for image in images], np.int64)
        sums = np.concatenate([[0], np.cumsum(slots[shown])])
        ends = np.cumsum(columns["images"])
        lengths = columns["text_tokens"] + sums[ends] - sums[ends - columns["images"]]
        return Index(
            data=self.data,
            digest=self.digest,
            columns=columns,
            lengths=lengths,
            shown=shown,
            names=names,
            kinds=kinds,
            warnings=texts["warnings"],
            unread=texts["unread"],
            folders=self.folders,
            faults=tuple(faults),
        )


def _cache_path(content: str, processor: Processor) -> Path:
    """Return the cache path of the index of a file with this content, under a processor's text rules."""
    key = hashlib.sha256(
        f"{content} {processor.text_rules} {own_code('data', 'processor', 'records')}".encode()
    ).hexdigest()
    return user_cache() / "index" / f"{key}.npz"


def _write_cache(path: Path, built: Index) -> None:
    """Cache an index. If the cache cannot be written, the next run takes longer and nothing else changes."""
    text = json.dumps({"names": built.names, "kinds": built.kinds, "warnings": built.warnings, "unread": built.unread})
    try:
        with replacing(path) as file:
            arrays: dict[str, Any] = {"shown": built.shown, "text": np.frombuffer(text.encode(), np.uint8)}
            arrays |= built.columns
            np.savez(file, **arrays)
        for older in sorted(path.parent.glob("*.npz"), key=lambda cached: cached.stat().st_mtime)[:-CACHED_INDICES]:
            older.unlink(missing_ok=True)
    except OSError:
        return


def _read_cache(path: Path, builder: _Builder) -> Index | None:
    """Return the cached index; None if there is none, it is damaged, or an image is missing or has changed."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in COLUMNS}
            shown, texts = arrays["shown"], json.loads(arrays["text"].tobytes())
        return builder.index_of(columns, shown, texts)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile, DataError):
        return None
