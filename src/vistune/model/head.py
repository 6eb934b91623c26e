"""Turn hidden states into logits: the output layer, then scale, bias and cap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LogitRule:
    """How logits follow from the output layer's output: times `scale`, then soft-capped to at most `cap`."""

    scale: float = 1.0
    cap: float | None = None


PLAIN = LogitRule()


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The output layer: `weight` (vocabulary, width), `bias` (vocabulary,) and the rule for its output.

    logits = cap * tanh(scale * (states @ weight.T + bias) / cap); without a cap, scale * (states @ weight.T + bias).
    """

    weight: Tensor
    bias: Tensor | None = None
    rule: LogitRule = PLAIN

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def logits(self, states: Tensor) -> Tensor:
        """Return logits (tokens, vocabulary) of hidden states (tokens, width)."""
        return self.from_raw(states @ self.weight.T)

    def from_raw(self, raw: Tensor) -> Tensor:
        """Return logits from `states @ weight.T`."""
        logits = raw if self.bias is None else raw + self.bias
        scale, cap = self.rule.scale, self.rule.cap
        if cap is not None:
            return cap * torch.tanh(logits * (scale / cap))
        return logits if scale == 1 else logits * scale
