"""The files of a benchmark's official release, plain or gzipped; what is missing is said file by file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.predictions import plain_id
from vistune.files import decoded, parse_json
from vistune.records import read_values
from vistune.records.reading import open_text


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """For each glob pattern the one file that fits, itself or with `.gz`.

    Raises DataError naming every pattern that no file or more than one fits.
    """
    faults, found = [], []
    for pattern in patterns:
        fits = matching(folder, pattern)
        if len(fits) == 1:
            found.append(fits[0])
        elif fits:
            faults.append(
                f"{folder / pattern}: {len(fits)} files fit ({', '.join(f.name for f in fits[:4])}): keep one"
            )
        else:
            faults.append(f"{folder / pattern}: no such file")
    if faults:
        raise DataError("; ".join(faults), "`vistune evaluate --list` says what to download and from where")
    return found


def matching(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder that fit a pattern in any case, plain or `.gz`, in name order; a file itself where it fits."""
    if folder.is_file():
        return [folder] if fnmatch(folder.name.lower().removesuffix(".gz"), pattern.lower()) else []
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", "check --data")
    return sorted(p for p in folder.iterdir() if fnmatch(p.name.lower().removesuffix(".gz"), pattern.lower()))


def release_text(path: Path) -> str:
    """UTF-8 text, unzipped where the name ends in `.gz`."""
    with open_text(path) as file:
        return decoded(file.read(), path)


def release_json(path: Path) -> Any:
    return parse_json(release_text(path), str(path), first_line=1)


def release_map(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises DataError where it holds something else."""
    value = release_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: is no JSON object", "download the file again")
    return value


def release_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, value) of each record of a release's file, in any supported format."""
    return read_values(path)


def field_of(row: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """A row's field of a type. Raises DataError `place:field` where it is absent or something else."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{place}:{name}: is missing or not as in the release", "download the file again")
    return value


def id_in(row: Any, name: str, place: str) -> str:
    """A row's id as text. Raises DataError with `place:field` if it is absent."""
    return plain_id(field_of(row, name, (int, str, float), place))


def image_folder(folder: Path, *names: str) -> Path:
    """Where a release's pictures lie: the first of these folders that is there, else the first of them."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])
