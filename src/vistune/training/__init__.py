"""Training: the run of a recipe's stages, the trainer, optimizers, validation, logging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.registry import lazy_names

if TYPE_CHECKING:
    from vistune.training.comparing import Comparison, selftest
    from vistune.training.distributed.parallel import World, opened
    from vistune.training.run import Run
    from vistune.training.trainer import StepReport, Trainer
    from vistune.training.validation import Hooks

__all__ = ["Comparison", "Hooks", "Run", "StepReport", "Trainer", "World", "opened", "selftest"]

__getattr__ = lazy_names(
    __name__,
    {
        "comparing": ("Comparison", "selftest"),
        "distributed.parallel": ("World", "opened"),
        "run": ("Run",),
        "trainer": ("StepReport", "Trainer"),
        "validation": ("Hooks",),
    },
)
