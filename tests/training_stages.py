"""Stages of the training tests, small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vistune.recipe import Recipe

MakeRecipe = Callable[..., Recipe]

ALIGN: dict[str, Any] = {
    "name": "align",
    "template": "plain",
    "learn": {"projector": 3e-3},
    "steps": 6,
    "samples_per_step": 5,
}
TUNE: dict[str, Any] = {
    "name": "tune",
    "learn": {"projector": 2e-3, "language": 2e-3},
    "steps": 6,
    "samples_per_step": 5,
    "save_every": 2,
}
LORA: dict[str, Any] = {
    "name": "tune",
    "learn": {"projector": 2e-3, "adapters": 5e-3},
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    "steps": 6,
    "samples_per_step": 5,
    "save_every": 2,
}
