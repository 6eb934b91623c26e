"""Image audit: open each image file of a data set once. Is it readable, is it what its suffix says, is it there twice?

image files -> ImageAudit of each (in threads) -> faults for unreadable ones, notes on suffixes and duplicates
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistune.data.index import Index
from vistune.data.near_duplicates import difference_hash, group_near_duplicates
from vistune.errors import DataError
from vistune.processor.images import load_bytes, read_image
from vistune.progress import Advance
from vistune.records.image_files import DAMAGE
from vistune.types import Reject

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
}
NAMED_IMAGES = 5  # images of a group that one note names


@dataclass(slots=True)
class ShownImage:
    """An image file: its name in the data, the first record that shows it, and how often it is shown."""

    name: str
    index: Index
    record: int
    uses: int = 0

    def reject(self, reason: str, problem: str) -> Reject:
        location = self.index.location(self.record)
        return Reject(self.index.sample(self.record).id, location, reason, f"{location}:image: {problem}")


@dataclass(frozen=True, slots=True)
class ImageAudit:
    """What an image file holds.

    Attributes:
        format: Pillow's name of the format.
        digest: SHA-256 of the file's bytes.
        hash: 128-bit difference hash, similar for near duplicates; None for an image of one tone.
        fault: Why the file cannot be used.
    """

    format: str = ""
    digest: bytes = b""
    hash: int | None = None
    fault: DataError | None = None


def shown_images(files: Sequence[Index]) -> dict[Path, ShownImage]:
    """Return every image file that good records show, in the order of the records."""
    images: dict[Path, ShownImage] = {}
    for file in files:
        paths = [Path(str(file.folders.find(name, file.data.name, "image").source)) for name in file.names]
        records = np.repeat(np.arange(len(file)), file.columns["images"])
        for record, name_index in zip(records.tolist(), file.shown.tolist(), strict=True):
            image = images.setdefault(paths[name_index], ShownImage(file.names[name_index], file, record))
            image.uses += 1
    return images


def audit_image(path: Path) -> ImageAudit:
    """Read and decode one image completely: a header does not show that the rest of the file is missing."""
    try:
        data = read_image(path)
        image = load_bytes(data, str(path))
        fingerprint = difference_hash(image)
    except DataError as error:
        return ImageAudit(fault=error)
    except DAMAGE as error:
        return ImageAudit(fault=DataError(f"{path}: the image is damaged ({error})", "replace it"))
    return ImageAudit(image.format or "", hashlib.sha256(data).digest(), fingerprint)


def audit_images(images: Mapping[Path, ShownImage], advance: Advance) -> tuple[list[Reject], list[Reject]]:
    """Return (faults, notes), each at the first record that shows the image. Images are decoded in threads."""
    faults: list[Reject] = []
    notes: list[Reject] = []
    same_bytes: dict[bytes, list[Path]] = defaultdict(list)
    hashes: dict[str, int] = {}
    with ThreadPoolExecutor() as pool:
        for (path, image), audit in zip(images.items(), pool.map(audit_image, images), strict=True):
            advance(1)
            if audit.fault is not None:
                others = f" ({image.uses - 1} more uses)" if image.uses > 1 else ""
                faults.append(image.reject("bad_picture", f"{audit.fault}{others}"))
                continue
            if path.suffix.lower() not in SUFFIXES.get(audit.format, ()):
                problem = f"{image.name!r} is a {audit.format} file and is read as one"
                notes.append(image.reject("wrong_suffix", problem))
            same_bytes[audit.digest].append(path)
            if audit.hash is not None and len(same_bytes[audit.digest]) == 1:
                hashes[str(path)] = audit.hash
    notes += _repeated(images, same_bytes.values(), "same_picture", "are the same file")
    groups = ([Path(name) for name in group] for group in group_near_duplicates(hashes))
    return faults, notes + list(_repeated(images, groups, "near_picture", "are near duplicates"))


def _repeated(
    images: Mapping[Path, ShownImage], groups: Iterable[list[Path]], reason: str, problem: str
) -> Iterator[Reject]:
    for group in groups:
        if len(group) > 1:
            names = ", ".join(repr(images[path].name) for path in group[:NAMED_IMAGES])
            more = f" and {len(group) - NAMED_IMAGES} more" if len(group) > NAMED_IMAGES else ""
            yield images[group[0]].reject(reason, f"{names}{more} {problem}")
