"""Releases that are one table: tab-separated, JSON lines or parquet, their pictures in the cells.

data folder + the release's name -> the table's file -> Row (fields as text, location) -> pictures unpacked next to it
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.parsing.choices import is_missing
from vistune.evaluation.predictions import plain_id
from vistune.evaluation.release import release_lines
from vistune.files import write_atomic

KINDS = (".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
SHARDS = "*-of-*.parquet"  # as the hub names a dataset's files: dev-00000-of-00001.parquet
SHORTEST_IMAGE = 64  # characters; a shorter cell is a path or the index of the row that holds the picture
PNG = b"\x89PNG"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; `place` is its location for messages."""

    fields: Mapping[str, Any]
    place: str

    def text(self, *names: str) -> str:
        """The first of these fields that is there. Raises DataError where none is."""
        for name in names:
            if not is_missing(self.fields.get(name)):
                return str(self.fields[name])
        raise DataError(f"{self.place}:{names[0]}: is missing", "download the file again, whole")

    def get(self, *names: str) -> str | None:
        """The first of these fields that is there, else None."""
        return next((str(self.fields[name]) for name in names if not is_missing(self.fields.get(name))), None)


def table_in(folder: Path, word: str, language: str = "") -> Path:
    """The one table whose name holds `word`, in any case, and no other language; of several, that which says its own.

    `folder` may be the file itself. Without a table so named it is the folder, or its `data`, that holds the hub's
    parquet files of one split. Raises DataError where none or several fit.
    """
    if folder.is_file():
        return folder
    named = sorted(p for p in folder.glob("*") if word in p.name.lower() and p.name.lower().endswith(KINDS))
    fits = [path for path in named if not language or languages_of(path) <= {language}]
    if len(fits) > 1:
        fits = [path for path in fits if languages_of(path)] or fits
    if len(fits) == 1:
        return fits[0]
    if not named and (shards := next((f for f in (folder, folder / "data") if any(f.glob(SHARDS))), None)):
        if len(splits := sorted({path.name.split("-")[0] for path in shards.glob(SHARDS)})) > 1:
            raise DataError(f"{shards}: parquet files of several splits: {', '.join(splits)}", "keep those of one")
        return shards
    wanted = f"{folder}/*{word}*.tsv, .jsonl or .parquet, or {SHARDS}"
    if fits:
        listed = ", ".join(path.name for path in fits[:4])
        raise DataError(f"{wanted}: {len(fits)} files fit ({listed})", "name one by --data FILE")
    if named:
        raise DataError(
            f"{wanted}: only in another language: {named[0].name}", "name it by --data FILE, or another task"
        )
    raise DataError(f"{wanted}: no such file", "`vistune evaluate --list` says what to download and from where")


def languages_of(path: Path) -> set[str]:
    """The languages that a file's name names: MMBench_DEV_CN.tsv is Chinese."""
    return {"en", "cn", "ko"} & set(path.name.lower().replace(".", "_").replace("-", "_").split("_"))


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a table; a folder is its parquet files, in the order of their names."""
    for file in sorted(path.glob(SHARDS)) if path.is_dir() else [path]:
        for location, value in release_lines(file):
            if not isinstance(value, dict):
                raise DataError(f"{location}: is no object", "one JSON object a line")
            yield Row(value, location)


def rows_by_id(path: Path, *names: str) -> dict[str, Row]:
    """The rows of a table by the first of these fields that they have. Raises DataError where two share an id."""
    rows: dict[str, Row] = {}
    for row in read_rows(path):
        name = plain_id(row.text(*names))
        if name in rows:
            raise DataError(f"{row.place}:{names[0]}: {name!r} comes twice", "give each question an id of its own")
        rows[name] = row
    return rows


class Images:
    """A table's pictures as files named by what they hold: beside the table, else in a folder that ends with us."""

    def __init__(self, table: Path) -> None:
        self.base = table.parent
        self.folder = table.parent / f"{table.name.split('.')[0]}.pictures"
        self.temporary: tempfile.TemporaryDirectory[str] | None = None

    def of(self, rows: Mapping[str, Row]) -> dict[str, Path]:
        """By row index; a cell holds bytes, base64, a path, or the index of the row that has the picture."""
        found: dict[str, Path] = {}
        elsewhere: dict[str, str] = {}
        for index, row in rows.items():
            held = row.fields.get("image")
            if isinstance(held, Mapping):  # the hub's image columns: bytes and path
                held = held.get("bytes") or held.get("path")
            if isinstance(held, bytes):
                found[index] = self._write(held)
                continue
            cell = row.get("image_path") if is_missing(held) else str(held)
            if cell is not None and len(cell) > SHORTEST_IMAGE and "." not in cell:
                found[index] = self._unpack(cell, row.place)
            elif cell is not None and plain_id(cell) in rows:
                elsewhere[index] = plain_id(cell)
            elif cell is not None:
                found[index] = self.base / cell
        for index, other in elsewhere.items():
            if other not in found:
                raise DataError(f"{rows[index].place}:image: row {other!r} has no picture", "download the file again")
            found[index] = found[other]
        return found

    def _unpack(self, cell: str, place: str) -> Path:
        try:
            data = base64.b64decode(cell, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"{place}:image: no base64 ({error})", "download the file again") from None
        return self._write(data)

    def _write(self, data: bytes) -> Path:
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.{'png' if data.startswith(PNG) else 'jpg'}"
        if not (self.folder / name).is_file():
            try:
                write_atomic(self.folder / name, data)
            except OSError:  # a data folder that is shared read-only
                if self.temporary is None:
                    self.temporary = tempfile.TemporaryDirectory(prefix="vistune-pictures-")
                    self.folder = Path(self.temporary.name)
                write_atomic(self.folder / name, data)
        return self.folder / name
