"""Describe a comparison in tables and remarks: figures of each task, pairs of models, the effect of the images.

Comparison -> FiguresTable per task, and Remarks
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vistune.evaluation.comparison import Comparison
from vistune.evaluation.results import Estimate, EvaluationResult

TO_BE_SCORED = "to be scored"  # by a judge or the benchmark's server
GAIN = "gain from the image, points"


@dataclass(frozen=True, slots=True)
class FiguresTable:
    """The figures of a task as text: a row for each model and each published one, and the names of the columns."""

    task: str
    count: int
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


def figures_tables(comparison: Comparison) -> list[FiguresTable]:
    """Return a table for each task: the main figures, and the accuracy gain from seeing the image if it is known."""
    tables = []
    for task in comparison.tasks:
        names = task.headlines or ("",)
        has_gap = any(result.gap for result in task.results.values())
        rows = {}
        for model, result in task.results.items():
            gain = "" if result.gap is None else _points(result.gap.difference)
            own = (_number(result.metrics.get(name)) or TO_BE_SCORED for name in names)
            rows[model] = (*own, *([gain] if has_gap else []))
        for paper, published in task.published.items():
            rows[paper] = (*(_number(published.figures.get(name)) for name in names), *([""] if has_gap else []))
        columns = (*names, *([GAIN] if has_gap else []))
        tables.append(FiguresTable(task.task, task.count, columns, rows))
    return tables


@dataclass(frozen=True, slots=True)
class Remark:
    """A remark about a comparison.

    Attributes:
        subject: The models that the remark is about, or the source of published figures.
        condition: The blind condition that it is about, if it is about only one.
    """

    subject: str
    words: str
    condition: str | None = None

    def __str__(self) -> str:
        """Return the remark in English."""
        about = self.subject if self.condition is None else f"{self.subject}, {self.condition.replace('_', ' ')}"
        return f"{about}: {self.words}"


def remarks(comparison: Comparison) -> list[Remark]:
    """Describe the pairs of models, what the blind conditions show, and the sources of the published figures."""
    lines = []
    for task in comparison.tasks:
        for pair in task.pairs:
            wins, losses, points = len(pair.wins), len(pair.losses), _gain(pair.difference)
            subject = f"{task.task}: {pair.one} answers {wins} better than {pair.other}, {losses} worse; {points}"
            lines.append(Remark(subject, pair.words))
        for model in comparison.models:
            lines += _blind_remarks(f"{task.task}, {model}", task.results[model])
    return [*lines, *(Remark(paper, source) for paper, source in comparison.sources.items())]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"


def _points(estimate: Estimate) -> str:
    if not estimate.has_interval:
        return f"{100 * estimate.value:.1f} (too few images)"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} – {100 * estimate.high:.1f})"


def _gain(difference: Estimate) -> str:
    if not difference.has_interval:
        return f"{100 * difference.value:+.1f} points"
    return f"{100 * difference.value:+.1f} points ({100 * difference.low:.1f} – {100 * difference.high:.1f})"


def _blind_remarks(subject: str, result: EvaluationResult) -> list[Remark]:
    """Say what the blind conditions show: the gap, or for tasks without figures the changed answers."""
    if result.gap is not None:
        return [Remark(subject, result.gap.words)]
    return [Remark(subject, change.words, condition) for condition, change in result.changed.items()]
