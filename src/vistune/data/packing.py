"""Plan the steps and packed rows of a stage. The plan depends only on lengths, so it is the same on every machine.

lengths -> plan_epoch, plan_stage -> steps of packed rows of sample indices -> collate -> Batch

Samples are shuffled by (seed, epoch) and divided into steps. The samples of a step are packed best-fit into rows.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import numpy as np

from vistune.errors import DataError

PackedRow = tuple[int, ...]
Step = tuple[PackedRow, ...]
Mixture = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """All steps of a stage.

    Attributes:
        steps: Steps of packed rows of sample indices.
        made_from: The inputs from which the steps were computed; a resumed run compares this key by key.
        lengths: Tokens per sample, by which rows are distributed to several processes.
    """

    steps: tuple[Step, ...]
    made_from: Mapping[str, int | str]
    lengths: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        return sum(self.lengths[index] for step in self.steps for row in step for index in row)

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.steps).encode()).hexdigest()

    def of_data(self, checksum: str) -> StagePlan:
        """Return the plan with a checksum of its samples, by which changed data of the same lengths are noticed."""
        return replace(self, made_from={**self.made_from, "data": checksum})


def rng_of(*numbers: int) -> np.random.Generator:
    """Return a generator that depends on these numbers only, on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def shuffled(samples: int, *, seed: int, epoch: int) -> list[int]:
    """Return the sample order of one epoch."""
    order: list[int] = rng_of(seed, epoch).permutation(samples).tolist()
    return order


def pack(indices: Sequence[int], lengths: Sequence[int], tokens_per_row: int) -> Step:
    """Pack samples into rows of at most `tokens_per_row`: longest first, each into the row that it fills best."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens that still fit, row), sorted
    for index in sorted(indices, key=lambda k: (-lengths[k], k)):
        length = lengths[index]
        best = bisect_left(rooms, (length, 0))
        if best < len(rooms):
            room, number = rooms.pop(best)
            rows[number].append(index)
        else:
            room, number = tokens_per_row, len(rows)
            rows.append([index])
        insort(rooms, (room - length, number))
    return tuple(tuple(row) for row in rows)


def cut_steps(
    order: Sequence[int], lengths: Sequence[int], samples_per_step: int, tokens_per_step: int | None = None
) -> Iterator[Sequence[int]]:
    """Yield an epoch's samples step by step: `samples_per_step`, or as many as fit `tokens_per_step`, at least one."""
    if tokens_per_step is None:
        yield from (order[begin : begin + samples_per_step] for begin in range(0, len(order), samples_per_step))
        return
    begin, tokens = 0, 0
    for k, index in enumerate(order):
        if tokens + lengths[index] > tokens_per_step and k > begin:
            yield order[begin:k]
            begin, tokens = k, 0
        tokens += lengths[index]
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
    """Return the number of optimizer steps of `epochs` epochs, at least one; an epoch's last, smaller step counts."""
    if tokens_per_step is None:
        size = len(lengths) if mixture is None else epoch_size(mixture)
        return max(1, _round_up(epochs * math.ceil(size / samples_per_step)))
    total = 0
    for epoch in range(math.ceil(epochs)):
        order = _order(len(lengths), mixture, seed=seed, epoch=epoch)
        steps = sum(1 for _ in cut_steps(order, lengths, samples_per_step, tokens_per_step))
        total += _round_up(min(1.0, epochs - epoch) * steps)
    return max(1, total)


def _round_up(steps: float) -> int:
    """Round up, but ignore rounding errors: 0.07 epochs of 100 steps are 7 steps, although the product is above 7."""
    return math.ceil(round(steps, 6))


def epoch_size(mixture: Mixture) -> int:
    """Return the number of samples of one epoch."""
    return sum(sum(_times(samples, weight)) for samples, weight in mixture)


def _times(samples: int, weight: float) -> tuple[int, int]:
    """Return (samples of complete rounds, samples of the rest) of one source and epoch."""
    return int(weight) * samples, round((weight % 1) * samples)


def epoch_samples(mixture: Mixture, *, seed: int, epoch: int) -> np.ndarray:
    """Return the samples of one epoch before shuffling: those of each source, as often as its weight says.

    With a weight of 2.3, every sample comes twice and three tenths of them once more, chosen anew each epoch.
    """
    parts, begin = [], 0
    for number, (samples, weight) in enumerate(mixture):
        indices = np.arange(begin, begin + samples)
        whole, extra = _times(samples, weight)
        parts += [np.resize(indices, whole), np.sort(rng_of(seed, epoch, number).permutation(indices)[:extra])]
        begin += samples
    return np.concatenate(parts)


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
    """Yield the steps of one epoch. Each of its samples is in exactly one step; the last step may be smaller.

    `mixture`: (samples, weight) of each source in the order of `lengths`; without it every sample comes once.
    """
    order = _order(len(lengths), mixture, seed=seed, epoch=epoch)
    for chosen in cut_steps(order, lengths, samples_per_step, tokens_per_step):
        yield pack(chosen, lengths, tokens_per_row)


def _order(samples: int, mixture: Mixture | None, *, seed: int, epoch: int) -> list[int]:
    """Return the samples of an epoch in its order."""
    chosen = epoch_samples(mixture or [(samples, 1.0)], seed=seed, epoch=epoch)
    return [int(chosen[k]) for k in shuffled(len(chosen), seed=seed, epoch=epoch)]


def plan_stage(
    lengths: Sequence[int],
    *,
    samples_per_step: int,
    tokens_per_row: int,
    steps: int,
    seed: int,
    tokens_per_step: int | None = None,
    mixture: Mixture | None = None,
) -> StagePlan:
    """Plan `steps` steps, epoch after epoch. No sample may be longer than a packed row."""
    if not lengths:
        raise DataError("no samples to train on", "check the recipe's data and kinds")
    if max(lengths) > tokens_per_row:
        raise ValueError(f"a sample of {max(lengths)} tokens does not fit a row of {tokens_per_row}")
    if mixture is not None and not epoch_size(mixture):
        raise DataError("no samples to train on: the weights select none", "raise a data source's weight")
    sizes = {"samples_per_step": samples_per_step, "tokens_per_row": tokens_per_row, "seed": seed}
    sizes |= {} if tokens_per_step is None else {"tokens_per_step": tokens_per_step}
    endless = chain.from_iterable(plan_epoch(lengths, epoch=epoch, mixture=mixture, **sizes) for epoch in count())
    made_from: dict[str, int | str] = {"samples": len(lengths), "steps": steps, "data": "", **sizes}
    if mixture is not None:
        made_from["mixture"] = repr([weight for _, weight in mixture])
    return StagePlan(tuple(islice(endless, steps)), made_from, lengths)


def deal(step: Step, costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Distribute a step's rows over ranks: none gets more than an even share rounded up, all get similar work.

    The most expensive row goes first, each to the rank with the least work among those that may take another one.

    Args:
        costs: Work per sample, such as its tokens.

    Returns:
        Row numbers by rank.
    """
    work = [sum(costs[index] for index in row) for row in step]
    most = -(-len(step) // ranks)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for number in sorted(range(len(step)), key=lambda k: (-work[k], k)):
        open_to = [rank for rank in range(ranks) if len(dealt[rank]) < most]
        dealt[min(open_to, key=lambda rank: (sum(work[k] for k in dealt[rank]), rank))].append(number)
    return [sorted(numbers) for numbers in dealt]
