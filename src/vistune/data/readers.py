"""Data files as they lie on disk: where a source's rows and pictures are.

source -> file, picture folders
"""

from __future__ import annotations

from pathlib import Path

from vistune.data.parquet import as_lines
from vistune.data.rows import TABLE
from vistune.errors import DataError
from vistune.files import read_json


def data_file(path: Path) -> Path:
    """A file (of parquet, the lines made of it), or the samples.json or messages.jsonl of `generate`'s folder."""
    if path.suffix == ".parquet" and not path.is_dir():
        return as_lines(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        raise DataError(f"{path}: a table holds no conversations", TABLE)
    if not path.is_dir():
        return path
    for name in ("samples.json", "messages.jsonl"):
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path}: holds neither samples.json nor messages.jsonl", "name the data file itself")


def folders_of(path: Path, images: Path | None) -> list[Path]:
    """Where pictures lie: as told, else as images.json beside the file says, else beside the file."""
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{images}: no such picture folder", "check --images, or the recipe's data.images")
        return [images]
    beside = path.parent / "images.json"
    if not beside.is_file():
        return [path.parent]
    tree = read_json(beside)
    folders = tree.get("folders") if isinstance(tree, dict) else None
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise DataError(f"{beside}: folders: a list of folders is wanted", 'write {"folders": ["…"]}')
    return [path.parent / folder for folder in folders]
