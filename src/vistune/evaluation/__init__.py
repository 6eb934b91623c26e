"""Evaluate models on benchmarks: tasks, scores of anybody's predictions, blind conditions, intervals and comparisons.

torch is imported when something that runs a model is first used; scoring a file never imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.evaluation.answers import Ranks, device_of_rank, open_ranks
from vistune.evaluation.scorer import ScoreResult, score
from vistune.evaluation.task import Benchmark, Facts, Judge, Marked, Prediction, Reply, TaskScore
from vistune.evaluation.tasks import TASKS
from vistune.registry import lazy_names

if TYPE_CHECKING:
    from vistune.evaluation.comparison import Comparison, compare, compare_stored, labels_of, markdown, published_on
    from vistune.evaluation.conditions import (
        CONDITIONS,
        Block,
        choose_questions,
        conditions_for,
        derangement,
        plan_blocks,
    )
    from vistune.evaluation.descriptions import DescriptionScore, describe, named_pairs
    from vistune.evaluation.models import (
        AnsweredFile,
        AnswerOptions,
        AnswerRequest,
        EvaluationOptions,
        EvaluationRequest,
        ModelOptions,
    )
    from vistune.evaluation.results import (
        AnsweredQuestion,
        Estimate,
        EvaluationResult,
        accuracy,
        describe_gap,
        evaluation_result,
        gap,
        majority,
    )
    from vistune.evaluation.runner import TaskRun, ask

__all__ = [
    "CONDITIONS",
    "TASKS",
    "AnswerOptions",
    "AnswerRequest",
    "AnsweredFile",
    "AnsweredQuestion",
    "Benchmark",
    "Block",
    "Comparison",
    "DescriptionScore",
    "Estimate",
    "EvaluationOptions",
    "EvaluationRequest",
    "EvaluationResult",
    "Facts",
    "Judge",
    "Marked",
    "ModelOptions",
    "Prediction",
    "Ranks",
    "Reply",
    "ScoreResult",
    "TaskRun",
    "TaskScore",
    "accuracy",
    "ask",
    "choose_questions",
    "compare",
    "compare_stored",
    "conditions_for",
    "derangement",
    "describe",
    "describe_gap",
    "device_of_rank",
    "evaluation_result",
    "gap",
    "labels_of",
    "majority",
    "markdown",
    "named_pairs",
    "open_ranks",
    "plan_blocks",
    "published_on",
    "score",
]


__getattr__ = lazy_names(
    __name__,
    {
        "comparison": ("Comparison", "compare", "compare_stored", "labels_of", "markdown", "published_on"),
        "conditions": ("CONDITIONS", "Block", "choose_questions", "conditions_for", "derangement", "plan_blocks"),
        "descriptions": ("DescriptionScore", "describe", "named_pairs"),
        "models": (
            "AnsweredFile",
            "AnswerOptions",
            "AnswerRequest",
            "EvaluationOptions",
            "EvaluationRequest",
            "ModelOptions",
        ),
        "results": (
            "AnsweredQuestion",
            "Estimate",
            "EvaluationResult",
            "accuracy",
            "describe_gap",
            "evaluation_result",
            "gap",
            "majority",
        ),
        "runner": ("TaskRun", "ask"),
    },
)
