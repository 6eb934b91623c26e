"""The optimiser and its schedule: what learns at which rate, as pure functions of the step.

parts x {decay, no decay} -> AdamW (and Muon) groups · step -> factor of the peak rate
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import increment_version

from vistune.recipe import Stage
from vistune.training.muon import Muon


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
    warmup = round(steps * stage.warmup_share)
    return lambda step: rate_factor(step, steps=steps, warmup=warmup, schedule=stage.schedule)


class Optimizer:
    """Several torch optimisers stepped as one: AdamW, and Muon where a stage asks for it."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = list(members)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for member in self.members for group in member.param_groups]

    def parameters(self) -> list[list[nn.Parameter]]:
        """What learns, by optimiser, in the order in which its state counts them."""
        return [[p for group in member.param_groups for p in group["params"]] for member in self.members]

    def set_rates(self, factor: float) -> None:
        for group in self.param_groups:
            group["lr"] = group["peak"] * factor

    def step(self) -> None:
        for member, learning in zip(self.members, self.parameters(), strict=True):
            member.step()
            increment_version(learning)  # a fused update says nothing of it, and sums (model/merged.py) go by it

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        return [member.state_dict() for member in self.members]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        for member, state in zip(self.members, states, strict=True):
            member.load_state_dict(state)


def make_optimizer(parts: Mapping[str, Sequence[tuple[str, nn.Parameter]]], stage: Stage) -> Optimizer:
    """What the stage learns, at each part's rate; biases and norm weights do not decay (as LLaVA's trainer has it).

    `muon` orthogonalises the updates of the backbones' hidden matrices (https://kellerjordan.github.io/posts/muon),
    scaled so that rates mean what they mean for AdamW; everything else stays with AdamW.
    """
    adamw: list[dict[str, Any]] = []
    muon: list[dict[str, Any]] = []
    for part, rate in stage.learn.items():
        learning = [(name, p) for name, p in parts[part] if p.requires_grad]
        hidden = [p for name, p in learning if stage.optimizer == "muon" and is_hidden_matrix(part, name, p)]
        taken = {id(p) for p in hidden}
        rest = [p for _, p in learning if id(p) not in taken]
        common = {"lr": rate, "peak": rate, "part": part}
        if hidden:
            muon.append({"params": hidden, "weight_decay": stage.weight_decay, **common})
        for decay, chosen in (
            (stage.weight_decay, [p for p in rest if p.ndim > 1]),
            (0.0, [p for p in rest if p.ndim < 2]),
        ):
            if chosen:
                adamw.append({"params": chosen, "weight_decay": decay, **common})
    members: list[torch.optim.Optimizer] = []
    if adamw:
        members.append(torch.optim.AdamW(adamw, betas=stage.betas, eps=1e-8, fused=True))
    if muon:
        members.append(Muon(muon))
    return Optimizer(members)


def is_hidden_matrix(part: str, name: str, parameter: nn.Parameter) -> bool:
    """A matrix inside a backbone; embeddings and the head are not."""
    return part in ("language", "vision") and parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
