"""Find near-duplicate images of a data set, and images that it shares with evaluation sets.

image -> 128-bit difference hash (two 8 x 8 grids of bits: brighter to the right or not, brighter downwards or not)
hashes -> groups of near duplicates
names and hashes of two sets -> the images that are in both
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vistune.errors import DataError
from vistune.progress import Advance
from vistune.records import read_values
from vistune.records.image_files import DAMAGE, FORMATS, SUFFIXES

# Bits of 128 that may differ. Among 120 COCO photographs, no two differ in fewer than 29 bits. Saved again at JPEG
# quality 40 they differ in at most 6; at half the size, or a tenth brighter, in at most 7 for 98 % of them.
NEAR_BITS = 7
BANDS = 8  # of 16 bits each: two hashes that differ in at most 7 bits agree in one of them
STEP = 2.0  # grey levels that count as a difference, so that noise on a flat background is not hashed
IMAGE_FIELDS = ("image", "image_id", "imageId", "img_id", "image_source", "image_path", "file_name", "imagename")
# File names that show the source, and the sets that are drawn from it (as in the official releases).
NAMED_SOURCES: Mapping[str, str] = {
    "COCO_val2014_": "COCO val2014, from which POPE, VQAv2 val and LLaVA-Bench (COCO) are drawn",
    "COCO_test2015_": "COCO test2015, from which VQAv2 test is drawn",
    "VizWiz_test_": "VizWiz test",
    "VizWiz_val_": "VizWiz val",
}


@dataclass(frozen=True, slots=True)
class Overlap:
    """One evaluation set: how many of its images were read, and the images that the data set shares with it."""

    name: str
    images: int
    shared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Near duplicates and overlaps of a data set.

    Attributes:
        named: Number of images that the data name.
        seen: How many of these could be opened.
        groups: Names of near duplicates, the largest group first.
        overlaps: Evaluation sets that share images.
    """

    named: int
    seen: int
    groups: tuple[tuple[str, ...], ...]
    overlaps: tuple[Overlap, ...]


def find_near_duplicates(
    images: Mapping[str, Path | None],
    against: Sequence[Path] = (),
    advance: Advance = lambda count: None,
) -> NearDuplicates:
    """Find near duplicates among images, and images that evaluation sets have too.

    Args:
        images: Files by name; None if the file is missing.
        against: Folders of images, or files that name or contain images (JSON, JSON lines, CSV, TSV).
    """
    hashes = {}
    for name, path in images.items():
        if path and (value := image_hash(path)) is not None:
            hashes[name] = value
        advance(1)
    overlaps = [
        Overlap(source, 0, shared)
        for prefix, source in NAMED_SOURCES.items()
        if (shared := tuple(sorted(name for name in images if Path(name).name.startswith(prefix))))
    ]
    overlaps += [_overlap(path, images, hashes) for path in against]
    return NearDuplicates(len(images), len(hashes), group_near_duplicates(hashes), tuple(overlaps))


def image_hash(image: Path | bytes) -> int | None:
    """Return the difference hash of an image; None if it cannot be opened or has one tone."""
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as opened:
            opened.draft("L", (64, 64))  # a JPEG is decoded at an eighth of its size
            return difference_hash(opened)
    except DAMAGE:
        return None


def difference_hash(image: Image.Image) -> int | None:
    """Return the 128-bit difference hash of an open image; None if it has one tone."""
    small = ImageOps.exif_transpose(image).convert("L").resize((9, 9), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float32)
    bits = np.concatenate([(np.diff(grey[:8], axis=1) > STEP).ravel(), (np.diff(grey[:, :8], axis=0) > STEP).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big") if bits.any() else None


class DisjointSets:
    """Groups of names that grow together (union-find)."""

    def __init__(self) -> None:
        self.parents: dict[str, str] = {}

    def add(self, name: str) -> None:
        self.parents.setdefault(name, name)

    def root(self, name: str) -> str:
        """Return the name that stands for the group of `name`."""
        while self.parents[name] != name:
            self.parents[name] = self.parents[self.parents[name]]
            name = self.parents[name]
        return name

    def join(self, one: str, other: str) -> None:
        """Join the groups of two names."""
        self.parents[self.root(other)] = self.root(one)


def group_near_duplicates(hashes: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Return groups of names in which each hash is at most NEAR_BITS from another one, the largest group first."""
    groups = DisjointSets()
    buckets: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, value in hashes.items():
        groups.add(name)
        for band in _bands(value):
            for other in buckets[band]:
                is_new = groups.root(name) != groups.root(other)
                if is_new and (value ^ hashes[other]).bit_count() <= NEAR_BITS:
                    groups.join(other, name)
            buckets[band].append(name)
    members: dict[str, list[str]] = defaultdict(list)
    for name in hashes:
        members[groups.root(name)].append(name)
    return tuple(sorted((tuple(sorted(g)) for g in members.values() if len(g) > 1), key=lambda g: (-len(g), g)))


def _bands(value: int) -> Iterator[tuple[int, int]]:
    yield from ((k, (value >> (16 * k)) & 0xFFFF) for k in range(BANDS))


def _overlap(path: Path, images: Mapping[str, Path | None], hashes: Mapping[str, int]) -> Overlap:
    """Compare with one evaluation set: by name (COCO numbers with any prefix) and, if it has the images, by hash."""
    keys, buckets, count = set[str](), defaultdict[tuple[int, int], list[int]](list), 0
    for entry in _images_of(path):
        count += 1
        if isinstance(entry, str):
            keys.add(image_key(entry))
            continue
        if isinstance(entry, Path):
            keys.add(image_key(entry.name))
        if (value := image_hash(entry)) is not None:
            for band in _bands(value):
                buckets[band].append(value)
    if not count:
        hint = f"an image is read from one of the fields {', '.join(IMAGE_FIELDS)}"
        raise DataError(f"{path}: names no images and contains none", hint)
    shared = {name for name in images if image_key(name) in keys}
    for name, value in hashes.items():
        near = (other for band in _bands(value) for other in buckets.get(band, ()))
        if any((value ^ other).bit_count() <= NEAR_BITS for other in near):
            shared.add(name)
    return Overlap(path.name, count, tuple(sorted(shared)))


def image_key(name: str) -> str:
    """Return the name under which other data sets know an image: COCO's twelve digits, else the bare file name."""
    base = Path(name).stem.lower()
    number = re.fullmatch(r"(?:coco_[a-z]+\d{4}_)?(\d{12})", base)
    return number.group(1) if number else base


def _images_of(path: Path) -> Iterator[str | Path | bytes]:
    """Yield every image that a folder or file of an evaluation set contains or names, once."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in (".json", ".jsonl", ".tsv", ".csv") and file.is_file():
                yield from _images_of(file)
        return
    seen: set[str] = set()
    for value in _fields(path):
        name = f"{value:012}" if isinstance(value, int) else value
        if name in seen:
            continue
        seen.add(name)
        if len(name) > 1000:
            try:
                yield base64.b64decode(name, validate=True)
            except binascii.Error:
                raise DataError(f"{path}: an image is neither a name nor base64", "check the file") from None
        elif name.strip():
            yield name


def _fields(path: Path) -> Iterator[str | int]:
    """Yield the values of all fields that name or contain images, at any depth."""
    for _, value in read_values(path):
        yield from _walk(value)


def _walk(value: object) -> Iterator[str | int]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in IMAGE_FIELDS and (isinstance(inner, str) or type(inner) is int):
                yield inner
            else:
                yield from _walk(inner)
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for inner in value:
            yield from _walk(inner)
