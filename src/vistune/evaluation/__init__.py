"""Tasks, running them with and without the picture, and scores with intervals."""

from vistune.evaluation.descriptions import describe, named_pairs
from vistune.evaluation.runner import CONDITIONS, Answered, answer, choose, derangement
from vistune.evaluation.scoring import Score, accuracy, gap, in_words, majority, result_of
from vistune.evaluation.task import Task
from vistune.evaluation.tasks import TASKS

__all__ = [
    "CONDITIONS",
    "TASKS",
    "Answered",
    "Score",
    "Task",
    "accuracy",
    "answer",
    "choose",
    "derangement",
    "describe",
    "gap",
    "in_words",
    "majority",
    "named_pairs",
    "result_of",
]
