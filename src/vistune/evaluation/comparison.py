"""Compare models: a table of their figures next to published ones, and the questions that each model answers better.

evaluation results (model by task) -> Comparison -> comparison.json
RUN/evals/NAME.{json, predictions.jsonl} -> evaluation results of the tasks that all runs share; no model is run
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError
from vistune.evaluation.results import (
    TOO_FEW_IMAGES,
    AnsweredQuestion,
    Estimate,
    EvaluationResult,
    gap,
    read_result,
)
from vistune.evaluation.task import image_of
from vistune.files import parse_json, read_json, read_jsonl
from vistune.notebook import html_table
from vistune.types import ImageRef, Message, Part, Question, Sample

FEW = 3  # figures that a table shows of a task without headlines


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """Figures of a published model on one task, and where they were published."""

    figures: Mapping[str, float]
    source: str

    def to_dict(self) -> dict[str, object]:
        return {"figures": dict(self.figures), "source": self.source}


@dataclass(frozen=True, slots=True)
class DifferentAnswers:
    """A question that two models answer with different points; `replies` and `points` by model."""

    question: Question
    replies: Mapping[str, str]
    points: Mapping[str, float]

    def to_dict(self) -> dict[str, object]:
        question = self.question
        return {
            "question_id": question.id,
            "image": image_of(question) if question.sample.images else None,
            "prompt": question.sample.messages[-1].text,
            "answer": question.answer,
            "said": dict(self.replies),
            "points": dict(self.points),
        }


@dataclass(frozen=True, slots=True)
class ModelPair:
    """Two models on one task.

    Attributes:
        difference: Accuracy of `one` minus that of `other`; `words` says what its interval means.
        wins, losses: The questions that `one` answers better, and worse, than `other`.
    """

    one: str
    other: str
    difference: Estimate
    words: str
    wins: tuple[DifferentAnswers, ...]
    losses: tuple[DifferentAnswers, ...]

    def to_dict(self) -> dict[str, object]:
        return {
            "one": self.one,
            "other": self.other,
            "difference": self.difference.to_dict(),
            "words": self.words,
            "wins": [question.to_dict() for question in self.wins],
            "losses": [question.to_dict() for question in self.losses],
        }


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """All models on one task.

    Attributes:
        headlines: The figures that a table shows.
        results: The results by model.
        published: The published figures by model.
        pairs: Every two models; empty for a task that a judge or a server scores.
    """

    task: str
    count: int
    headlines: tuple[str, ...]
    results: Mapping[str, EvaluationResult]
    published: Mapping[str, PublishedFigures]
    pairs: tuple[ModelPair, ...]

    def to_dict(self) -> dict[str, object]:
        keys = ("model", "metrics", "intervals", "gap", "changed", "asked_with")
        trees = {label: result.to_dict() for label, result in self.results.items()}
        return {
            "task": self.task,
            "count": self.count,
            "headlines": list(self.headlines),
            "models": {label: {key: tree[key] for key in keys if key in tree} for label, tree in trees.items()},
            "published": {name: figures.to_dict() for name, figures in self.published.items()},
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """Several models on the same tasks.

    Attributes:
        models: Their labels.
        sources: Source of each published model that has figures on one of the tasks.
    """

    models: tuple[str, ...]
    sources: Mapping[str, str]
    tasks: tuple[TaskComparison, ...]

    @property
    def results(self) -> list[EvaluationResult]:
        """The result of each model and task, model by model."""
        return list(chain.from_iterable([task.results[model] for task in self.tasks] for model in self.models))

    def to_dict(self) -> dict[str, object]:
        """Return the content of comparison.json."""
        return {
            "models": list(self.models),
            "published": {name: {"source": source} for name, source in self.sources.items()},
            "tasks": [task.to_dict() for task in self.tasks],
        }

    def __repr__(self) -> str:
        tasks = ", ".join(task.task for task in self.tasks)
        return f"Comparison(models={', '.join(self.models)}; tasks={tasks})"

    def _repr_html_(self) -> str:
        from vistune.evaluation.comparison_tables import figures_tables

        tables = []
        for figures in figures_tables(self):
            rows = [(model, *cells) for model, cells in figures.rows.items()]
            tables.append(html_table(rows, ("", *figures.columns), f"{figures.task}, {figures.count:,} questions"))
        return "".join(tables)


def labels_of(models: Sequence[Path]) -> list[str]:
    """Return a short, distinct name for each model folder.

    It is the part of the folder's path that follows the common beginning of all paths.

    Raises:
        RecipeError: A folder is named twice.
    """
    paths = [model.resolve() for model in models]
    if not paths:
        return []
    if len(set(paths)) < len(paths):
        raise RecipeError(f"{next(m for m in models if paths.count(m.resolve()) > 1)}: named twice", "name it once")
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath(paths))
    return ["-".join(path.relative_to(common).parts) or path.name for path in paths]


def published() -> Mapping[str, Any]:
    """Return the figures of LLaVA's papers by model and task, and the figures that a table shows of each task."""
    path = files("vistune.evaluation") / "published.json"
    tree: Mapping[str, Any] = parse_json(path.read_text(encoding="utf-8"), "published.json", first_line=1)
    return tree


