"""A page on runs beside each other: what their recipes differ in, how they learnt, and what they answer.

run folders + their comparison (as `evaluate` makes it of several models) -> one HTML file that opens offline
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError
from vistune.files import read_json_if_there, read_text, write_atomic
from vistune.recipe.strict_yaml import parse_yaml
from vistune.report import plots
from vistune.report.comparison import comparison_values
from vistune.report.labels import Labels, drawn_label, duration, labels_of
from vistune.report.rendering import figure, render
from vistune.report.training_section import read_metrics, stage_figures

Row = Mapping[str, Any]
FIGURES = (  # of a stage: label, key, how it is written
    ("steps", "steps", "whole"),
    ("last_loss", "loss", "figure"),
    ("validation_loss", "validation_loss", "figure"),
    ("validation_loss_grey", "validation_loss_without_pictures", "figure"),
    ("tokens", "tokens", "whole"),
    ("supervised", "supervised_tokens", "whole"),
    ("padding", "padding_waste", "percent"),
    ("per_second", "tokens_per_second", "whole"),
    ("mfu", "mfu", "percent"),
    ("peak_memory", "peak_memory_mb", "memory"),
    ("time", "seconds", "duration"),
)


def write_runs_report(path: Path, runs: Mapping[str, Path], comparison: Row, *, language: str = "en") -> Path:
    """Write the page; `runs`: folders by short name. Raises RecipeError for more runs than there are colours."""
    labels = labels_of(language)
    if len(runs) > len(plots.SERIES_COLORS):
        raise RecipeError(f"{len(runs)} runs beside each other", f"name {len(plots.SERIES_COLORS)} at most")
    learnt = {name: read_metrics(folder / "metrics.jsonl") for name, folder in runs.items()}
    values = {
        **comparison_values(comparison),
        "models": list(runs),
        "runs": [
            {
                "name": name,
                "folder": str(folder),
                "color": color,
                "status": (read_json_if_there(folder / "run.json") or {}).get("status", "–"),
                "seconds": sum(row.get("seconds") or 0 for rows in learnt[name].values() for row in rows),
            }
            for (name, folder), color in zip(runs.items(), plots.SERIES_COLORS, strict=False)
        ],
        "differences": differences([folder / "recipe.yaml" for folder in runs.values()]),
        "stages": [
            _stage(name, learnt, labels) for name in dict.fromkeys(s for found in learnt.values() for s in found)
        ],
    }
    write_atomic(path, render("runs.html.j2", labels, language=language, **values))
    return path


def differences(recipes: Sequence[Path]) -> list[tuple[str, list[str | None]]]:
    """The keys whose values are not the same in all recipes, with each one's value; None where it has none."""
    told = [dict(_flat(parse_yaml(read_text(path), str(path)))) if path.is_file() else {} for path in recipes]
    keys = dict.fromkeys(key for one in told for key in one)
    return [(key, [one.get(key) for one in told]) for key in keys if len({one.get(key) for one in told}) > 1]


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(key.path, value as text); items of a list by their `name`, `file` or number, as overrides address them."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for number, item in enumerate(tree):
            yield from _flat(item, f"{path}.{item.get('name', number) if isinstance(item, Mapping) else number}")
    elif tree != []:  # an empty list is no value: it stands as absent
        yield path, ", ".join(map(str, tree)) if isinstance(tree, list) else str(tree)


def _stage(stage: str, learnt: Mapping[str, Mapping[str, Sequence[Row]]], labels: Labels) -> dict[str, Any]:
    """Loss, validation loss and speed as a curve each run, and the figures; a run without the stage has none."""
    told = [stage_figures(found[stage]) if stage in found else None for found in learnt.values()]
    panels = []
    for key, label in (("loss", "loss"), ("validation_loss", "validation_loss"), ("tokens_per_second", "speed")):
        curves = []
        for found, color in zip(learnt.values(), plots.SERIES_COLORS, strict=False):
            rows = [row for row in found.get(stage, ()) if row.get(key) is not None]
            if rows:
                values = [float(row[key]) for row in rows]
                drawn = values if key == "validation_loss" else plots.smooth(values).tolist()
                curves.append(plots.Curve([int(row["step"]) for row in rows], drawn, color))
        if curves:
            title = f"{plots.drawable(stage, '')} · {drawn_label(label, labels)}"
            panels.append(plots.lines_panel(curves, title=title, axis=drawn_label("step", labels)))
    table = [
        (labels[label], [_cell(None if one is None else one[key], kind, labels) for one in told])
        for label, key, kind in FIGURES
        if any(one is not None and one[key] is not None for one in told)
    ]
    return {"name": stage, "plots": panels, "rows": table}


def _cell(value: float | None, kind: str, labels: Labels) -> str:
    if value is None:
        return "–"
    written = {
        "whole": lambda: f"{value:,.0f}",
        "figure": lambda: figure(value),
        "percent": lambda: f"{100 * value:.1f} %",
        "memory": lambda: f"{value:,.0f} MB",
        "duration": lambda: duration(value, labels),
    }
    return written[kind]()
