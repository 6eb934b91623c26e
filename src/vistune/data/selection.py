"""Which rows of a data source a stage learns from, and how long each is; the rows as samples.

source + the stage's kinds and row length -> Choice of an index's rows; what does not fit is a fault with its place
Choices -> Rows: a Sample is read when a step needs it
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from vistune.data.index import Fault, Index, index
from vistune.data.readers import folders_of, open_source
from vistune.data.truncation import shortened
from vistune.errors import DataError
from vistune.processor import Processor
from vistune.progress import Progress
from vistune.recipe import DataSource, Take
from vistune.records import DataFile, ImageFolders, RecordError
from vistune.types import Reject, Sample


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows of an index, their lengths in tokens with image slots counted, and what was wanted but is bad."""

    index: Index
    rows: np.ndarray
    lengths: np.ndarray
    faults: tuple[Fault, ...]
    remark: str = ""  # for whoever wrote the recipe; empty = all is as it says

    @property
    def notes(self) -> list[Reject]:
        """What happened to the rows that were too long and are cut."""
        return [self.index.notes[row] for row in self.rows.tolist() if row in self.index.notes]

    @property
    def found(self) -> bool:
        return bool(len(self.rows) or self.faults)


def choose_rows(
    source: DataSource,
    processor: Processor,
    kinds: tuple[str, ...] | None,
    tokens_per_row: int | None,
    *,
    progress: Progress,
    label: str,
    seed: int = 0,
    cut: bool = True,
    keep: bool = True,
    data: DataFile | None = None,
) -> Choice:
    """Select the rows of the requested kinds (of the source, else of the stage), and of these the ones to `take`.

    `cut`: rows longer than `tokens_per_row` are cut at the end of a turn; otherwise, or if no turn fits, they are
    faults.
    `keep`: whether their index stays in the cache. `data`: the source's file if already open.

    Raises DataError if the file cannot be read, or has no row of the source's own kinds.
    """
    data = data or open_source(source.file)
    path = data.name
    made = index(data, folders_of(data, source.images), processor, progress=progress, label=label, keep=keep)
    made = shortened(made, processor, tokens_per_row) if cut else made
    wanted = source.kinds or kinds
    rows = made.of_kind(wanted)
    faults = [fault for fault in made.faults if not wanted or not fault.kind or fault.kind in wanted]
    if wanted:
        faults += kindless(made, wanted)
    chosen = set(made.kinds) if not wanted else set(wanted)
    faults += [fault for fault in too_long(made, tokens_per_row) if fault.kind in chosen]
    rows = rows[made.lengths[rows] <= (tokens_per_row or np.inf)]
    remark = ""
    if source.take is not None and len(rows) >= source.take.rows:
        rows, faults = _taken(source.take, made, rows, faults, seed)
    elif source.take is not None:
        asked = f"{source.take.which} {source.take.rows:,}"
        remark = f"{path}: `take: {asked}` asks for more rows than there are: all {len(rows):,} are taken"
    faults.sort(key=lambda fault: fault.at)
    if source.kinds and not len(rows) and not faults:
        refuse_unknown_kinds(known_kinds(made), source.kinds, path)
    return Choice(made, rows, made.lengths[rows], tuple(faults), remark)


def _taken(take: Take, made: Index, rows: np.ndarray, faults: list[Fault], seed: int) -> tuple[np.ndarray, list[Fault]]:
    """The rows to take; faults among rows that are not wanted are none."""
    if take.which == "first":
        rows = rows[: take.rows]
        return rows, [fault for fault in faults if fault.at < made.at(rows[-1])]
    if take.which == "last":
        rows = rows[-take.rows :]
        return rows, [fault for fault in faults if fault.at > made.at(rows[0])]
    chance = np.random.Generator(np.random.PCG64(seed))
    return np.sort(chance.permutation(rows)[: take.rows]), faults


def known_kinds(made: Index) -> list[str]:
    return sorted({*made.kinds, *(fault.kind for fault in made.faults)})


def kindless(made: Index, wanted: Sequence[str]) -> list[Fault]:
    """A fault for each record without a kind, where the recipe selects records by their kind."""
    return [_kindless(made, int(row), wanted) for row in made.of_kind([""])]


def _kindless(made: Index, row: int, wanted: Sequence[str]) -> Fault:
    error = RecordError(
        made.origin(row),
        "kind",
        f"the row has none, but the recipe chooses {', '.join(wanted)}",
        "add `kind` to the rows, or set the stage's kinds to null",
    )
    reject = Reject(made.sample(row).id, made.origin(row), error.reason, str(error))
    return Fault(reject, "", error, made.at(row))


def refuse_unknown_kinds(known: Iterable[str], wanted: tuple[str, ...], place: str) -> None:
    """No row of any file is of a wanted kind: raises DataError naming the kinds that there are."""
    raise DataError(
        f"{place}: no row of the kind {', '.join(wanted)}; there are {', '.join(sorted(known))}",
        "choose other kinds in the recipe",
    )


