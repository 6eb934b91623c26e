"""Optimizers and the learning rate schedule.

trainable parts, with and without weight decay -> parameter groups of AdamW and Muon
step -> factor of the peak learning rate
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vistune.model.precision import uses_bf16
from vistune.recipe import Stage

State = dict[str, Any]  # of a torch optimizer: its `state` and `param_groups`
ParamGroup = dict[str, Any]

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic whose iteration drives singular values towards 1
ITERATIONS = 5


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
}


def rate_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Return the share of the peak rate at `step`: it rises over the warm-up, then follows the schedule."""
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))


def rate_schedule(stage: Stage, steps: int) -> Callable[[int], float]:
    """Return the function from a step to its share of the peak rate."""
    warmup = round(steps * stage.warmup_share)
    return lambda step: rate_factor(step, steps=steps, warmup=warmup, schedule=stage.schedule)


class Optimizer:
    """Several torch optimizers stepped as one: AdamW, and Muon if a stage asks for it."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = list(members)

    @property
    def param_groups(self) -> list[ParamGroup]:
        return [group for member in self.members for group in member.param_groups]

    def parameters(self) -> list[list[nn.Parameter]]:
        """Return the trainable parameters by optimizer, in the order in which its state counts them."""
        return [[p for group in member.param_groups for p in group["params"]] for member in self.members]

    def set_rates(self, factor: float) -> None:
        """Set every group's learning rate to this share of its peak."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * factor

    def step(self) -> None:
        for member in self.members:
            member.step()

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad()

    def state_dict(self) -> list[State]:
        return [member.state_dict() for member in self.members]

    def load_state_dict(self, states: Sequence[State]) -> None:
        for member, state in zip(self.members, states, strict=True):
            member.load_state_dict(state)


def make_optimizer(parts: Mapping[str, Sequence[tuple[str, nn.Parameter]]], stage: Stage) -> Optimizer:
    """Make the optimizer of a stage, each part at its own rate.

    Biases and norm weights do not decay, as in LLaVA's trainer. `muon` orthogonalises the updates of the backbones'
    hidden matrices (https://kellerjordan.github.io/posts/muon); everything else is trained by AdamW.
    """
    adamw: list[ParamGroup] = []
    muon: list[ParamGroup] = []
    for part, rate in stage.learn.items():
        trainable = [(name, p) for name, p in parts[part] if p.requires_grad]
        hidden = [p for name, p in trainable if stage.optimizer == "muon" and is_hidden_matrix(part, name, p)]
        by_muon = {id(p) for p in hidden}
        by_adamw = [p for _, p in trainable if id(p) not in by_muon]
        common = {"lr": rate, "peak": rate, "part": part}
        if hidden:
            muon.append({"params": hidden, "weight_decay": stage.weight_decay, **common})
        for decay, params in (
            (stage.weight_decay, [p for p in by_adamw if p.ndim > 1]),
            (0.0, [p for p in by_adamw if p.ndim < 2]),
        ):
            if params:
                adamw.append({"params": params, "weight_decay": decay, **common})
    members: list[torch.optim.Optimizer] = []
    if adamw:
        members.append(torch.optim.AdamW(adamw, betas=stage.betas, eps=1e-8, fused=True))
    if muon:
        members.append(Muon(muon, stage.precision))
    return Optimizer(members)


def is_hidden_matrix(part: str, name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix inside a backbone; embeddings and the head are not."""
    return part in ("language", "vision") and parameter.ndim == 2 and "embed" not in name and "lm_head" not in name


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; rates mean what they mean for AdamW (arXiv 2502.16982, section 2.2).

    All matrices of one shape are updated at once, in the precision of the stage. torch.optim.Muon takes one matrix at a
    time and always bf16, which many CPUs multiply several times slower than fp32 (docs/decisions/0006-muon.md).
    """

    def __init__(self, params: Iterable[ParamGroup], precision: str = "auto") -> None:
        super().__init__(params, {"lr": 1e-3, "weight_decay": 0.0})
        self.precision = precision

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
                updates = orthogonal(torch.stack([self._momentum(p) for p in parameters]), self.precision)
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


def orthogonal(matrices: Tensor, precision: str = "auto") -> Tensor:
    """Drive all singular values of each of `matrices` (count, rows, columns) to about 1, by Newton-Schulz steps."""
    x = matrices.to(torch.bfloat16 if uses_bf16(precision, matrices.device.type) else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    update: Tensor = x.mT if tall else x
    return update
