"""Caches of a language model that our packed attention cannot run: transformers' own, one per sequence.

`SeparatePrefill` and `SeparateCaches` replace `Prefill` and `KVCache` in generation. Sequences are computed one after
another, so that none depends on another. No prefix is shared, because a state-space layer has no keys to share.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


class SeparatePrefill:
    """New documents, each read from its beginning. `caches`: transformers' cache of each, once it is read."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self.starts = [0, *accumulate(lengths)]
        self.caches: list[object] = []


class SeparateCaches:
    """Caches of running sequences, and how many tokens each has. The last sequence takes the row of one that leaves."""

    def __init__(self) -> None:
        self.caches: list[object] = []
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.caches)

    def add(self, prefill: SeparatePrefill) -> None:
        """Add the documents of a prefill as sequences, in their order."""
        self.caches += prefill.caches
        self.lengths += prefill.lengths

    def drop(self, row: int) -> None:
        """Remove a sequence; the last one takes its row."""
        self.caches[row], self.lengths[row] = self.caches[-1], self.lengths[-1]
        del self.caches[-1], self.lengths[-1]
