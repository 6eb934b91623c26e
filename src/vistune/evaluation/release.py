"""Read the files of a benchmark's official release, plain or gzipped; missing files are named one by one.

patterns -> files -> JSON, records, or the rows of a table whose cells contain the images
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any, TypeVar

from vistune.errors import DataError
from vistune.evaluation.parsing import is_missing
from vistune.evaluation.predictions import plain_id
from vistune.evaluation.task import make_question
from vistune.files import decoded, parse_json
from vistune.records import read_values
from vistune.records.reading import open_text
from vistune.types import Question

DOWNLOAD = "`vistune evaluate --list` shows what to download and from where"
TABLES = (".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
SHARDS = "*-of-*.parquet"  # as the hub names a dataset's files: dev-00000-of-00001.parquet
SHORTEST_IMAGE = 64  # characters; a shorter cell is a path, or the index of the row that contains the image
PNG = b"\x89PNG"
Fields = Mapping[str, Any]  # a record of a release
T = TypeVar("T")


def find_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the one file that matches each glob pattern, plain or `.gz`.

    Raises:
        DataError: No file or several files match a pattern; the message names all such patterns.
    """
    faults, paths = [], []
    for pattern in patterns:
        matches = matching(folder, pattern)
        if len(matches) == 1:
            paths.append(matches[0])
        elif matches:
            names = ", ".join(path.name for path in matches[:4])
            faults.append(f"{folder / pattern}: {len(matches)} files match ({names}): keep one")
        else:
            faults.append(f"{folder / pattern}: no such file")
    if faults:
        raise DataError("; ".join(faults), DOWNLOAD)
    return paths


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a pattern in any case, plain or `.gz`, sorted; or the file itself."""
    if folder.is_file():
        return [folder] if fnmatch(folder.name.lower().removesuffix(".gz"), pattern.lower()) else []
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", "check --data")
    return sorted(p for p in folder.iterdir() if fnmatch(p.name.lower().removesuffix(".gz"), pattern.lower()))


def release_text(path: Path) -> str:
    """Read UTF-8 text, unpacked if the name ends in `.gz`."""
    with open_text(path) as file:
        return decoded(file.read(), path)


def release_json(path: Path) -> object:
    value: object = parse_json(release_text(path), str(path), first_line=1)
    return value


def release_map(path: Path) -> Fields:
    """Read a JSON file with one object. Raise DataError if it contains something else."""
    value = release_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: is not a JSON object", "download the file again")
    return value


def release_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (location, value) of each record of a file, in any supported format."""
    return read_values(path)


def field_of(row: object, name: str, kind: type[T], location: str) -> T:
    """Return a record's field. Raise DataError if it is absent or of another type."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _wrong_field(name, location)
    return value


def id_in(row: object, name: str, location: str) -> str:
    """Return a record's id as text. Raise DataError if it is absent."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, int | str | float) or isinstance(value, bool):
        raise _wrong_field(name, location)
    return plain_id(value)


def _wrong_field(name: str, location: str) -> DataError:
    problem = "is missing or has another type than in the release"
    return DataError(f"{location}:{name}: {problem}", "download the file again")


def image_folder(folder: Path, *names: str) -> Path:
    """Return the folder of a release's images: the first of these names that exists, else the first."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """One row of a table, and its location for messages."""

    fields: Fields
    location: str

    def text(self, *names: str) -> str:
        """Return the first of these fields that is present. Raise DataError if none is."""
        for name in names:
            if not is_missing(self.fields.get(name)):
                return str(self.fields[name])
        raise DataError(f"{self.location}:{names[0]}: is missing", "download the complete file again")

    def get(self, *names: str) -> str | None:
        """Return the first of these fields that is present, else None."""
        return next((str(self.fields[name]) for name in names if not is_missing(self.fields.get(name))), None)


def table_in(folder: Path, word: str, language: str = "") -> Path:
    """Return the table whose name contains `word`, in any case, and does not name another language.

    Of several tables, one that names its language is preferred. `folder` may be the file itself. Without such a table
    it is the folder, or its `data`, with the hub's parquet files of one split.

    Raises:
        DataError: No table matches, or several do.
    """
    if folder.is_file():
        return folder
    named = sorted(p for p in folder.glob("*") if word in p.name.lower() and p.name.lower().endswith(TABLES))
    matches = [path for path in named if not language or languages_of(path) <= {language}]
    if len(matches) > 1:
        matches = [path for path in matches if languages_of(path)] or matches
    if len(matches) == 1:
        return matches[0]
    if not named and (shards := next((f for f in (folder, folder / "data") if any(f.glob(SHARDS))), None)):
        if len(splits := sorted({path.name.split("-")[0] for path in shards.glob(SHARDS)})) > 1:
            raise DataError(f"{shards}: parquet files of several splits: {', '.join(splits)}", "keep one split")
        return shards
    expected = f"{folder}/*{word}*.tsv, .jsonl or .parquet, or {SHARDS}"
    if matches:
        listed = ", ".join(path.name for path in matches[:4])
        raise DataError(f"{expected}: {len(matches)} files match ({listed})", "name one with --data FILE")
    if named:
        raise DataError(
            f"{expected}: not found; there is only {named[0].name}, in another language",
            "name it with --data FILE, or use another task",
        )
    raise DataError(f"{expected}: no such file", DOWNLOAD)


def languages_of(path: Path) -> set[str]:
    """Return the languages in a file's name: MMBench_DEV_CN.tsv is Chinese."""
    return {"en", "cn", "ko"} & set(path.name.lower().replace(".", "_").replace("-", "_").split("_"))


