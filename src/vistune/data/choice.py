"""Which rows of a data source a stage learns from, and how long each is.

source + the stage's kinds and row length -> Choice of an index's rows; what does not fit is a fault with its place
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vistune.data.faults import RowError
from vistune.data.index import Fault, Index, Watch, index, too_long
from vistune.data.readers import data_file, folders_of, refuse_unknown_kinds
from vistune.processor import Processor
from vistune.recipe import DataSource, Take
from vistune.types import Reject


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows of an index, their lengths in tokens with image slots counted, and what was wanted but is bad."""

    index: Index
    rows: np.ndarray
    lengths: np.ndarray
    faults: tuple[Fault, ...]

    @property
    def found(self) -> bool:
        return bool(len(self.rows) or self.faults)


def choose_rows(
    source: DataSource,
    processor: Processor,
    kinds: tuple[str, ...] | None,
    tokens_per_row: int | None,
    *,
    watch: Watch,
    label: str,
    seed: int = 0,
) -> Choice:
    """The rows of the wanted kinds, the source's own before the stage's; of them those to `take`.

    Raises DataError where the file as a whole cannot be read, or holds no row of the source's own kinds.
    """
    path = data_file(source.file)
    made = index(path, folders_of(path, source.images), processor, watch=watch, label=label)
    wanted = source.kinds or kinds
    rows = made.of_kind(wanted)
    faults = [fault for fault in made.faults if not wanted or not fault.kind or fault.kind in wanted]
    if wanted:
        faults += [_kindless(made, int(row), wanted) for row in made.of_kind([""])]
    lengths = made.lengths(processor)
    chosen = set(made.kinds) if not wanted else set(wanted)
    faults += [fault for fault in too_long(made, lengths, tokens_per_row) if fault.kind in chosen]
    rows = rows[lengths[rows] <= (tokens_per_row or np.inf)]
    if source.take is not None and len(rows) > source.take.rows:
        rows, faults = _taken(source.take, made, rows, faults, seed)
    faults.sort(key=lambda fault: fault.line)
    if source.kinds and not len(rows) and not faults:
        refuse_unknown_kinds(known_kinds(made), source.kinds, str(path))
    return Choice(made, rows, lengths[rows], tuple(faults))


def _taken(take: Take, made: Index, rows: np.ndarray, faults: list[Fault], seed: int) -> tuple[np.ndarray, list[Fault]]:
    """The rows to take; faults among rows that are not wanted are none."""
    lines = made.columns["line"]
    if take.which == "first":
        rows = rows[: take.rows]
        return rows, [fault for fault in faults if fault.line < lines[rows[-1]]]
    if take.which == "last":
        rows = rows[-take.rows :]
        return rows, [fault for fault in faults if fault.line > lines[rows[0]]]
    chance = np.random.Generator(np.random.PCG64(seed))
    return np.sort(chance.permutation(rows)[: take.rows]), faults


def known_kinds(made: Index) -> list[str]:
    return sorted({*made.kinds, *(fault.kind for fault in made.faults)})


def _kindless(made: Index, row: int, wanted: Sequence[str]) -> Fault:
    error = RowError(
        made.origin(row),
        "kind",
        f"the row has none, but the recipe chooses {', '.join(wanted)}",
        "add `kind` to the rows, or set the stage's kinds to null",
    )
    reject = Reject(made.sample(row).id, made.origin(row), error.reason, str(error))
    return Fault(reject, "", error, int(made.columns["line"][row]))
