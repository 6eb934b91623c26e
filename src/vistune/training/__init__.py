"""Training: runs of a recipe's stages, the trainer, optimizers, validation, logging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.registry import lazy_names

if TYPE_CHECKING:
    from vistune.training.distributed.world import World, open_world
    from vistune.training.gradient_check import GradientComparison, selftest
    from vistune.training.preflight import DryRunStage
    from vistune.training.run import Run
    from vistune.training.trainer import StepReport, Trainer
    from vistune.training.validation import Hooks

__all__ = [
    "DryRunStage",
    "GradientComparison",
    "Hooks",
    "Run",
    "StepReport",
    "Trainer",
    "World",
    "open_world",
    "selftest",
]

__getattr__ = lazy_names(
    __name__,
    {
        "distributed.world": ("World", "open_world"),
        "gradient_check": ("GradientComparison", "selftest"),
        "preflight": ("DryRunStage",),
        "run": ("Run",),
        "trainer": ("StepReport", "Trainer"),
        "validation": ("Hooks",),
    },
)
