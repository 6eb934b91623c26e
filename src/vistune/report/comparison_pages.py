"""Pages that compare: models on tasks (`evaluate` of several models), and runs with their recipes and training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vistune.errors import RecipeError
from vistune.files import parse_yaml, read_json, read_json_if_there, read_text, write_atomic
from vistune.report import plots
from vistune.report.rendering import Labels, Row, Values, labels_of, render, spread, thumbnail
from vistune.report.training_section import curves_panel, read_metrics, stage_summary, stage_table

QUESTIONS = 20  # shown of each side of a pair


def write_comparison(folder: Path, *, language: str = "en") -> Path:
    """Write FOLDER/comparison.html from the comparison.json that `evaluate` wrote there.

    Of each pair of models it shows some questions that one answers better than the other, chosen by a seed.
    """
    comparison = read_json(folder / "comparison.json")
    page = render("comparison.html.j2", labels_of(language), language=language, **task_values(comparison))
    write_atomic(folder / "comparison.html", page)
    return folder / "comparison.html"


def write_runs_report(path: Path, runs: Mapping[str, Path], comparison: Row, *, language: str = "en") -> Path:
    """Write a page that compares runs; `runs` are folders by short name.

    Raises RecipeError for more runs than there are colours.
    """
    labels = labels_of(language)
    if len(runs) > len(plots.SERIES_COLORS):
        raise RecipeError(
            f"{len(runs)} runs are too many for one page", f"name at most {len(plots.SERIES_COLORS)} runs"
        )
    metrics = {name: read_metrics(folder / "metrics.jsonl") for name, folder in runs.items()}
    stages = dict.fromkeys(stage for by_stage in metrics.values() for stage in by_stage)
    values = {
        **task_values(comparison),
        "models": list(runs),
        "runs": [
            {
                "name": name,
                "folder": str(folder),
                "color": color,
                "status": (read_json_if_there(folder / "run.json") or {}).get("status", "–"),
                "seconds": sum(row.get("seconds") or 0 for rows in metrics[name].values() for row in rows),
            }
            for (name, folder), color in zip(runs.items(), plots.SERIES_COLORS, strict=False)
        ],
        "differences": differences([folder / "recipe.yaml" for folder in runs.values()]),
        "stages": [
            _stage(stage, [by_stage.get(stage, ()) for by_stage in metrics.values()], labels) for stage in stages
        ],
    }
    write_atomic(path, render("runs.html.j2", labels, language=language, **values))
    return path


def task_values(comparison: Row) -> Values:
    """Return the values that comparison_tasks.html.j2 needs."""
    tasks = [_task(task) for task in comparison["tasks"]]
    return {"models": comparison["models"], "tasks": tasks, "papers": comparison["published"]}


def _task(task: Row) -> Values:
    """Add the names of the metrics, the conditions, and a verdict on each model from its blind conditions."""
    first = next(iter(task["models"].values()))
    published = {name: None for paper in task["published"].values() for name in paper["figures"]}
    intervals = first.get("intervals", {})
    only_accuracy = set(first["metrics"]) == {"accuracy"} and not published  # the first condition shows it already
    return {
        **task,
        "names": [] if only_accuracy else list(first["metrics"] or published),
        "conditions": list(intervals),
        "blind": next((entry["count"] for name, entry in intervals.items() if name != "with_image"), None),
        "models": {
            model: {
                **result,
                "words": [
                    entry["words"] for entry in (result.get("gap"), *result.get("changed", {}).values()) if entry
                ],
            }
            for model, result in task["models"].items()
        },
        "pairs": [_pair(pair) for pair in task["pairs"]],
    }


def _pair(pair: Row) -> Values:
    """Order a pair so that the better model comes first."""
    one, other, wins, losses = pair["one"], pair["other"], pair["wins"], pair["losses"]
    value, low, high = (pair["difference"][key] for key in ("value", "low", "high"))
    if value < 0:
        one, other, wins, losses, value, low, high = other, one, losses, wins, -value, -high, -low
    return {
        "one": one,
        "other": other,
        "difference": {"value": value, "low": low, "high": high},
        "is_certain": low > 0,
        "sides": [_side(one, other, wins), _side(other, one, losses)],
    }


def _side(better: str, worse: str, questions: list[Row]) -> Values:
    """Choose the questions that are shown of those that one model answers better."""
    shown = [
        {**row, "thumbnail": thumbnail(row["image"], [Path(row["image"])]) if row["image"] else None}
        for row in spread(questions, QUESTIONS, group=lambda row: row["answer"], seed=0)
    ]
    return {"better": better, "worse": worse, "count": len(questions), "rows": shown}


def differences(recipes: Sequence[Path]) -> list[tuple[str, list[str | None]]]:
    """Return the keys whose values differ between recipes, with the value in each; None if a recipe has none."""
    flat = [dict(_flat(parse_yaml(read_text(path), str(path)))) if path.is_file() else {} for path in recipes]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    rows = ((key, [recipe.get(key) for recipe in flat]) for key in keys)
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(tree: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key.path, value as text). Items of a list have their `name` or number in the path, as in overrides."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for number, item in enumerate(tree):
            yield from _flat(item, f"{path}.{item.get('name', number) if isinstance(item, Mapping) else number}")
    elif tree != []:  # an empty list counts as absent
        yield path, ", ".join(map(str, tree)) if isinstance(tree, list) else str(tree)


def _stage(stage: str, metrics: Sequence[Sequence[Row]], labels: Labels) -> Values:
    """Draw loss, validation loss and speed of a stage with a curve per run, and fill its table."""
    panels = []
    for key, label in (("loss", "loss"), ("validation_loss", "validation_loss"), ("tokens_per_second", "speed")):
        curves = []
        for all_rows, color in zip(metrics, plots.SERIES_COLORS, strict=False):
            rows = [row for row in all_rows if row.get(key) is not None]
            if rows:
                values = [float(row[key]) for row in rows]
                drawn = values if key == "validation_loss" else plots.smooth(values).tolist()
                curves.append(plots.Curve([int(row["step"]) for row in rows], drawn, color))
        if curves:
            panels.append(curves_panel(plots.drawable(stage, ""), label, curves, labels))
    table = stage_table([stage_summary(rows) if rows else None for rows in metrics], labels)
    return {"name": stage, "plots": panels, "rows": table}
