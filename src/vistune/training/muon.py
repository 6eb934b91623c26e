"""Muon (https://kellerjordan.github.io/posts/muon), matrices of one shape at once, in the precision that is fast.

gradient -> momentum -> nearest half-orthogonal matrix by Newton-Schulz -> step
torch.optim.Muon does the same matrix by matrix and always in bf16, which a CPU without AMX multiplies many times
slower than fp32 (docs/decisions/0006-muon.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vistune.planner.precision import uses_bf16

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic whose iteration drives singular values towards 1
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; rates mean what they mean for AdamW (arXiv 2502.16982, section 2.2)."""

    def __init__(self, params: Iterable[dict[str, Any]]) -> None:
        super().__init__(params, {"lr": 1e-3, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                # 0.2 x sqrt(longer side) gives an update the root mean square of AdamW's.
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                updates = orthogonal(torch.stack([self._momentum(p) for p in parameters]))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype).unbind()), alpha=-rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum"], MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Each of `matrices` (count, rows, columns) with all its singular values drawn to about 1."""
    x = matrices.to(torch.bfloat16 if uses_bf16("auto", matrices.device.type) else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
