"""Read selected records as samples, each when a step needs it.

indices and their selected records -> SampleSequence -> Sample
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from vistune.data.index import Index, folders_of, index, open_source
from vistune.recipe import DataSource
from vistune.records import ImageFolders, RecordError
from vistune.types import Sample


class SampleSequence(Sequence[Sample]):
    """Selected records of one or several files, as samples that are read when asked for.

    Attributes:
        parts: (index, selected records) of each file.
        sources: Where the samples come from: each file's kinds, such as `data/a.json detail`.
    """

    def __init__(self, parts: Sequence[tuple[Index, np.ndarray]]) -> None:
        self.parts = [(file, records) for file, records in parts if len(records)]
        self.ends = list(accumulate(len(records) for _, records in self.parts))
        kinds = [(file, code) for file, records in self.parts for code in np.unique(file.columns["kind"][records])]
        paths = {file.path for file, _ in self.parts}
        names = [f"{_short(file.path, paths)} {file.kinds[code]}".strip() for file, code in kinds]
        self.sources = tuple(dict.fromkeys(names))
        self._source = {
            (file.path, code): self.sources.index(name) for (file, code), name in zip(kinds, names, strict=True)
        }

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        file, record = self._find(index)
        return file.sample(record)

    def images_of(self, indices: np.ndarray) -> tuple[int, list[tuple[ImageFolders, str]]]:
        """Return the number of images in these samples, and the folders and name of each distinct image.

        The distinct images are in the order of their first sample. No record is read, so if a sample is cut short, the
        images of the removed turns count too.
        """
        part_of = np.searchsorted(np.array(self.ends), indices, side="right")
        orders: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        names: list[tuple[ImageFolders, str]] = []
        begin = 0
        for number, (file, selected) in enumerate(self.parts):
            own = np.flatnonzero(part_of == number)
            records = selected[indices[own] - begin]
            codes.append(len(names) + file.images_of(records))
            orders.append(np.repeat(own, file.columns["images"][records]))
            names += [(file.folders, name) for name in file.names]
            begin = self.ends[number]
        if not codes:
            return 0, []
        listed = np.concatenate(codes)[np.argsort(np.concatenate(orders), kind="stable")]
        _, first = np.unique(listed, return_index=True)
        images = (names[code] for code in listed[np.sort(first)].tolist())
        different = {(folders.key, name): (folders, name) for folders, name in images}  # files may share images
        return len(listed), list(different.values())

    def location(self, index: int) -> str:
        """Return the location of a sample in the user's file, without reading it."""
        file, record = self._find(index)
        return file.location(record)

    def source(self, index: int) -> int:
        """Return which of `sources` a sample comes from, without reading it."""
        file, record = self._find(index)
        return self._source[file.path, file.columns["kind"][record]]

    def _find(self, index: int) -> tuple[Index, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self.ends, index)
        file, records = self.parts[part]
        return file, int(records[index - (self.ends[part] - len(records))])


def _short(path: Path, others: Collection[Path]) -> str:
    """Return folder and file name, or the complete path if another file has the same two."""
    same = [other for other in others if (other.name, other.parent.name) == (path.name, path.parent.name)]
    return str(Path(*path.parts[-2:])) if len(same) == 1 else str(path)


def all_samples(source: DataSource, *, find_images: bool = True) -> SampleSequence:
    """Return all samples of a source. Raises the error of the first bad record.

    Without `find_images`, images are not looked for and may be missing.
    """
    data = open_source(source.file)
    file = index(data, folders_of(data, source.images) if find_images else None, None)
    if file.faults:
        raise file.faults[0].error
    return SampleSequence([(file, file.of_kind(None))])


def image_files_of(source: DataSource) -> dict[str, Path | None]:
    """Return every image that a source's good records name, with its file; None if the file is missing."""
    data = open_source(source.file)
    folders = ImageFolders(folders_of(data, source.images))
    files: dict[str, Path | None] = {}
    for name in index(data, None, None).names:
        try:
            files[name] = Path(str(folders.find(name, data.name, "image").source))
        except RecordError:
            files[name] = None
    return files
