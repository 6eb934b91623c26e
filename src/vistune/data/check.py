"""Every sample proved before anything is trained: form, pictures, tokens, what is learnt.

data sources + Processor -> CheckReport with a place and a reason for every fault
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistune.data.choice import too_long
from vistune.data.index import Index, Watch, index
from vistune.data.readers import data_file, folders_of
from vistune.errors import DataError, RecipeError
from vistune.processor import Processor, open_picture
from vistune.recipe import DataSource
from vistune.types import Picture, Reject


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is in the data and what is wrong with it; lengths in tokens with image slots expanded."""

    rows: int
    samples: int
    pictures: int
    kinds: dict[str, int]
    tokens: dict[str, int]
    learnt_tokens: int
    warnings: dict[str, int]
    faults: list[Reject]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check(
    sources: Sequence[DataSource],
    processor: Processor | None,
    *,
    pictures: bool = True,
    tokens_per_row: int | None = None,
    watch: Watch = lambda label, total: nullcontext(lambda *done: None),
) -> CheckReport:
    """Read all rows, encode them (with a processor), open each picture once; faults are gathered, not raised.

    Without `pictures` they are neither looked for nor opened, which anyres cannot do without: RecipeError. Samples
    longer than `tokens_per_row` are faults.
    """
    if processor is not None and processor.spec.image_mode == "anyres" and not pictures:
        raise RecipeError("an anyres model's tokens follow from the pictures' sizes", "check with the pictures")
    faults: list[Reject] = []
    files: list[Index] = []
    lengths: list[np.ndarray] = []
    for source in sources:
        try:
            path = data_file(source.file)
            folders = folders_of(path, source.images) if pictures else None
            made = index(path, folders, processor, watch=watch)
        except DataError as error:  # the file as a whole: not there, no list, broken off
            faults.append(Reject("", str(source.file), "bad_file", str(error)))
            continue
        files.append(made)
        faults += [fault.reject for fault in made.faults]
        if processor is not None:
            lengths.append(made.lengths)
            faults += [fault.reject for fault in too_long(made, tokens_per_row)]
    used = _first_shown(files)
    if pictures:
        faults += _open_all(used, watch)
    return CheckReport(
        rows=sum(len(made) + len(made.faults) for made in files),
        samples=sum(map(len, files)),
        pictures=len(used),
        kinds=dict(sum((_kinds(made) for made in files), Counter[str]())),
        tokens=_spread(lengths),
        learnt_tokens=sum(int(made.columns["learnt"].sum()) for made in files),
        warnings=dict(sum((Counter(made.warnings) for made in files), Counter[str]())),
        faults=faults,
    )


def _spread(lengths: Sequence[np.ndarray]) -> dict[str, int]:
    found = np.concatenate(lengths) if any(map(len, lengths)) else np.zeros(1, np.int64)
    return {"min": int(found.min()), "median": int(np.median(found)), "max": int(found.max())}


def _kinds(made: Index) -> Counter[str]:
    counts = np.bincount(made.columns["kind"], minlength=len(made.kinds))
    return Counter({kind or "none": int(count) for kind, count in zip(made.kinds, counts, strict=True)})


@dataclass(slots=True)
class _Shown:
    """A picture file: the first row that shows it, and how many places do."""

    index: Index
    row: int
    places: int = 0


def _first_shown(files: Sequence[Index]) -> dict[Path, _Shown]:
    found: dict[Path, _Shown] = {}
    for made in files:
        paths = [Path(str(made.folders.find(name, str(made.path), "image").source)) for name in made.names]
        rows = np.repeat(np.arange(len(made)), made.columns["pictures"])
        for row, place in zip(rows.tolist(), made.shown.tolist(), strict=True):
            shown = found.setdefault(paths[place], _Shown(made, row))
            shown.places += 1
    return found


def _open_all(used: Mapping[Path, _Shown], watch: Watch) -> list[Reject]:
    """A fault for each picture that cannot be opened, at the first sample that shows it."""

    def fault(path: Path) -> Reject | None:
        try:
            open_picture(Picture(path))
        except DataError as error:
            shown = used[path]
            origin = shown.index.origin(shown.row)
            others = f" ({shown.places - 1} more places show it)" if shown.places > 1 else ""
            name = shown.index.sample(shown.row).id
            return Reject(name, origin, "bad_picture", f"{origin}:image: {error}{others}")
        return None

    found = []
    with watch("open pictures", len(used)) as advance, ThreadPoolExecutor() as pool:
        for reject in pool.map(fault, used):
            found += [reject] if reject is not None else []
            advance(1)
    return found
