"""Which pictures of a data set are nearly the same, and which of them evaluation sets hold too.

picture -> 128-bit difference hash (two 8 x 8 grids: does it get brighter to the right, and downwards)
hashes -> groups of near-duplicates · names and hashes against an evaluation set's -> overlap
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vistune.errors import DataError
from vistune.records import read_values
from vistune.records.image_files import DAMAGE, FORMATS, SUFFIXES

# Of 128 bits that may differ. Of 120 COCO photographs no two differ in fewer than 29; saved again at JPEG quality 40
# they differ in 6 at most, at half the size or a tenth brighter in 7 at most for 98 % of them.
NEAR_BITS = 7
BANDS = 8  # of 16 bits: two hashes at most 7 bits apart agree in one of them
STEP = 2.0  # grey levels that count as a difference, so that a flat ground does not hash its noise
IMAGE_FIELDS = ("image", "image_id", "imageId", "img_id", "image_source", "image_path", "file_name", "imagename")
# File names that tell the source, and the sets that are drawn from it (facts of the official releases).
NAMED_SOURCES: Mapping[str, str] = {
    "COCO_val2014_": "COCO val2014, from which POPE, VQAv2 val and LLaVA-Bench (COCO) are drawn",
    "COCO_test2015_": "COCO test2015, from which VQAv2 test is drawn",
    "VizWiz_test_": "VizWiz test",
    "VizWiz_val_": "VizWiz val",
}


@dataclass(frozen=True, slots=True)
class Overlap:
    """One evaluation set: how many of its pictures were read, and the data set's pictures that it shares."""

    name: str
    images: int
    shared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Likeness:
    """What a data set's pictures share: `seen` of `named` could be opened; groups are names of near-duplicates."""

    named: int
    seen: int
    groups: tuple[tuple[str, ...], ...]
    overlaps: tuple[Overlap, ...]


def find_near_duplicates(
    images: Mapping[str, Path | None],
    against: Sequence[Path] = (),
    advance: Callable[..., None] = lambda count: None,
) -> Likeness:
    """Near-duplicates among `images` (name -> file, None where it is not there) and overlap with evaluation sets.

    `against`: folders of pictures, or files that name or hold them (JSON, JSON lines, CSV, TSV).
    """
    hashes = {}
    for name, path in images.items():
        if path and (found := image_hash(path)) is not None:
            hashes[name] = found
        advance(1)
    overlaps = [
        Overlap(source, 0, shared)
        for prefix, source in NAMED_SOURCES.items()
        if (shared := tuple(sorted(name for name in images if Path(name).name.startswith(prefix))))
    ]
    overlaps += [_overlap(path, images, hashes) for path in against]
    return Likeness(len(images), len(hashes), near_duplicates(hashes), tuple(overlaps))


def image_hash(image: Path | bytes) -> int | None:
    """128 bits of a picture's brightness; None where it cannot be opened or is of one tone."""
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as opened:
            opened.draft("L", (64, 64))  # a JPEG is decoded at an eighth of its size
            return hash_of(opened)
    except DAMAGE:
        return None


def hash_of(image: Image.Image) -> int | None:
    """The same of a picture that is open; None where it is of one tone."""
    small = ImageOps.exif_transpose(image).convert("L").resize((9, 9), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float32)
    bits = np.concatenate([(np.diff(grey[:8], axis=1) > STEP).ravel(), (np.diff(grey[:, :8], axis=0) > STEP).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big") if bits.any() else None


def near_duplicates(hashes: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Groups of names whose hashes are at most NEAR_BITS apart, one by one; the largest groups first."""
    leader = {name: name for name in hashes}

    def lead(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    buckets: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, value in hashes.items():
        for band in _bands(value):
            for other in buckets[band]:
                if lead(name) != lead(other) and (value ^ hashes[other]).bit_count() <= NEAR_BITS:
                    leader[lead(name)] = lead(other)
            buckets[band].append(name)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in hashes:
        groups[lead(name)].append(name)
    return tuple(sorted((tuple(sorted(g)) for g in groups.values() if len(g) > 1), key=lambda g: (-len(g), g)))


def _bands(value: int) -> Iterator[tuple[int, int]]:
    yield from ((k, (value >> (16 * k)) & 0xFFFF) for k in range(BANDS))


def _overlap(path: Path, images: Mapping[str, Path | None], hashes: Mapping[str, int]) -> Overlap:
    """By name (COCO's numbers whatever their prefix) and, where pictures are there, by look."""
    keys, looks, count = set[str](), defaultdict[tuple[int, int], list[int]](list), 0
    for entry in _images_of(path):
        count += 1
        if isinstance(entry, str):
            keys.add(image_key(entry))
            continue
        if isinstance(entry, Path):
            keys.add(image_key(entry.name))
        if (value := image_hash(entry)) is not None:
            for band in _bands(value):
                looks[band].append(value)
    if not count:
        raise DataError(f"{path}: names and holds no pictures", f"one of the fields {', '.join(IMAGE_FIELDS)} is read")
    shared = {name for name in images if image_key(name) in keys}
    for name, value in hashes.items():
        near = (other for band in _bands(value) for other in looks.get(band, ()))
        if any((value ^ other).bit_count() <= NEAR_BITS for other in near):
            shared.add(name)
    return Overlap(path.name, count, tuple(sorted(shared)))


def image_key(name: str) -> str:
    """A name by which the same picture is known elsewhere: COCO's twelve digits, else the bare file name."""
    stem = Path(name).stem.lower()
    found = re.fullmatch(r"(?:coco_[a-z]+\d{4}_)?(\d{12})", stem)
    return found.group(1) if found else stem


def _images_of(path: Path) -> Iterator[str | Path | bytes]:
    """Every picture that a folder or file of an evaluation set holds or names, once."""
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
                raise DataError(f"{path}: a picture is neither a name nor base64", "check the file") from None
        elif name.strip():
            yield name


def _fields(path: Path) -> Iterator[str | int]:
    """Values of all fields that name or contain images, at any depth."""
    for _, value in read_values(path):
        yield from _walk(value)


def _walk(value: Any) -> Iterator[str | int]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in IMAGE_FIELDS and (isinstance(inner, str) or type(inner) is int):
                yield inner
            else:
                yield from _walk(inner)
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for inner in value:
            yield from _walk(inner)
