"""Tasks, scoring anybody's predictions, running a model with and without the picture, and scores with intervals.

What runs a model pulls in torch when it is first used; scoring a file never does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.evaluation.ranks import Ranks, joined, own_device
from vistune.evaluation.scorer import Measured, score
from vistune.evaluation.task import Benchmark, Facts, Judge, Marked, Prediction, Reply, Scored, Task
from vistune.evaluation.tasks import TASKS
from vistune.registry import lazy_names

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


__getattr__ = lazy_names(
    __name__,
    {
        "comparison": (
            "compare",
            "labels_of",
            "markdown",
            "published_on",
        ),
        "descriptions": (
            "describe",
            "named_pairs",
        ),
        "kept": ("compare_kept",),
        "measurement": (
            "AnsweredFile",
            "Measurement",
            "Wanted",
            "answer_file",
            "measure",
        ),
        "runner": (
            "CONDITIONS",
            "Answered",
            "Block",
            "ask",
            "choose",
            "conditions_for",
            "derangement",
            "plan",
        ),
        "scoring": (
            "Score",
            "accuracy",
            "gap",
            "in_words",
            "majority",
            "result_of",
        ),
    },
)
