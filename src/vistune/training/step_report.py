"""What one training step reports: totals over all processes, and the loss of each data source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from vistune.data import SampleSequence
from vistune.types import IGNORE, Batch


@dataclass(frozen=True, slots=True)
class SourceLoss:
    """Mean loss of a data source's supervised tokens in one step, and how many there are."""

    loss: float
    supervised_tokens: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did, over all processes.

    Attributes:
        loss: Mean over the step's supervised tokens.
        tokens: Without those of blank rows.
        computed_tokens: With those of blank rows.
        flops: FLOPs that the step needs (planner/work.py).
        seconds: Including the wait for data.
        busy: Per process, the seconds that it read and computed before it needed another process.
        by_source: Losses by data source.
        skip_reason: Why the update was skipped; "" if it was applied.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    supervised_tokens: int
    computed_tokens: int
    flops: float
    seconds: float
    busy: tuple[float, ...] = ()
    by_source: Mapping[str, SourceLoss] = field(default_factory=dict)
    skip_reason: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def supervised_share(self) -> float:
        return self.supervised_tokens / max(self.tokens, 1)


class LossBySource:
    """Sum a step's losses by data source: a file's kind of samples, as `Rows.sources` names it."""

    def __init__(self, samples: SampleSequence) -> None:
        self.samples = samples
        self.sums = np.zeros((len(samples.sources), 2))  # of losses, and of supervised tokens

    def add(self, batch: Batch, losses: Tensor) -> None:
        """Add a packed row on the CPU and the losses (supervised,) of its supervised tokens in their order."""
        if not batch.places:  # a blank row
            return
        starts = batch.starts.numpy()
        supervised = batch.labels.numpy() != IGNORE
        supervised[starts[:-1]] = False
        documents = np.searchsorted(starts, np.flatnonzero(supervised), side="right") - 1
        sources = np.array([self.samples.source(place) for place in batch.places])[documents]
        for column, weights in enumerate((losses.cpu().numpy(), None)):
            self.sums[:, column] += np.bincount(sources, weights, minlength=len(self.sums))

    def take(self) -> list[float]:
        """Return the sums since the last call as plain numbers to be exchanged, and begin anew."""
        sums: list[float] = self.sums.ravel().tolist()
        self.sums[:] = 0
        return sums

    def means(self, sums_by_process: Sequence[Sequence[float]]) -> dict[str, SourceLoss]:
        """Add the sums of all processes; return each source that the step has tokens of."""
        sums = np.array(sums_by_process).sum(0).reshape(self.sums.shape).tolist()
        return {
            name: SourceLoss(total / count, int(count))
            for name, (total, count) in zip(self.samples.sources, sums, strict=True)
            if count
        }
