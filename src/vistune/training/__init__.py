"""Stages of training: trainer, optimiser, state, metrics, and a recipe's whole run."""

from vistune.training.folder import best_of, checkpoints_of
from vistune.training.origin import Base
from vistune.training.parallel import World, opened
from vistune.training.plan import plan_run
from vistune.training.run import Run
from vistune.training.selftest import Comparison, selftest
from vistune.training.trainer import StepReport, Trainer
from vistune.training.validation import Hooks

__all__ = [
    "Base",
    "Comparison",
    "Hooks",
    "Run",
    "StepReport",
    "Trainer",
    "World",
    "best_of",
    "checkpoints_of",
    "opened",
    "plan_run",
    "selftest",
]