def read_rows(path: Path) -> Iterator[ReleaseRow]:
    """Yield the rows of a table; of a folder, those of its parquet files by name."""
    for file in sorted(path.glob(SHARDS)) if path.is_dir() else [path]:
        for location, value in release_lines(file):
            if not isinstance(value, dict):
                raise DataError(f"{location}: is not an object", "write one JSON object per line")
            yield ReleaseRow(value, location)


class ImageFiles:
    """Writes images as files named by their content into a folder.

    If the folder cannot be written, they are in a temporary folder, which exists as long as this object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary: tempfile.TemporaryDirectory[str] | None = None

    def write(self, data: bytes) -> Path:
        """Write an image unless it is there, and return its path."""
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.{'png' if data.startswith(PNG) else 'jpg'}"
        try:
            return _written(self.folder / name, data)
        except OSError:  # the data folder is read-only
            if self.temporary is None:
                self.temporary = tempfile.TemporaryDirectory(prefix="vistune-images-")
                self.folder = Path(self.temporary.name)
            return _written(self.folder / name, data)

    def unpack(self, cell: str, location: str) -> Path:
        """Write an image that a cell contains as base64. Raise DataError if it is not base64."""
        try:
            data = base64.b64decode(cell, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"{location}: is not base64 ({error})", "download the file again") from None
        return self.write(data)


def _written(path: Path, data: bytes) -> Path:
    """Write a file that is named by its content, unless it is there.

    Waiting for the disk after each of 12,000 images would take minutes. A file that a power cut left incomplete has
    another size, and is written again.
    """
    if path.is_file() and path.stat().st_size == len(data):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    return draft.replace(path)


class ReleaseTable:
    """A release that is one table: its rows by id, and their images as files, which exist as long as this object.

    Args:
        word, language: As for `table_in`.
        id_fields: The first of these fields that is present is a row's id.

    Raises:
        DataError: No table matches, two ids are equal, or an image is missing.
    """

    def __init__(self, folder: Path, word: str, *id_fields: str, language: str = "") -> None:
        path = table_in(folder, word, language)
        self.base = path.parent
        self.files = ImageFiles(path.parent / f"{path.name.split('.')[0]}.pictures")
        self.rows: dict[str, ReleaseRow] = {}
        for row in read_rows(path):
            name = plain_id(row.text(*id_fields))
            if name in self.rows:
                raise DataError(
                    f"{row.location}:{id_fields[0]}: {name!r} occurs twice", "give each question its own id"
                )
            self.rows[name] = row
        self.images = self._images()

    def question(self, name: str, text: str, *, answer: str = "", **tags: object) -> Question:
        """Return the question of a row, with the row's image."""
        return make_question(name, text, self.images.get(name), answer=answer, origin=self.rows[name].location, **tags)

    def _images(self) -> dict[str, Path]:
        """Return each row's image. A cell contains bytes, base64, a path, or the id of the row with the image."""
        paths: dict[str, Path] = {}
        shared: dict[str, str] = {}
        for name, row in self.rows.items():
            value = row.fields.get("image")
            if isinstance(value, Mapping):  # the hub's image columns: bytes and path
                value = value.get("bytes") or value.get("path")
            if isinstance(value, bytes):
                paths[name] = self.files.write(value)
                continue
            cell = row.get("image_path") if is_missing(value) else str(value)
            if cell is None:
                continue
            if len(cell) > SHORTEST_IMAGE and "." not in cell:
                paths[name] = self.files.unpack(cell, f"{row.location}:image")
            elif plain_id(cell) in self.rows:
                shared[name] = plain_id(cell)
            else:
                paths[name] = self.base / cell
        for name, other in shared.items():
            if other not in paths:
                location = self.rows[name].location
                raise DataError(f"{location}:image: row {other!r} has no image", "download the file again")
            paths[name] = paths[other]
        return paths
