"""The last layer's MLP for those tokens alone whose states are wanted: it feeds nothing but its own token's state.

In training these are the tokens before learnt ones, a fifth of a row or less.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Spared:
    """Put before an MLP's own class; `at` (n,): the only positions of its one row to compute, zeros elsewhere."""

    at: Tensor | None = None

    def forward(self, rows: Tensor) -> Tensor:
        if self.at is None:
            whole: Tensor = super().forward(rows)  # type: ignore[misc]
            return whole
        found: Tensor = super().forward(rows.index_select(1, self.at))  # type: ignore[misc]
        return found.new_zeros(rows.shape).index_copy(1, self.at, found)


def last_mlp(body: nn.Module) -> Any:
    """A decoder's last MLP, or None where it has none of the usual name."""
    layers: Any = getattr(body, "layers", None)
    found = getattr(layers[-1], "mlp", None) if layers is not None else None
    return found if isinstance(found, nn.Module) else None


def spare_last_mlp(body: nn.Module) -> None:
    """Let a decoder's last MLP be told what is wanted of it.

    By its class and not by hooks: compiled layers share their graphs, and only a class keeps this one apart.
    """
    mlp = last_mlp(body)
    if mlp is not None and not isinstance(mlp, Spared):
        mlp.__class__ = type(f"Spared{type(mlp).__name__}", (Spared, type(mlp)), {})


@contextmanager
def wanted_at(body: nn.Module, at: Tensor | None) -> Iterator[None]:
    """Within the block, states of `body` are whole at these positions alone.

    Where layers are recomputed all stay whole; and where nothing is wanted, so that every weight has its gradient, of
    zeros, in experts too.
    """
    mlp = last_mlp(body)
    recomputed = getattr(body, "is_activation_checkpointing", False)
    if at is None or not len(at) or recomputed or not isinstance(mlp, Spared):
        yield
        return
    mlp.at = at
    try:
        yield
    finally:
        mlp.at = None
