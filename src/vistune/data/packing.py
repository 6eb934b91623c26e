"""Which samples make which step and row, planned before anything is read: the same on every machine.

lengths -> plan_stage -> steps of rows of sample indices -> collate -> Batch
Samples are shuffled by (seed, epoch), cut into steps, and each step's samples are packed best-fit into rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vistune.errors import DataError

Row = tuple[int, ...]
Step = tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """All steps of a stage; the hash tells two plans apart when a run is resumed."""

    steps: tuple[Step, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.steps).encode()).hexdigest()


def shuffled(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order of one epoch."""
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(count)
    return [int(index) for index in order]


def pack(indices: Sequence[int], lengths: Sequence[int], tokens_per_row: int) -> Step:
    """Rows of at most `tokens_per_row`: longest first, each into the row it fills best."""
    rows: list[list[int]] = []
    rooms: list[int] = []
    for index in sorted(indices, key=lambda k: (-lengths[k], k)):
        length = lengths[index]
        fitting = [k for k, room in enumerate(rooms) if room >= length]
        if fitting:
            best = min(fitting, key=lambda k: (rooms[k], k))
            rows[best].append(index)
            rooms[best] -= length
        else:
            rows.append([index])
            rooms.append(tokens_per_row - length)
    return tuple(tuple(row) for row in rows)


def order_of(count: int, *, samples_per_step: int, steps: int, seed: int) -> Iterator[list[int]]:
    """The samples of each step, epoch after epoch; an epoch's last step may be smaller."""
    made, epoch = 0, 0
    while made < steps:
        order = shuffled(count, seed=seed, epoch=epoch)
        for begin in range(0, count, samples_per_step):
            if made == steps:
                return
            yield order[begin : begin + samples_per_step]
            made += 1
        epoch += 1


def plan_stage(
    lengths: Sequence[int],
    names: Sequence[str],
    *,
    samples_per_step: int,
    tokens_per_row: int,
    steps: int,
    seed: int,
) -> StagePlan:
    """The plan of a stage. Raises DataError naming the first sample that is longer than a row."""
    if not lengths:
        raise DataError("there is nothing to learn from: no samples", "check the recipe's data and kinds")
    for name, length in zip(names, lengths, strict=True):
        if length > tokens_per_row:
            raise DataError(
                f"{name}: {length} tokens do not fit a row of {tokens_per_row}",
                "raise the stage's tokens_per_row, or shorten the sample",
            )
    orders = order_of(len(lengths), samples_per_step=samples_per_step, steps=steps, seed=seed)
    return StagePlan(tuple(pack(indices, lengths, tokens_per_row) for indices in orders))
