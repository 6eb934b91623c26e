"""Stages of training: trainer, optimiser, state, metrics, and a recipe's whole run."""

from vistune.training.folder import checkpoints_of
from vistune.training.plan import plan_run
from vistune.training.run import Base, Run
from vistune.training.selftest import Comparison, selftest
from vistune.training.trainer import StepReport, Trainer

__all__ = ["Base", "Comparison", "Run", "StepReport", "Trainer", "checkpoints_of", "plan_run", "selftest"]
