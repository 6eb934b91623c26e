"""Stages of training: trainer, optimiser, state, metrics, and a recipe's whole run.

What a name needs is imported when it is first used: a forecast needs neither model nor torch's distributed part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistune.training.comparing import Comparison, selftest
    from vistune.training.folder import best_of, checkpoints_of
    from vistune.training.origin import Base
    from vistune.training.parallel import World, opened
    from vistune.training.plan import Planned, plan_run, sampled
    from vistune.training.run import Run
    from vistune.training.trainer import StepReport, Trainer
    from vistune.training.validation import Hooks

__all__ = [
    "Base",
    "Comparison",
    "Hooks",
    "Planned",
    "Run",
    "StepReport",
    "Trainer",
    "World",
    "best_of",
    "checkpoints_of",
    "opened",
    "plan_run",
    "sampled",
    "selftest",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from vistune.training import comparing, folder, origin, parallel, plan, run, trainer, validation

        rooms = (comparing, folder, origin, parallel, plan, run, trainer, validation)
        return next(getattr(room, name) for room in rooms if hasattr(room, name))
    raise AttributeError(f"module 'vistune.training' has no attribute {name!r}")
