"""Tasks, scoring anybody's predictions, running a model with and without the picture, and scores with intervals.

What runs a model pulls in torch when it is first used; scoring a file never does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vistune.evaluation.ranks import Ranks, joined, own_device
from vistune.evaluation.scorer import Measured, score
from vistune.evaluation.task import Benchmark, Facts, Judge, Marked, Prediction, Reply, Scored, Task
from vistune.evaluation.tasks import TASKS

if TYPE_CHECKING:
    from vistune.evaluation.comparison import compare, labels_of, markdown, published_on
    from vistune.evaluation.descriptions import describe, named_pairs
    from vistune.evaluation.kept import compare_kept
    from vistune.evaluation.measurement import AnsweredFile, Measurement, Wanted, answer_file, measure
    from vistune.evaluation.runner import CONDITIONS, Answered, Block, ask, choose, conditions_for, derangement, plan
    from vistune.evaluation.scoring import Score, accuracy, gap, in_words, majority, result_of

__all__ = [
    "CONDITIONS",
    "TASKS",
    "Answered",
    "AnsweredFile",
    "Benchmark",
    "Block",
    "Facts",
    "Judge",
    "Marked",
    "Measured",
    "Measurement",
    "Prediction",
    "Ranks",
    "Reply",
    "Score",
    "Scored",
    "Task",
    "Wanted",
    "accuracy",
    "answer_file",
    "ask",
    "choose",
    "compare",
    "compare_kept",
    "conditions_for",
    "derangement",
    "describe",
    "gap",
    "in_words",
    "joined",
    "labels_of",
    "majority",
    "markdown",
    "measure",
    "named_pairs",
    "own_device",
    "plan",
    "published_on",
    "result_of",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for room in ("runner", "scoring", "descriptions", "measurement", "comparison", "kept"):
            module = importlib.import_module(f"vistune.evaluation.{room}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'vistune.evaluation' has no attribute {name!r}")
