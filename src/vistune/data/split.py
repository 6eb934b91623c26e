"""Split samples off that are not trained on, by image: a share for validation, or a few images for the blind check.

all stages' Selections + share or number of images + seed -> which records of each selection are split off

Records that show the same image, directly or through other records, stay together. The split depends on the seed and
the images' names, not on the order of the records. So records that are added later move no other record to the other
side.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

import numpy as np

from vistune.data.near_duplicates import DisjointSets
from vistune.data.packing import rng_of
from vistune.data.samples import SampleSequence
from vistune.data.selection import Selection

LEAST_IMAGES = 8  # held out for the blind check: fewer show nothing
SHARE = 0.05  # of a stage's images that the blind check holds out
LARGEST_SHARE = 0.1  # limit of this share in a small data set, and of the share of records


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


def split_blind_check(stages: Sequence[Sequence[Selection]], counts: Sequence[int], seed: int) -> list[np.ndarray]:
    """Return a boolean array per selection of all stages: which of its records the blind check holds out.

    `counts`: largest number of held-out images of each stage. An image that is held out for one stage is trained on
    in no stage. A stage with too few images holds none out for itself.
    """
    shown = _ShownImages([selection for stage in stages for selection in stage])
    held = np.zeros(shown.records, bool)
    ends = np.cumsum([sum(len(selection.records) for selection in stage) for stage in stages])
    for count, end, stage in zip(counts, ends.tolist(), stages, strict=True):
        shown.split(held, end - sum(len(selection.records) for selection in stage), end, count, seed)
    sizes = [len(selection.records) for stage in stages for selection in stage]
    return np.split(held, np.cumsum(sizes)[:-1]) if sizes else []


def blind_check_images(images: int, count: int) -> int:
    """Return how many of a stage's images the blind check holds out, at most `count`; 0 if there are too few."""
    held = min(count, max(LEAST_IMAGES, int(SHARE * images)))
    return held if 2 <= held <= LARGEST_SHARE * images else 0


class _ShownImages:
    """Which records show which images; both are numbered over all selections."""

    def __init__(self, selections: Sequence[Selection]) -> None:
        numbers: dict[str, int] = {}  # path -> number
        self.names: list[str] = []  # an image's name; two files may write it differently
        codes: list[np.ndarray] = [np.zeros(0, np.int64)]
        counts: list[np.ndarray] = [np.zeros(0, np.int64)]
        for selection in selections:
            file = selection.index
            own = np.zeros(len(file.names), np.int64)
            for code, name in enumerate(file.names):
                number = own[code] = numbers.setdefault(file.image_path(name), len(numbers))
                if number == len(self.names):
                    self.names.append(name)
                self.names[number] = min(self.names[number], name)
            counts.append(file.columns["images"][selection.records])
            codes.append(own[file.images_of(selection.records)])
        self.records = sum(map(len, counts))
        self.images = np.concatenate(codes)  # of all records, one after another
        self.begins = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        order = np.argsort(self.images, kind="stable")
        self.by_image = np.repeat(np.arange(self.records), np.diff(self.begins))[order]
        self.first = np.searchsorted(self.images[order], np.arange(len(numbers) + 1))

    def split(self, held: np.ndarray, begin: int, end: int, count: int, seed: int) -> None:
        """Mark in `held` all records that show up to `count` images of the records from `begin` to `end`."""
        images = np.unique(self.images[self.begins[begin] : self.begins[end]]).tolist()
        images.sort(key=lambda image: _uniform(seed, self.names[image]))
        target, most_records = blind_check_images(len(images), count), LARGEST_SHARE * (end - begin)
        taken: set[int] = set()
        for image in images:
            if len(taken) >= target:
                break
            together, records = self._group(image, target)
            own = sum(begin <= record < end and not held[record] for record in records)
            if len(taken | together) <= target and held[begin:end].sum() + own <= most_records:
                taken |= together
                held[list(records)] = True

    def _group(self, image: int, most: int) -> tuple[set[int], set[int]]:
        """Return the images that share records with an image, directly or not, and their records.

        The search ends early if there are more than `most` images.
        """
        images, records, waiting = {image}, set[int](), [image]
        while waiting and len(images) <= most:
            number = waiting.pop()
            for record in set(self.by_image[self.first[number] : self.first[number + 1]].tolist()) - records:
                records.add(record)
                others = set(self.images[self.begins[record] : self.begins[record + 1]].tolist()) - images
                images |= others
                waiting += others
        return images, records


def choose_by_image(selections: Sequence[Selection], count: int, seen: Container[str], seed: int) -> SampleSequence:
    """Choose up to `count` records with images, of as many different images as possible.

    `seen`: images that are trained on; records that show one are not chosen.
    """
    listed: list[tuple[int, int, str]] = []  # selection, record, its first image
    for number, selection in enumerate(selections):
        for record, names in zip(selection.records.tolist(), _image_names(selection), strict=True):
            paths = [selection.index.image_path(name) for name in names]
            if paths and not any(path in seen for path in paths):
                listed.append((number, record, paths[0]))
    records_of_image = Counter[str]()
    by_turn: list[tuple[int, int, int]] = []  # the first records of all images, then the second ones, …
    for k in rng_of(seed).permutation(len(listed)).tolist():
        number, record, image = listed[k]
        by_turn.append((records_of_image[image], number, record))
        records_of_image[image] += 1
    by_turn.sort(key=lambda item: item[0])
    parts = [
        (selection.index, np.array(sorted(record for _, k, record in by_turn[:count] if k == number), np.int64))
        for number, selection in enumerate(selections)
    ]
    return SampleSequence(parts)


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
