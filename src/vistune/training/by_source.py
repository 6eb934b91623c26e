"""A step's loss taken apart by the data source that each document is from.

Batch + the loss of each supervised token -> sums by source, over all processes -> {source: mean loss, tokens}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vistune.data import SampleSequence
from vistune.types import IGNORE, Batch


class BySource:
    """Sums up a step's rows. A source is a file's kind of samples, as `Rows.sources` names it."""

    def __init__(self, samples: SampleSequence) -> None:
        self.samples = samples
        self.sums = np.zeros((len(samples.sources), 2))  # of losses, and how many supervised tokens

    def add(self, batch: Batch, losses: Tensor) -> None:
        """A row: on the CPU, with the losses (supervised,) of its supervised tokens in their order."""
        if not batch.places:  # a blank row
            return
        starts = batch.starts.numpy()
        learnt = batch.labels.numpy() != IGNORE
        learnt[starts[:-1]] = False
        documents = np.searchsorted(starts, np.flatnonzero(learnt), side="right") - 1
        sources = np.array([self.samples.source(place) for place in batch.places])[documents]
        for column, weights in enumerate((losses.cpu().numpy(), None)):
            self.sums[:, column] += np.bincount(sources, weights, minlength=len(self.sums))

    def take(self) -> list[float]:
        """The sums since the last call, as plain numbers to be exchanged."""
        taken: list[float] = self.sums.ravel().tolist()
        self.sums[:] = 0
        return taken

    def told(self, everybodys: Sequence[Sequence[float]]) -> dict[str, dict[str, Any]]:
        """{source: {loss, supervised_tokens}} of the processes' sums; what the step has nothing of is left out."""
        sums = np.array(everybodys).sum(0).reshape(self.sums.shape).tolist()
        return {
            name: {"loss": total / count, "supervised_tokens": int(count)}
            for name, (total, count) in zip(self.samples.sources, sums, strict=True)
            if count
        }
