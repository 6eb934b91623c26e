"""Muon equals torch's within the noise of torch's bf16, however its matrices are grouped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vistune.training.optimizer import Muon, orthogonal

SHAPES = ((48, 24), (24, 48), (48, 24), (32, 32))


def after_five_steps(make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=chance)) for shape in SHAPES]
    optimizer = make([{"params": parameters, "lr": 1e-2, "weight_decay": 0.1}])
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=chance)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_steps_are_those_of_torch() -> None:
    ours = after_five_steps(Muon)
    torchs = after_five_steps(lambda groups: torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw"))
    start = torch.Generator().manual_seed(0)
    for mine, other, shape in zip(ours, torchs, SHAPES, strict=True):
        moved = (other - torch.randn(shape, generator=start)).norm()
        assert (mine - other).norm() < 0.02 * moved


def test_a_matrix_without_a_gradient_stays() -> None:
    still, moving = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    moving.grad = torch.eye(4)
    Muon([{"params": [still, moving], "lr": 0.1, "weight_decay": 0.5}]).step()
    assert torch.equal(still, torch.ones(4, 4))
    assert not torch.equal(moving, torch.ones(4, 4))


def test_singular_values_are_drawn_to_one() -> None:
    made = orthogonal(torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(1)))
    values = torch.linalg.svdvals(made.float())
    assert made.shape == (3, 40, 16)
    assert values.min() > 0.5
    assert values.max() < 1.5
