"""Evaluate models on benchmarks: tasks, scores of predictions files, blind conditions, intervals and comparisons.

torch is imported when something that runs a model is first used. Scoring a file never imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.evaluation.predictions import Prediction
from vistune.evaluation.scorer import ScoreOptions, ScoreRequest, ScoreResult, score
from vistune.evaluation.task import Benchmark, Facts, Judge, Marked, Reply, TaskScore
from vistune.evaluation.tasks import TASKS
from vistune.registry import lazy_names

if TYPE_CHECKING:
    from vistune.evaluation.comparison import (
        Comparison,
        compare,
        compare_stored,
        labels_of,
    )
    from vistune.evaluation.comparison_tables import figures_tables, remarks
    from vistune.evaluation.descriptions import DescriptionScore, describe
    from vistune.evaluation.models import AnsweredFile
    from vistune.evaluation.request import AnswerOptions, EvaluationOptions, EvaluationRequest, ModelOptions
    from vistune.evaluation.results import AnsweredQuestion, Estimate, EvaluationResult

LAZY = {
    "comparison": ("Comparison", "compare", "compare_stored", "labels_of"),
    "comparison_tables": ("figures_tables", "remarks"),
    "descriptions": ("DescriptionScore", "describe"),
    "models": ("AnsweredFile",),
    "request": ("AnswerOptions", "EvaluationOptions", "EvaluationRequest", "ModelOptions"),
    "results": ("AnsweredQuestion", "Estimate", "EvaluationResult"),
}
__all__ = [
    "TASKS",
    "AnswerOptions",
    "AnsweredFile",
    "AnsweredQuestion",
    "Benchmark",
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
    "Reply",
    "ScoreOptions",
    "ScoreRequest",
    "ScoreResult",
    "TaskScore",
    "compare",
    "compare_stored",
    "describe",
    "figures_tables",
    "labels_of",
    "remarks",
    "score",
]
__getattr__ = lazy_names(__name__, LAZY)
