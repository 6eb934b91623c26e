"""Each picture file of a data set read once: can it be decoded, is it what its name says, is it there twice.

paths -> Look of each (in threads) -> faults of those that cannot be opened, notes on names and duplicates
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistune.data.index import Index
from vistune.data.near_duplicates import hash_of, near_duplicates
from vistune.errors import DataError
from vistune.processor.images import load_bytes, read_image
from vistune.records.image_files import DAMAGE
from vistune.types import Reject

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
}
NAMED = 5  # of a group's pictures in one note


@dataclass(slots=True)
class Shown:
    """A picture file: its name in the data, the first row that shows it, and how many places do."""

    name: str
    index: Index
    row: int
    places: int = 0

    def reject(self, reason: str, words: str) -> Reject:
        origin = self.index.origin(self.row)
        return Reject(self.index.sample(self.row).id, origin, reason, f"{origin}:image: {words}")


@dataclass(frozen=True, slots=True)
class Look:
    """What is in a picture's file; `looks`: 128 bits, alike where pictures are; None of one that is of one tone."""

    format: str = ""
    digest: bytes = b""
    looks: int | None = None
    fault: DataError | None = None


def shown_images(files: Sequence[Index]) -> dict[Path, Shown]:
    """Every picture file that good rows show, in their order."""
    found: dict[Path, Shown] = {}
    for made in files:
        paths = [Path(str(made.folders.find(name, made.data.name, "image").source)) for name in made.names]
        rows = np.repeat(np.arange(len(made)), made.columns["pictures"])
        for row, place in zip(rows.tolist(), made.shown.tolist(), strict=True):
            shown = found.setdefault(paths[place], Shown(made.names[place], made, row))
            shown.places += 1
    return found


def look(path: Path) -> Look:
    """Read and decode one picture, whole: a header tells nothing of what is cut off behind it."""
    try:
        data = read_image(path)
        image = load_bytes(data, str(path))
        looks = hash_of(image)
    except DataError as error:
        return Look(fault=error)
    except DAMAGE as error:
        return Look(fault=DataError(f"{path}: a damaged picture ({error})", "replace it"))
    return Look(image.format or "", hashlib.sha256(data).digest(), looks)


def look_at_all(shown: Mapping[Path, Shown], advance: Callable[..., None]) -> tuple[list[Reject], list[Reject]]:
    """Faults and notes, each at the first row that shows the picture; in threads, as decoding frees the interpreter."""
    faults: list[Reject] = []
    notes: list[Reject] = []
    same: dict[bytes, list[Path]] = defaultdict(list)
    looks: dict[str, int] = {}
    with ThreadPoolExecutor() as pool:
        for (path, where), seen in zip(shown.items(), pool.map(look, shown), strict=True):
            advance(1)
            if seen.fault is not None:
                others = f" ({where.places - 1} more places show it)" if where.places > 1 else ""
                faults.append(where.reject("bad_picture", f"{seen.fault}{others}"))
                continue
            if path.suffix.lower() not in SUFFIXES.get(seen.format, ()):
                notes.append(where.reject("wrong_suffix", f"{where.name!r} is a {seen.format}; it is read as one"))
            same[seen.digest].append(path)
            if seen.looks is not None and len(same[seen.digest]) == 1:
                looks[str(path)] = seen.looks
    notes += _repeated(shown, same.values(), "same_picture", "the same bytes")
    near = ([Path(name) for name in group] for group in near_duplicates(looks))
    return faults, notes + list(_repeated(shown, near, "near_picture", "nearly the same picture"))


def _repeated(shown: Mapping[Path, Shown], groups: Iterable[list[Path]], reason: str, words: str) -> Iterator[Reject]:
    for group in groups:
        if len(group) > 1:
            names = ", ".join(repr(shown[path].name) for path in group[:NAMED])
            more = f" and {len(group) - NAMED} more" if len(group) > NAMED else ""
            yield shown[group[0]].reject(reason, f"{names}{more} are {words}")