def published_on(task: str) -> dict[str, PublishedFigures]:
    """Return the published figures on a task, by model."""
    return {
        name: PublishedFigures(model["figures"][task], model["source"])
        for name, model in published()["models"].items()
        if task in model["figures"]
    }


def headlines(task: str, metrics: Sequence[str]) -> list[str]:
    """Return the names of the figures that a table shows.

    If the results are not judged yet, return the names that papers use.
    """
    known = list(metrics or dict.fromkeys(name for paper in published_on(task).values() for name in paper.figures))
    named = [name for name in published()["headlines"].get(task, ()) if name in known]
    return named or known[: FEW if len(known) <= FEW else 1]


def compare(results: Mapping[str, Sequence[EvaluationResult]], *, seed: int = 0) -> Comparison:
    """Compare models that were asked the same questions.

    A win is a question that one model answers better than the other, by the task's own points.

    Args:
        results: By model, one result per task, all in the same order of tasks.
    """
    tasks = []
    for of_task in zip(*results.values(), strict=True):
        by_model = dict(zip(results, of_task, strict=True))
        first = of_task[0]
        pairs = combinations(by_model, 2) if all(result.metrics for result in of_task) else ()
        tasks.append(
            TaskComparison(
                first.task,
                first.count,
                tuple(headlines(first.task, list(first.metrics))),
                by_model,
                published_on(first.task),
                tuple(_pair(one, other, by_model, seed) for one, other in pairs),
            )
        )
    named = {task.task for task in tasks}
    sources = {name: model["source"] for name, model in published()["models"].items() if named & set(model["figures"])}
    return Comparison(tuple(results), sources, tuple(tasks))


def _pair(one: str, other: str, results: Mapping[str, EvaluationResult], seed: int) -> ModelPair:
    own, others = (results[label].answers["with_image"] for label in (one, other))
    difference = gap(own, others, seed=seed)
    wins: list[DifferentAnswers] = []
    losses: list[DifferentAnswers] = []
    for a, b in zip(own, others, strict=True):
        if a.points != b.points:
            different = DifferentAnswers(a.question, {one: a.text, other: b.text}, {one: a.points, other: b.points})
            (wins if a.points > b.points else losses).append(different)
    words = _describe_difference(one, other, difference)
    return ModelPair(one, other, difference, words, tuple(wins), tuple(losses))


def _describe_difference(one: str, other: str, difference: Estimate) -> str:
    if not difference.has_interval:
        return TOO_FEW_IMAGES
    if difference.low > 0:
        return f"{one} is better: the interval is above zero"
    if difference.high < 0:
        return f"{other} is better: the interval is below zero"
    return "no sign that either is better: the interval includes zero"


def compare_stored(folders: Mapping[str, Path]) -> Comparison:
    """Compare the results stored in labelled folders; with no task in common, the comparison has no tasks."""
    stored = {label: read_results(folder) for label, folder in folders.items()}
    shared = [
        name
        for name in next(iter(stored.values()))
        if all(name in tasks for tasks in stored.values())
        and len({tuple(a.question.id for a in tasks[name].answers["with_image"]) for tasks in stored.values()}) == 1
    ]
    return compare({label: [tasks[name] for name in shared] for label, tasks in stored.items()})


def file_name(task: str) -> str:
    """Return the beginning of the names of a task's files; Windows allows no colon, as in `module:CLASS`."""
    return task.replace(":", ".")


def read_results(folder: Path) -> dict[str, EvaluationResult]:
    """Read a folder's results and answers, by task. Results under another name, such as a stage's, are skipped."""
    results = {}
    for path in sorted(folder.glob("*.json")):
        predictions = path.with_name(f"{path.stem}.predictions.jsonl")
        tree = read_json(path)
        name = tree.get("task") if isinstance(tree, dict) else None
        if isinstance(name, str) and path.stem in (name, file_name(name)) and predictions.is_file():
            answers: dict[str, list[AnsweredQuestion]] = defaultdict(list)
            for _, line in read_jsonl(predictions):
                answers[line["condition"]].append(_read_answer(line))
            results[name] = read_result(tree, dict(answers))
    return results


def _read_answer(line: Mapping[str, Any]) -> AnsweredQuestion:
    name = str(line["question_id"])
    image = line.get("image")
    images: tuple[Part, ...] = () if image in (None, f"question {name}") else (ImageRef(Path(str(image))),)
    sample = Sample(name, (Message("user", (*images, str(line["prompt"]))),))
    question = Question(name, sample, str(line.get("answer", "")))
    reason = str(line.get("finish_reason", "stop"))
    return AnsweredQuestion(question, line["condition"], str(line["text"]), float(line["right"]), reason)