def too_long(made: Index, tokens_per_row: int | None) -> list[Fault]:
    """A fault for every row that is longer than a packed row may be, and cannot be cut (truncation.py)."""
    faults = []
    for row in np.flatnonzero(made.lengths > (tokens_per_row or np.inf)).tolist():
        origin, kind = made.origin(row), made.kinds[made.columns["kind"][row]]
        error = DataError(
            f"{origin}: {made.lengths[row]} tokens do not fit a row of {tokens_per_row}",
            "raise the stage's tokens_per_row, or shorten the sample",
        )
        reject = Reject(made.sample(row).id, origin, "too_long", str(error))
        faults.append(Fault(reject, kind, error, made.at(row)))
    return faults


class Rows(Sequence[Sample]):
    """Chosen rows of one or several files, as samples read when asked for."""

    def __init__(self, parts: Sequence[tuple[Index, np.ndarray]]) -> None:
        self.parts = [(file, chosen) for file, chosen in parts if len(chosen)]
        self.ends = list(accumulate(len(chosen) for _, chosen in self.parts))
        self.shown_until = [np.cumsum(file.columns["pictures"]) for file, _ in self.parts]
        found = [(file, code) for file, chosen in self.parts for code in np.unique(file.columns["kind"][chosen])]
        paths = {file.path for file, _ in self.parts}
        names = [f"{_short(file.path, paths)} {file.kinds[code]}".strip() for file, code in found]
        self.sources = tuple(
            dict.fromkeys(names)
        )  # what is learnt from: each file's kinds, such as `data/a.json detail`
        self._source = {
            (file.path, code): self.sources.index(name) for (file, code), name in zip(found, names, strict=True)
        }

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        file, row = self._find(place)
        return file.sample(row)

    def shown_by(self, places: np.ndarray) -> tuple[int, list[tuple[ImageFolders, str]]]:
        """(how many pictures these rows show, each different one's folders and name, in the order of their first row).

        No row is read; of one that is cut short, those of its cut turns count too.
        """
        parts = np.searchsorted(np.array(self.ends), places, side="right")
        orders: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        names: list[tuple[ImageFolders, str]] = []
        begin = 0
        for number, (file, chosen) in enumerate(self.parts):
            mine = np.flatnonzero(parts == number)
            rows = chosen[places[mine] - begin]
            counts = file.columns["pictures"][rows]
            ends = self.shown_until[number][rows]
            behind = np.repeat(ends - np.cumsum(counts), counts)  # of a row's pictures, less those before it here
            codes.append(len(names) + file.shown[behind + np.arange(counts.sum())])
            orders.append(np.repeat(mine, counts))
            names += [(file.folders, name) for name in file.names]
            begin = self.ends[number]
        if not codes:
            return 0, []
        listed = np.concatenate(codes)[np.argsort(np.concatenate(orders), kind="stable")]
        _, first = np.unique(listed, return_index=True)
        found = (names[code] for code in listed[np.sort(first)].tolist())
        by_place = {(folders.key, name): (folders, name) for folders, name in found}  # files may share some
        return len(listed), list(by_place.values())

    def origin(self, place: int) -> str:
        """`path:line` of a row, without reading it."""
        file, row = self._find(place)
        return file.origin(row)

    def source(self, place: int) -> int:
        """Which of `sources` a row is from, without reading it."""
        file, row = self._find(place)
        return self._source[file.path, file.columns["kind"][row]]

    def _find(self, place: int) -> tuple[Index, int]:
        if not 0 <= place < len(self):
            raise IndexError(place)
        part = bisect_right(self.ends, place)
        file, chosen = self.parts[part]
        return file, int(chosen[place - (self.ends[part] - len(chosen))])


def _short(path: Path, others: Collection[Path]) -> str:
    """A file's name in its folder's; all of its path where another file's would be the same."""
    alike = [other for other in others if (other.name, other.parent.name) == (path.name, path.parent.name)]
    return str(Path(*path.parts[-2:])) if len(alike) == 1 else str(path)


def all_rows(source: DataSource, *, find_images: bool = True) -> Rows:
    """Every row; without `find_images` no picture need be there. Raises DataError of the first bad one."""
    data = open_source(source.file)
    made = index(data, folders_of(data, source.images) if find_images else None, None)
    if made.faults:
        raise made.faults[0].error
    return Rows([(made, made.of_kind(None))])


def images_of(source: DataSource) -> dict[str, Path | None]:
    """Every picture that a source's good rows name, and where it lies; None where it is not there."""
    data = open_source(source.file)
    folders = ImageFolders(folders_of(data, source.images))
    found: dict[str, Path | None] = {}
    for name in index(data, None, None).names:
        try:
            found[name] = Path(str(folders.find(name, data.name, "image").source))
        except RecordError:
            found[name] = None
    return found
