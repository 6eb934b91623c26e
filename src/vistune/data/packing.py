"""Which samples make which step and row, planned before anything is read: the same on every machine.

lengths -> plan_epoch, plan_stage -> steps of rows of sample indices -> collate -> Batch
Samples are shuffled by (seed, epoch), cut into steps, and each step's samples are packed best-fit into rows.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

import numpy as np

from vistune.errors import DataError

Row = tuple[int, ...]
Step = tuple[Row, ...]
Mixture = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """All steps of a stage, and what they were made from: a resumed run compares the two, name by name.

    `lengths`: tokens of each sample, by which a step's rows are dealt to several processes.
    """

    steps: tuple[Step, ...]
    made_from: Mapping[str, int | str]
    lengths: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """Of all steps together."""
        return sum(self.lengths[index] for step in self.steps for row in step for index in row)

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.steps).encode()).hexdigest()


def shuffled(samples: int, *, seed: int, epoch: int) -> list[int]:
    """The order of one epoch."""
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(samples)
    return [int(index) for index in order]


def pack(indices: Sequence[int], lengths: Sequence[int], tokens_per_row: int) -> Step:
    """Rows of at most `tokens_per_row`: longest first, each into the row it fills best."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens that still fit, row), sorted
    for index in sorted(indices, key=lambda k: (-lengths[k], k)):
        length = lengths[index]
        place = bisect_left(rooms, (length, 0))
        if place < len(rooms):
            room, number = rooms.pop(place)
            rows[number].append(index)
        else:
            room, number = tokens_per_row, len(rows)
            rows.append([index])
        insort(rooms, (room - length, number))
    return tuple(tuple(row) for row in rows)


def cut_steps(
    order: Sequence[int], lengths: Sequence[int], samples_per_step: int, tokens_per_step: int | None = None
) -> Iterator[Sequence[int]]:
    """An epoch's samples by step: as many as are asked for, or as many as `tokens_per_step` holds, one at least."""
    if tokens_per_step is None:
        yield from (order[begin : begin + samples_per_step] for begin in range(0, len(order), samples_per_step))
        return
    begin, held = 0, 0
    for place, index in enumerate(order):
        if held + lengths[index] > tokens_per_step and place > begin:
            yield order[begin:place]
            begin, held = place, 0
        held += lengths[index]
    if begin < len(order):
        yield order[begin:]


def steps_of(
    epochs: float,
    lengths: Sequence[int],
    *,
    seed: int,
    samples_per_step: int,
    tokens_per_step: int | None = None,
    mixture: Mixture | None = None,
) -> int:
    """Optimiser steps of so many epochs, one at least; an epoch's last, smaller step counts."""
    if tokens_per_step is None:
        size = len(lengths) if mixture is None else epoch_size(mixture)
        return max(1, _at_least(epochs * math.ceil(size / samples_per_step)))
    total = 0
    for epoch in range(math.ceil(epochs)):
        order = _order(len(lengths), mixture, seed=seed, epoch=epoch)
        steps = sum(1 for _ in cut_steps(order, lengths, samples_per_step, tokens_per_step))
        total += _at_least(min(1.0, epochs - epoch) * steps)
    return max(1, total)


def _at_least(steps: float) -> int:
    """Rounded up, but 0.07 epochs of 100 steps are 7, though floats make 7.000000000000001 of it."""
    return math.ceil(round(steps, 6))


def epoch_size(mixture: Mixture) -> int:
    """How many samples one epoch shows."""
    return sum(sum(_times(samples, weight)) for samples, weight in mixture)


def _times(samples: int, weight: float) -> tuple[int, int]:
    """(samples of the whole rounds, samples of the rest) of one source and epoch."""
    return int(weight) * samples, round((weight % 1) * samples)


def drawn(mixture: Mixture, *, seed: int, epoch: int) -> np.ndarray:
    """The samples of one epoch, before they are shuffled: each source's, as often as its weight says.

    Of a weight of 2.3 every sample comes twice and three tenths of them once more, drawn anew each epoch.
    """
    found, begin = [], 0
    for number, (samples, weight) in enumerate(mixture):
        place = np.arange(begin, begin + samples)
        whole, extra = _times(samples, weight)
        chance = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, number])))
        found += [np.resize(place, whole), np.sort(chance.permutation(place)[:extra])]
        begin += samples
    return np.concatenate(found)


def plan_epoch(
    lengths: Sequence[int],
    *,
    samples_per_step: int,
    tokens_per_row: int,
    seed: int,
    epoch: int,
    tokens_per_step: int | None = None,
    mixture: Mixture | None = None,
) -> Iterator[Step]:
    """The steps of one epoch, each drawn sample in exactly one of them; the last step may be smaller.

    `mixture`: (samples, weight) of each source, in the order of `lengths`; without it every sample comes once.
    """
    order = _order(len(lengths), mixture, seed=seed, epoch=epoch)
    for chosen in cut_steps(order, lengths, samples_per_step, tokens_per_step):
        yield pack(chosen, lengths, tokens_per_row)


def _order(samples: int, mixture: Mixture | None, *, seed: int, epoch: int) -> list[int]:
    """The samples that an epoch shows, in its order."""
    chosen = drawn(mixture or [(samples, 1.0)], seed=seed, epoch=epoch)
    return [int(chosen[place]) for place in shuffled(len(chosen), seed=seed, epoch=epoch)]


def plan_stage(
    lengths: Sequence[int],
    *,
    samples_per_step: int,
    tokens_per_row: int,
    steps: int,
    seed: int,
    content: str = "",
    tokens_per_step: int | None = None,
    mixture: Mixture | None = None,
) -> StagePlan:
    """`steps` steps, epoch after epoch, of samples none of which is longer than a row.

    `content` is a hash of what the samples hold, so that changed data is noticed where lengths are the same.
    """
    if not lengths:
        raise DataError("there is nothing to learn from: no samples", "check the recipe's data and kinds")
    if max(lengths) > tokens_per_row:
        raise ValueError(f"a sample of {max(lengths)} tokens does not fit a row of {tokens_per_row}")
    if mixture is not None and not epoch_size(mixture):
        raise DataError("there is nothing to learn from: the weights show no row", "raise a data source's weight")
    sizes = {"samples_per_step": samples_per_step, "tokens_per_row": tokens_per_row, "seed": seed}
    sizes |= {} if tokens_per_step is None else {"tokens_per_step": tokens_per_step}
    endless = chain.from_iterable(plan_epoch(lengths, epoch=epoch, mixture=mixture, **sizes) for epoch in count())
    made_from: dict[str, int | str] = {"samples": len(lengths), "steps": steps, "data": content, **sizes}
    if mixture is not None:
        made_from["mixture"] = repr([weight for _, weight in mixture])
    return StagePlan(tuple(islice(endless, steps)), made_from, lengths)


def deal(step: Step, costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Numbers of a step's rows by rank: to none more than an even share rounded up, to all about as much work.

    `costs`: of each sample, such as its tokens. The dearest row goes first, each to the rank with the least work of
    those that may still take one.
    """
    work = [sum(costs[index] for index in row) for row in step]
    most = -(-len(step) // ranks)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for number in sorted(range(len(step)), key=lambda k: (-work[k], k)):
        open_to = [rank for rank in range(ranks) if len(dealt[rank]) < most]
        dealt[min(open_to, key=lambda rank: (sum(work[k] for k in dealt[rank]), rank))].append(number)
    return [sorted(numbers) for numbers in dealt]
