"""Tasks, scoring anybody's predictions, running a model with and without the picture, and scores with intervals.

What runs a model pulls in torch when it is first used; scoring a file never does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vistune.evaluation.scorer import Measured, score
from vistune.evaluation.task import Benchmark, Facts, Judge, Marked, Prediction, Reply, Scored, Task
from vistune.evaluation.tasks import TASKS

if TYPE_CHECKING:
    from vistune.evaluation.descriptions import describe, named_pairs
    from vistune.evaluation.runner import CONDITIONS, Answered, answer, choose, conditions_for, derangement
    from vistune.evaluation.scoring import Score, accuracy, gap, in_words, majority, result_of

__all__ = [
    "CONDITIONS",
    "TASKS",
    "Answered",
    "Benchmark",
    "Facts",
    "Judge",
    "Marked",
    "Measured",
    "Prediction",
    "Reply",
    "Score",
    "Scored",
    "Task",
    "accuracy",
    "answer",
    "choose",
    "conditions_for",
    "derangement",
    "describe",
    "gap",
    "in_words",
    "majority",
    "named_pairs",
    "result_of",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for room in ("runner", "scoring", "descriptions"):
            module = importlib.import_module(f"vistune.evaluation.{room}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'vistune.evaluation' has no attribute {name!r}")
