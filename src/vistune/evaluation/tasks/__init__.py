"""One small file a benchmark; `TASKS` names them all."""

from collections.abc import Mapping

from vistune.evaluation.task import Task
from vistune.evaluation.tasks.file import File
from vistune.evaluation.tasks.scenes import Combinations, HeldOut

TASKS: Mapping[str, type[Task]] = {"scenes": HeldOut, "combinations": Combinations, "file": File}

__all__ = ["TASKS"]
