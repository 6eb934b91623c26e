"""Open a data source: find its file and the folders of its images.

source -> DataFile, image folders
"""

from __future__ import annotations

from pathlib import Path

from vistune.errors import DataError
from vistune.files import read_json
from vistune.records import DataFile, columns_read, kind_of_file, open_data
from vistune.records.conversations import TABLE

WRITTEN = ("samples.json", "messages.jsonl")  # the files that `generate` writes into a folder


def data_path(path: Path) -> Path:
    """The data file of a source: the named file, or the one in a folder written by `generate`. Raises DataError."""
    if not path.is_dir():
        return path
    for name in WRITTEN:
        if (path / name).is_file():
            return path / name
    there = sorted(file.name for file in path.iterdir() if file.is_file() and kind_of_file(file.name))[:8]
    hint = f"name the data file itself, such as {path / there[0]}" if there else "name the data file itself"
    raise DataError(f"{path}: holds neither {' nor '.join(WRITTEN)}", hint)


def open_source(path: Path) -> DataFile:
    """Open the data file of a source, unpacked if necessary. Raises DataError."""
    path = data_path(path)
    if kind_of_file(path.name) in (".csv", ".tsv"):
        raise DataError(f"{path}: a table holds no conversations", TABLE)
    return open_data(path, columns_read())


def folders_of(data: DataFile, images: Path | None) -> list[Path]:
    """The folders of a data file's images: those inside it, then `images`, else images.json, else its own folder."""
    inside = [data.images] if data.images is not None else []
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{images}: no such image folder", "check --images, or the recipe's data.images")
        return [*inside, images]
    beside = data.path.parent / "images.json"
    if not beside.is_file():
        return [*inside, data.path.parent]
    tree = read_json(beside)
    folders = tree.get("folders") if isinstance(tree, dict) else None
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise DataError(f"{beside}: folders: a list of folders is wanted", 'write {"folders": ["…"]}')
    return [*inside, *(data.path.parent / folder for folder in folders)]
