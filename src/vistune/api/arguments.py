"""Arguments that Python users may give in several forms: paths, recipes and data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from vistune.api.objects import DatasetLike, Record, is_records, write_dataset, write_records
from vistune.errors import DataError
from vistune.recipe import DataSource, Recipe, load_recipe, with_overrides

PathLike: TypeAlias = str | os.PathLike[str]
RecipeLike: TypeAlias = PathLike | Recipe
Overrides: TypeAlias = Mapping[str, object] | Sequence[str]
OneSource: TypeAlias = PathLike | DataSource | DatasetLike
DataLike: TypeAlias = OneSource | Sequence[OneSource] | Sequence[Record]

DATA_FORMS = "give a path, a DataSource, a datasets.Dataset, a list of these, or a list of records (dicts)"


def as_path(path: PathLike | None) -> Path | None:
    """Return a path object, or None for None."""
    return None if path is None else Path(path)


def as_recipe(recipe: RecipeLike, overrides: Overrides = ()) -> Recipe:
    """Return a recipe given by name, file or object, with overrides.

    `overrides` maps key paths to values, `{"stages.tune.steps": 100}`, or is a list of `key.path=value`.
    """
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    if isinstance(recipe, Recipe):
        return with_overrides(recipe, overrides) if overrides else recipe
    return load_recipe(os.fspath(recipe), overrides)


def as_sources(data: DataLike, folder: Path) -> list[DataSource]:
    """Return data files. Records and datasets are written into `folder` first, each under the hash of its content."""
    if is_records(data):
        return [write_records(data, folder)]
    listed = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    return [_as_source(one, folder, f"data[{number}]") for number, one in enumerate(listed)]


def is_in_memory(data: DataLike) -> bool:
    """Return whether data has a part that `as_sources` would write to a file."""
    listed = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    return any(isinstance(one, Mapping | DatasetLike) for one in listed)


def _as_source(one: object, folder: Path, location: str) -> DataSource:
    if isinstance(one, DataSource):
        return one
    if isinstance(one, str | os.PathLike):
        return DataSource(file=Path(one))
    if isinstance(one, Mapping) and one and all(isinstance(split, DatasetLike) for split in one.values()):
        names = ", ".join(map(str, one))
        raise DataError(f"{location}: has the splits {names}", f"give one of them: data[{next(iter(one))!r}]")
    if isinstance(one, DatasetLike):
        return write_dataset(one, folder)
    raise DataError(f"{location}: {type(one).__name__} is not data", DATA_FORMS)


def refuse_unknown(function: str, keywords: Mapping[str, object], options: type) -> None:
    """Raise TypeError for a keyword that the options of a function, a TypedDict, do not have."""
    for name in keywords:
        if name not in options.__annotations__:
            known = ", ".join(options.__annotations__)
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; its options are {known}")


def data_override(sources: Sequence[DataSource]) -> str:
    """Return the override `data=…` of a recipe for these sources."""
    trees = [source.model_dump(mode="json", exclude_none=True) for source in sources]
    return f"data={json.dumps(trees)}"
