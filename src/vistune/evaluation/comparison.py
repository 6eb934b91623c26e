"""Models beside each other: one table of figures, published ones with their source, and who answers what better.

Measurements (model by task) -> comparison as plain values (comparison.json) -> markdown
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError
from vistune.evaluation.measurement import Measurement
from vistune.evaluation.runner import Answered
from vistune.evaluation.scoring import Score, gap
from vistune.evaluation.task import image_of
from vistune.files import parse_json

TO_BE_SCORED = "to be scored"  # by a judge or the benchmark's server
FEW = 3  # figures that a table shows of a task which says no headlines


def labels_of(models: Sequence[Path]) -> list[str]:
    """A short name of its own for each model folder: what follows the part that all have in common.

    Raises RecipeError where one folder is named twice.
    """
    whole = [model.resolve() for model in models]
    if len(set(whole)) < len(whole):
        raise RecipeError(f"{next(m for m in models if whole.count(m.resolve()) > 1)}: named twice", "name it once")
    if len(whole) == 1:
        return [whole[0].name]
    common = Path(os.path.commonpath(whole))
    return ["-".join(path.relative_to(common).parts) or path.name for path in whole]


def published() -> Mapping[str, Any]:
    """The figures of LLaVA's papers, by model and task, and which of a task's figures a table shows."""
    path = files("vistune.evaluation") / "published.json"
    found: Mapping[str, Any] = parse_json(path.read_text(encoding="utf-8"), "published.json", first_line=1)
    return found


def published_on(task: str) -> dict[str, Any]:
    """{model: {figures, source}} of the published figures on a task."""
    return {
        name: {"figures": told["figures"][task], "source": told["source"]}
        for name, told in published()["models"].items()
        if task in told["figures"]
    }


def headlines(task: str, metrics: Sequence[str]) -> list[str]:
    """Which of a task's figures a table shows; where a judge is still to give them, those that papers name."""
    metrics = list(metrics) or list(
        dict.fromkeys(name for told in published_on(task).values() for name in told["figures"])
    )
    named = [name for name in published()["headlines"].get(task, ()) if name in metrics]
    return named or list(metrics)[: FEW if len(metrics) <= FEW else 1]


def compare(found: Mapping[str, Sequence[Measurement]], *, seed: int = 0) -> dict[str, Any]:
    """By task: every model's figures, what the papers say, and each two models' wins and losses.

    `found`: by model, one Measurement a task, in one order. A win is a question that one model answers better than the
    other, by the task's own points; tasks that a judge or a server scores have none.
    """
    tasks = []
    for measured in zip(*found.values(), strict=True):
        results = {label: one.result for label, one in zip(found, measured, strict=True)}
        rows = {label: one.rows["with_image"] for label, one in zip(found, measured, strict=True)}
        first = next(iter(results.values()))
        scored = all(result["metrics"] for result in results.values())
        keys = ("model", "metrics", "intervals", "gap", "changed", "asked_with")
        tasks.append(
            {
                "task": first["task"],
                "count": first["count"],
                "headlines": headlines(first["task"], list(first["metrics"])),
                "models": {
                    label: {key: result[key] for key in keys if key in result} for label, result in results.items()
                },
                "published": published_on(first["task"]),
                "pairs": [pair_of(a, b, rows, seed) for a, b in combinations(rows, 2)] if scored else [],
            }
        )
    named = {task["task"] for task in tasks}
    papers = {
        name: {"source": told["source"]} for name, told in published()["models"].items() if named & set(told["figures"])
    }
    return {"models": list(found), "published": papers, "tasks": tasks}


def pair_of(one: str, other: str, rows: Mapping[str, Sequence[Answered]], seed: int) -> dict[str, Any]:
    """Two models on one task: the difference of their mean points, and the questions that each answers better."""
    difference = gap(rows[one], rows[other], seed=seed)
    both = list(zip(rows[one], rows[other], strict=True))
    return {
        "one": one,
        "other": other,
        "difference": difference.to_dict(),
        "words": difference_in_words(one, other, difference),
        "wins": [_question(one, other, a, b) for a, b in both if a.right > b.right],
        "losses": [_question(one, other, a, b) for a, b in both if a.right < b.right],
    }


def difference_in_words(one: str, other: str, difference: Score) -> str:
    if difference.low > 0:
        return f"{one} is better: the interval lies above zero"
    if difference.high < 0:
        return f"{other} is better: the interval lies below zero"
    return "no sign that either is better: the interval includes zero"


def _question(one: str, other: str, a: Answered, b: Answered) -> dict[str, Any]:
    question = a.question
    return {
        "question_id": question.id,
        "image": image_of(question) if question.sample.images else None,
        "prompt": question.sample.messages[-1].text,
        "answer": question.answer,
        "said": {one: a.text, other: b.text},
        "points": {one: a.right, other: b.right},
    }


def markdown(comparison: Mapping[str, Any]) -> str:
    """The figures as one table, then what the pairs say and where the published figures are from."""
    models: list[str] = comparison["models"]
    papers: Mapping[str, Any] = comparison["published"]
    lines = [_row("task", "questions", "figure", *models, *papers), _row(*["---"] * (3 + len(models) + len(papers)))]
    for task in comparison["tasks"]:
        begin = (task["task"], f"{task['count']:,}")
        for name in task["headlines"]:
            own = [_number(task["models"][model]["metrics"].get(name)) or TO_BE_SCORED for model in models]
            told = [_number(task["published"].get(paper, {}).get("figures", {}).get(name)) for paper in papers]
            lines.append(_row(*begin, name, *own, *told))
        if not task["headlines"]:
            lines.append(_row(*begin, "", *[TO_BE_SCORED] * len(models), *[""] * len(papers)))
        if any(looking := [_looks(task["models"][model]) for model in models]):
            lines.append(_row(*begin, "points that the picture adds", *looking, *[""] * len(papers)))
    lines.append("")
    for task in comparison["tasks"]:
        for pair in task["pairs"]:
            told = pair["difference"]
            interval = f"{100 * told['value']:+.1f} points ({100 * told['low']:.1f} to {100 * told['high']:.1f})"
            lines.append(
                f"- {task['task']}: {pair['one']} answers {len(pair['wins'])} better than {pair['other']}, "
                f"{len(pair['losses'])} worse; {interval}: {pair['words']}"
            )
        for model in models:
            for words in _blind_words(task["models"][model]):
                lines.append(f"- {task['task']}, {model}: {words}")
    lines += [f"- {paper}: {told['source']}" for paper, told in papers.items()]
    return "\n".join(lines).rstrip()


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"


def _looks(result: Mapping[str, Any]) -> str:
    if (told := result.get("gap")) is None:
        return ""
    return f"{100 * told['value']:.1f} ({100 * told['low']:.1f} to {100 * told['high']:.1f})"


def _blind_words(result: Mapping[str, Any]) -> list[str]:
    """What the blind runs say: of tasks with figures the gap's words, of others those on changed replies."""
    if "gap" in result:
        return [result["gap"]["words"]]
    return [f"{condition.replace('_', ' ')}: {told['words']}" for condition, told in result.get("changed", {}).items()]
