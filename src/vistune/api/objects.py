"""Write data that is in memory to a file: a list of records, or a `datasets.Dataset`.

Training and checking read files, so that a run can be repeated and resumed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, runtime_checkable
from uuid import uuid4

from vistune.errors import DataError
from vistune.files import sha256_of, write_atomic, write_json
from vistune.recipe import DataSource
from vistune.records import write_image

if TYPE_CHECKING:
    from PIL.Image import Image

Record: TypeAlias = Mapping[str, Any]  # as in a file; an image may also be a PIL image
ROWS_AT_ONCE = 256  # of a dataset; images may be in the rows
IMAGE_FIELDS = ("image", "images")


@runtime_checkable
class DatasetLike(Protocol):
    """The part of `datasets.Dataset` that is used."""

    @property
    def column_names(self) -> Any: ...

    def with_format(self, type: str) -> Any: ...


def is_records(data: object) -> TypeGuard[Sequence[Record]]:
    """Return whether data is a list of records, which are dicts."""
    return isinstance(data, Sequence) and len(data) > 0 and all(isinstance(item, Mapping) for item in data)


def write_dataset(dataset: DatasetLike, folder: Path) -> DataSource:
    """Write a dataset as parquet, with the bytes of its images as they are in their files."""
    import pyarrow.parquet as parquet
    from datasets.table import embed_table_storage

    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{uuid4().hex}.parquet"
    try:
        writer: Any = None
        for batch in dataset.with_format("arrow").iter(ROWS_AT_ONCE):
            table = embed_table_storage(batch)
            writer = writer or parquet.ParquetWriter(draft, table.schema)
            writer.write_table(table)
        if writer is None:
            raise DataError("the dataset is empty", "give a dataset with at least one record")
        writer.close()
        file = folder / f"dataset-{sha256_of(draft)[:16]}.parquet"
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return DataSource(file=file)


def write_records(records: Sequence[Record], folder: Path) -> DataSource:
    """Write records as JSON lines. PIL images become PNG files; paths of images may be anywhere.

    Raises DataError for a value that JSON cannot store.
    """
    writer = _RecordWriter(folder)
    lines = [writer.line(record, number) for number, record in enumerate(records)]
    content = "".join(lines)
    target = folder / f"records-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    write_json(target / "images.json", {"folders": writer.folders()})
    write_atomic(target / "records.jsonl", content)
    return DataSource(file=target / "records.jsonl")


class _RecordWriter:
    """Writes the images of records, and lists the folders of those that are files."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.parents: set[str] = set()  # folders of images that are files

    def line(self, record: Record, number: int) -> str:
        """Return a record as a line of JSON."""

        def refuse(value: object) -> object:
            raise DataError(f"data[{number}]: {type(value).__name__} cannot be stored", "use text, numbers and lists")

        tree = {name: self._images(value) if name in IMAGE_FIELDS else value for name, value in record.items()}
        if isinstance(messages := tree.get("messages"), Sequence):
            tree["messages"] = [self._message(message) for message in messages]
        return json.dumps(tree, ensure_ascii=False, default=refuse) + "\n"

    def folders(self) -> list[str]:
        """Return the folder of the written images, and the folder that contains all images that are files."""
        common = [os.path.commonpath(self.parents)] if self.parents else []
        written = [os.path.join("..", self.images.name)] if self.images.is_dir() else []
        return written + common or ["."]

    def _message(self, message: object) -> object:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
            return message
        parts = [
            {**part, "image": self._images(part["image"])} if isinstance(part, Mapping) and "image" in part else part
            for part in message["content"]
        ]
        return {**message, "content": parts}

    def _images(self, value: object) -> object:
        if isinstance(value, list | tuple):
            return [self._images(item) for item in value]
        if isinstance(value, str | os.PathLike):
            return self._named(os.fspath(value))
        return self._saved(value) if hasattr(value, "save") and hasattr(value, "size") else value

    def _named(self, name: str) -> str:
        """Return the absolute path of a file; another name stays as it is, and the reader reports it."""
        if not _is_file(name):
            return name
        path = os.path.abspath(name)
        self.parents.add(os.path.dirname(path))
        return path

    def _saved(self, image: Image | Any) -> str:
        self.images.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return write_image(buffer.getvalue(), self.images)


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except (OSError, ValueError):
        return False
