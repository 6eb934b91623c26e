"""From answers to numbers with intervals: accuracy by type and language, and the gap to answering blind.

Answered rows -> Score (mean and 95 % interval, bootstrapped by picture) -> the result that `evaluate --json` prints
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vistune.evaluation.runner import CONDITIONS, Answered
from vistune.evaluation.scorer import figures_of
from vistune.evaluation.task import Reply, Task, image_of
from vistune.types import Question

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Score:
    """A mean with its 95 % interval, 0-1."""

    value: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, float | int]:
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


def _sums(rows: Sequence[Answered], images: Sequence[str]) -> np.ndarray:
    """(pictures, 2): right answers and questions of each picture."""
    place = {image: k for k, image in enumerate(images)}
    sums = np.zeros((len(images), 2))
    for row in rows:
        k = place[image_of(row.question)]
        sums[k] += (row.right, 1)
    return sums


def _resample(sums: np.ndarray, seed: int) -> np.ndarray:
    """Accuracies of RESAMPLES draws of pictures with replacement; the same seed draws the same pictures."""
    draws = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    totals = sums[draws].sum(axis=1)
    return totals[:, 0] / np.maximum(totals[:, 1], 1)


def accuracy(rows: Sequence[Answered], *, seed: int = 0) -> Score:
    """Share right, with an interval over pictures: questions of one picture stand or fall together."""
    if not rows:
        return Score(0.0, 0.0, 0.0, 0)
    sums = _sums(rows, sorted({image_of(row.question) for row in rows}))
    low, high = np.quantile(_resample(sums, seed), (0.025, 0.975))
    return Score(float(sums[:, 0].sum() / sums[:, 1].sum()), float(low), float(high), len(rows))


def gap(seen: Sequence[Answered], blind: Sequence[Answered], *, seed: int = 0) -> Score:
    """Accuracy with the picture less accuracy without it, over the questions that were asked both ways."""
    both = {row.question.id for row in blind}
    seen = [row for row in seen if row.question.id in both]
    images = sorted({image_of(row.question) for row in seen})
    if not images:
        return Score(0.0, 0.0, 0.0, 0)
    with_it, without = _sums(seen, images), _sums(blind, images)
    differences = _resample(with_it, seed) - _resample(without, seed)
    low, high = np.quantile(differences, (0.025, 0.975))
    value = with_it[:, 0].sum() / with_it[:, 1].sum() - without[:, 0].sum() / max(without[:, 1].sum(), 1)
    return Score(float(value), float(low), float(high), len(seen))


def in_words(difference: Score) -> str:
    """What the gap says about looking."""
    if difference.low > 0:
        return "the picture helps: the interval of the gap lies above zero"
    if difference.high < 0:
        return "the picture hurts: the interval of the gap lies below zero"
    return "no sign that the model looks: the interval of the gap includes zero"


def changed(seen: Sequence[Answered], blind: Sequence[Answered], *, seed: int = 0) -> Score:
    """Share of the questions asked both ways to which the model says something else without its picture."""
    said = {row.question.id: row.text for row in seen}
    return accuracy([replace(row, right=float(row.text != said[row.question.id])) for row in blind], seed=seed)


def change_in_words(share: Score) -> str:
    if share.low > 0:
        return "its replies depend on the picture: the interval of the share lies above zero"
    return "no sign that the model looks: the interval of the share of changed replies includes zero"


def majority(questions: Sequence[Question]) -> float:
    """Share right of always giving the most frequent answer of the question's type and language."""
    answers: dict[tuple[Any, Any], Counter[str]] = defaultdict(Counter)
    for question in questions:
        answers[question.tags.get("type"), question.tags.get("language")][question.answer] += 1
    return sum(counter.most_common(1)[0][1] for counter in answers.values()) / max(len(questions), 1)


def result_of(name: str, task: Task, rows: Mapping[str, Sequence[Answered]], *, seed: int = 0) -> dict[str, Any]:
    """Everything about a task's run, as JSON: its metrics by condition, by type and language, the gap and its words.

    Intervals, gap and tables are of the mean points, 0-1, whatever the task's metrics are. A task that has no figures
    here, since a server or a judge gives them, has its count, and how often the picture changes what is said.
    """
    asked = [condition for condition in CONDITIONS if condition in rows]
    scored = {c: figures_of(task, [Reply(row.question, row.text) for row in rows[c]]) for c in asked}
    result: dict[str, Any] = {"task": name, **scored["with_image"].to_dict()}
    if not scored["with_image"].metrics:
        for condition in asked[1:]:
            share = changed(rows["with_image"], rows[condition], seed=seed)
            result.setdefault("changed", {})[condition] = {**share.to_dict(), "words": change_in_words(share)}
        return result
    result["majority"] = majority([row.question for row in rows["with_image"]])
    result |= {condition: dict(scored[condition].metrics) for condition in asked[1:]}
    result["intervals"] = {condition: accuracy(rows[condition], seed=seed).to_dict() for condition in asked}
    blind = [condition for condition in asked[1:] if rows[condition]]
    if blind:
        best = max(blind, key=lambda condition: accuracy(rows[condition], seed=seed).value)
        difference = gap(rows["with_image"], rows[best], seed=seed)
        result["gap"] = {**difference.to_dict(), "against": best, "words": in_words(difference)}
    for tag in ("type", "language"):
        result[f"by_{tag}"] = _by(rows, lambda row, tag=tag: str(row.question.tags.get(tag, "all")), seed)  # type: ignore[misc]
    return result


def _by(rows: Mapping[str, Sequence[Answered]], key: Callable[[Answered], str], seed: int) -> dict[str, Any]:
    groups = sorted({key(row) for row in rows["with_image"]})
    table: dict[str, Any] = {}
    for group in groups:
        chosen = {condition: [row for row in listed if key(row) == group] for condition, listed in rows.items()}
        entry: dict[str, Any] = {c: accuracy(listed, seed=seed).to_dict() for c, listed in chosen.items()}
        entry["majority"] = majority([row.question for row in chosen["with_image"]])
        table[group] = entry
    return table
