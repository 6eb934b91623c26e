"""Split a share of the samples off for validation, by image: no image is both trained on and validated.

all stages' Selections + share + seed -> which records of each selection are for validation
Records that show the same image, directly or through other records, stay together. The seed and the images' names
decide, not the order of the records: records that are added later move no other record to the other side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from vistune.data.near_duplicates import DisjointSets
from vistune.data.selection import Selection


def split_validation(selections: Sequence[Selection], share: float, seed: int) -> list[np.ndarray]:
    """Return a boolean array per selection: which of its records are for validation, about `share` of the groups."""
    groups = DisjointSets()
    names: dict[str, str] = {}  # image or text -> its name; two files may write one image's name differently
    keys = [list(_group_keys(selection, groups, names)) for selection in selections]
    group_names: dict[str, str] = {}
    for key, name in names.items():
        root = groups.root(key)
        group_names[root] = min(name, group_names.get(root, name))
    chosen = {root: _uniform(seed, name) < share for root, name in group_names.items()}
    return [np.array([chosen[groups.root(key)] for key in of_selection], bool) for of_selection in keys]


def training_part(selection: Selection, validation: np.ndarray) -> Selection:
    """Return the selection without the validation records."""
    return replace(selection, records=selection.records[~validation], lengths=selection.lengths[~validation])


def validation_part(selection: Selection, validation: np.ndarray) -> Selection:
    """Return only the validation records, without the faults, which belong to the training part."""
    records, lengths = selection.records[validation], selection.lengths[validation]
    return replace(selection, records=records, lengths=lengths, faults=())


def images_in(selections: Sequence[Selection]) -> set[str]:
    """Return the files of all images that the selected records show."""
    return {
        selection.index.image_path(name)
        for selection in selections
        for names in _image_names(selection)
        for name in names
    }


def _group_keys(selection: Selection, groups: DisjointSets, names: dict[str, str]) -> Iterator[str]:
    """Yield a key of each record's group: one of its images, or its own text if it has none."""
    file = selection.index
    for record, shown in zip(selection.records.tolist(), _image_names(selection), strict=True):
        if not shown:
            text = f"text {file.columns['crc'][record]} {file.columns['size'][record]}"
            names[text] = text
            groups.add(text)
            yield text
            continue
        keys = []
        for name in shown:
            key = f"picture {file.image_path(name)}"
            names[key] = min(f"picture {name}", names.get(key, f"picture {name}"))
            groups.add(key)
            keys.append(key)
        for other in keys[1:]:
            groups.join(keys[0], other)
        yield keys[0]


def _image_names(selection: Selection) -> Iterator[list[str]]:
    """Yield the names of each selected record's images, as the file writes them."""
    file = selection.index
    ends = np.cumsum(file.columns["images"])
    for record in selection.records.tolist():
        yield [file.names[k] for k in file.shown[ends[record] - file.columns["images"][record] : ends[record]]]


def _uniform(seed: int, name: str) -> float:
    """Return a number from 0 to 1 that depends on seed and name only, on every machine."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
