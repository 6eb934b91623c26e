"""Read any file of records, by its suffix: JSON, JSON lines, CSV, TSV, parquet, tar, also gzipped.

file -> Records: location in the user's file, and the value or its error
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import IO

from vistune.errors import DataError, VistuneError
from vistune.records.errors import Record
from vistune.records.json_text import read_json
from vistune.records.tables import BY_SUFFIX, TableFormat, read_parquet, read_table
from vistune.records.tar import read_tar

JSON = (".json", ".jsonl", ".ndjson")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
TARS = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (*JSON, *SEPARATORS, ".parquet", *TARS)
GENERATED_FILES = ("samples.json", "messages.jsonl")  # the files that `generate` writes into a folder
# Formats that are not read, and what to do with such a file.
NOT_READ = {
    ".arrow": "save it as parquet: datasets.load_from_disk(…).to_parquet(FILE)",
    ".feather": "save it as parquet",
    ".xlsx": "save it as CSV UTF-8",
    ".xls": "save it as CSV UTF-8",
    ".zip": "unpack it",
    ".7z": "unpack it",
    ".xz": "unpack it",
    ".bz2": "unpack it",
    ".zst": "unpack it",
    ".lmdb": "write it as a tar of samples, or JSON lines beside a folder of images",
    ".tfrecord": "write it as a tar of samples, or JSON lines beside a folder of images",
    ".pkl": "write it as JSON lines: pickled files can run code",
    ".pt": "write it as JSON lines: pickled files can run code",
    ".yaml": "write the records as JSON lines",
    ".yml": "write the records as JSON lines",
    ".xml": "write the records as JSON lines",
}


def kind_of_file(name: str) -> str:
    """Return the suffix by which a file is read, such as `.jsonl` for `a.JSONL.gz`; "" if it is not in SUFFIXES."""
    lowered = name.lower()
    if suffix := next((suffix for suffix in TARS if lowered.endswith(suffix)), ""):
        return suffix
    lowered = lowered.removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if lowered.endswith(suffix)), "")


def read_records(
    path: Path,
    *,
    name: str | None = None,
    columns: Collection[str] | None = None,
    own_fields: Collection[str] = (),
    by_id: tuple[str, str] | None = None,
    unread: Counter[str] | None = None,
    table: TableFormat = BY_SUFFIX,
) -> Iterator[Record]:
    """Yield the records of a file one at a time, in the file's order.

    Args:
        name: The file's name in locations and errors; default: its path.
        columns: Columns of a parquet file that the caller uses; the others are not decoded.
        own_fields: Fields that identify a record, to distinguish a record with a list from an object that wraps one.
        by_id: Field names (id, text) for the entries of a JSON object of ids, `{"7": "a cat"}`.
        unread: Counts unread parts of the file itself: columns, fields next to the list, members of a tar.
        table: How a table is written. A file of another suffix than .csv and .tsv is a table if a separator is given.

    For a bad record, a RecordError takes the place of its value; the caller raises or counts it. Raises DataError for a
    file that cannot be read or is cut off. Files with other suffixes are read as JSON.
    """
    label = name or str(path)
    kind = kind_of_file(path.name)
    if hint := NOT_READ.get(path.suffix.lower()):
        raise DataError(f"{label}: {path.suffix} files are not read", hint)
    if kind == ".parquet":
        yield from read_parquet(path, label, columns=columns, unread=unread)
    elif kind in TARS:
        yield from read_tar(path, label, unread=unread)
    else:
        with open_text(path, label) as file:
            if separator := table.separator or SEPARATORS.get(kind):
                yield from read_table(file, label, replace(table, separator=separator))
            else:
                yield from read_json(file, label, own_fields=own_fields, unread=unread, by_id=by_id)


def read_values(
    path: Path,
    *,
    own_fields: Collection[str] = (),
    by_id: tuple[str, str] | None = None,
    unread: Counter[str] | None = None,
    table: TableFormat = BY_SUFFIX,
) -> Iterator[tuple[str, object]]:
    """Yield (location, value) of every record of a file. Raises DataError for the first bad record."""
    for record in read_records(path, own_fields=own_fields, by_id=by_id, unread=unread, table=table):
        if isinstance(record.value, DataError):
            raise record.value
        yield record.location, record.value


@contextmanager
def open_text(path: Path, name: str | None = None) -> Iterator[IO[bytes]]:
    """Open a regular text file as bytes, unpacked if its name ends in `.gz`. Read errors become DataError."""
    label = name or str(path)
    try:
        with open_file(path, label) as file:
            yield gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{label}: cannot be unpacked: {error}", "download or write it again") from None
    except OSError as error:
        if isinstance(error, VistuneError):
            raise
        raise DataError(f"{label}: cannot be read: {error.strerror}", "check the path and its permissions") from None


def open_file(path: Path, name: str | None = None) -> BufferedReader:
    """Open a regular file. Raises DataError for a folder, and for a pipe or device, which may never end."""
    label = name or str(path)
    if not path.exists():
        raise DataError(f"{label}: no such file", "check the path")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise DataError(f"{label}: is {what}, expected a file", "name the file itself")
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{label}: cannot be read: {error.strerror}", "check its permissions") from None
