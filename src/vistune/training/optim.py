"""The optimiser and its schedule: what learns at which rate, as pure functions of the step.

parts x {decay, no decay} -> AdamW groups · step -> factor of the peak rate
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from vistune.recipe import Stage, warmup_steps


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
}


def rate_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Share of the peak rate at `step`, from 0: rises over the warm-up, then falls by the schedule to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))


def stage_factor(stage: Stage, steps: int) -> Callable[[int], float]:
    warmup = warmup_steps(stage, steps)
    return lambda step: rate_factor(step, steps=steps, warmup=warmup, schedule=stage.schedule)


def make_optimizer(parts: Mapping[str, Sequence[tuple[str, nn.Parameter]]], stage: Stage) -> torch.optim.AdamW:
    """AdamW over what the stage learns; biases and norm weights do not decay (as LLaVA's trainer has it)."""
    groups = []
    for part, rate in stage.learn.items():
        for decays in (True, False):
            chosen = [p for _, p in parts[part] if p.requires_grad and (p.ndim > 1) == decays]
            if chosen:
                decay = stage.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": decay, "part": part})
    return torch.optim.AdamW(groups, betas=stage.betas, eps=1e-8, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
