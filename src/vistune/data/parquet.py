"""Parquet files of samples, written out once as lines and picture files, which everything else reads.

FILE.parquet -> CACHE/parquet/DIGEST/{FILE.parquet.jsonl, pictures/, images.json}

A row keeps its columns of either form; line N is row N, so that a fault's place tells the row. A picture is a path, or
its bytes (alone, or in a struct as the hub's datasets have it), which become a file named by their hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vistune.data.written import open_file
from vistune.errors import DataError, RecipeError
from vistune.files import committed_folder, user_cache, write_json

COLUMNS = ("id", "image", "images", "conversations", "messages", "kind", "language")
MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif"}
BATCH = 256  # rows held at once, with their pictures


def as_lines(path: Path) -> Path:
    """The lines of a parquet file, made where they are not kept yet. Raises DataError where it cannot be read."""
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = user_cache() / "parquet" / digest
    made = folder / f"{path.name}.jsonl"
    if not made.is_file():
        with committed_folder(folder) as draft:
            write_lines(path, draft / made.name, named=str(path), beside=path.parent.resolve())
    return made


def write_lines(path: Path, made: Path, *, named: str, beside: Path | None = None) -> None:
    """The file's rows as lines, their pictures in a folder next to these; `named`: how errors call the file.

    `beside`: where pictures that are given by their path lie.
    """
    pictures = made.parent / "pictures"
    pictures.mkdir()
    write_json(made.parent / "images.json", {"folders": ["pictures", *([str(beside)] if beside else [])]})
    with made.open("w", encoding="utf-8") as lines:
        for row in _rows(path, named):
            kept = {name: row[name] for name in COLUMNS if row.get(name) is not None}
            for name in ("image", "images"):
                if name in kept:
                    kept[name] = _named(kept[name], pictures)
            lines.write(json.dumps(kept, ensure_ascii=False, default=str) + "\n")


def _rows(path: Path, named: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise RecipeError(f"{named}: parquet needs pyarrow", "pip install 'vistune[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            wanted = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH, columns=wanted):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are among them
        raise DataError(f"{named}: cannot be read as parquet: {str(error)[:120]}", "write it again") from None


def _named(value: Any, folder: Path) -> Any:
    """Pictures' names for what a cell holds; what is neither a name nor a picture stays, for the reader to refuse."""
    if isinstance(value, list):
        return [_named(item, folder) for item in value]
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, dict) and content is None:
        return value.get("path")
    if not isinstance(content, bytes):
        return value
    suffix = next((suffix for magic, suffix in MAGIC.items() if content.startswith(magic)), ".bin")
    file = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not file.exists():
        file.write_bytes(content)
    return file.name
