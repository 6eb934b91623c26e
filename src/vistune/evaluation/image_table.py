"""Read a release that is one table with images inside: the hub's parquet files, TSV with base64, JSON lines.

table -> rows one at a time -> ImageRow

The images of a row are written to files when the row is read, so memory holds the images of one row only.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.parsing import is_missing
from vistune.evaluation.release import SHORTEST_IMAGE, ImageFiles, ReleaseRow, read_rows, table_in
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
        self.files = ImageFiles(base / f"{name}.images")
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
            return self.files.write(value)
        if is_missing(value):
            return None
        cell = str(value)
        if len(cell) <= SHORTEST_IMAGE or "." in cell:
            return self.base / cell
        return self.files.unpack(cell.split("base64,", 1)[-1], location)
