"""Read a release that is one table with images inside: the hub's parquet files, TSV with base64, JSON lines.

table -> rows one at a time -> ImageRow

The images of a row are written to files when the row is read, so memory holds the images of one row only.
"""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.parsing import is_missing
from vistune.evaluation.release import PNG, SHORTEST_IMAGE, ReleaseRow, read_rows, table_in
from vistune.types import Message, Part, Question, Sample


@dataclass(frozen=True, slots=True)
class ImageRow(ReleaseRow):
    """A row of a table with the files of its images; `number` counts the rows from 0."""

    number: int
    images: Mapping[str, Path]  # column -> file

    def ask(self, name: str, parts: Sequence[Part], answer: str, tags: Mapping[str, object]) -> Question:
        """Return a question of one user turn about this row."""
        return Question(name, Sample(name, (Message("user", tuple(parts)),), "", self.location), answer, tags)

    def list_of(self, name: str) -> list[str]:
        """Return a field that is a list of texts; some releases write it as a Python or JSON list in one text."""
        value = self.fields.get(name)
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.lstrip().startswith('["') else ast.literal_eval(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                value = None
        if not isinstance(value, list | tuple):
            raise DataError(f"{self.location}:{name}: is not a list", "download the file again")
        return [str(item) for item in value]


class ImageTable:
    """The rows of a release's table, with their images as files named by their content, next to the table.

    Args:
        word: A word in the table's name, as for `table_in`.
        columns: The columns with images; a cell has bytes, base64 or a path.
        language: As for `table_in`.

    Raises DataError if no table matches, or an image cannot be read.
    """

    def __init__(self, folder: Path, word: str, columns: Sequence[str] = ("image",), language: str = "") -> None:
        self.path = table_in(folder, word, language)
        base = self.path if self.path.is_dir() else self.path.parent
        self.base = base
        name = "hub" if self.path.is_dir() else self.path.name.split(".")[0]
        self.folder = base / f"{name}.images"
        self.temporary: tempfile.TemporaryDirectory[str] | None = None
        self.columns = columns

    def __iter__(self) -> Iterator[ImageRow]:
        for number, row in enumerate(read_rows(self.path)):
            images: dict[str, Path] = {}
            for column in self.columns:
                image = self._image(row.fields.get(column), f"{row.location}:{column}")
                if image is not None:
                    images[column] = image
            texts = {name: value for name, value in row.fields.items() if name not in self.columns}
            yield ImageRow(texts, row.location, number, images)

    def _image(self, value: object, location: str) -> Path | None:
        if isinstance(value, Mapping):  # the hub's image columns: bytes and path
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return self._write(value)
        if is_missing(value):
            return None
        cell = str(value)
        if len(cell) <= SHORTEST_IMAGE or "." in cell:
            return self.base / cell
        try:
            return self._write(base64.b64decode(cell.split("base64,", 1)[-1], validate=True))
        except (binascii.Error, ValueError) as error:
            raise DataError(f"{location}: is not base64 ({error})", "download the file again") from None

    def _write(self, data: bytes) -> Path:
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.{'png' if data.startswith(PNG) else 'jpg'}"
        try:
            return _written(self.folder / name, data)
        except OSError:  # the data folder is read-only
            if self.temporary is None:
                self.temporary = tempfile.TemporaryDirectory(prefix="vistune-images-")
                self.folder = Path(self.temporary.name)
            return _written(self.folder / name, data)


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
