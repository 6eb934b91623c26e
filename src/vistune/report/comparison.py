"""A page on models beside each other: the figures, then the questions that one answers better than another.

comparison.json, as `evaluate` writes it -> comparison.html, with the pictures inside
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune.files import read_json, write_atomic
from vistune.report.images import spread, thumbnail
from vistune.report.labels import labels_of
from vistune.report.rendering import render

SHOWN = 20  # questions of each side of a pair
Row = Mapping[str, Any]


def write_comparison(folder: Path, *, language: str = "en") -> Path:
    """Write FOLDER/comparison.html; of each pair a seeded choice of wins and losses, how many there are said there."""
    comparison = read_json(folder / "comparison.json")
    page = render("comparison.html.j2", labels_of(language), language=language, **comparison_values(comparison))
    write_atomic(folder / "comparison.html", page)
    return folder / "comparison.html"


def comparison_values(comparison: Row) -> dict[str, Any]:
    """What comparison_tasks.html.j2 wants of a comparison."""
    tasks = [_task(task) for task in comparison["tasks"]]
    return {"models": comparison["models"], "tasks": tasks, "papers": comparison["published"]}


def _task(task: Row) -> dict[str, Any]:
    """With the names of its figures, the conditions it was asked under, and what the blind ones say of each model."""
    first = next(iter(task["models"].values()))
    published = {name: None for told in task["published"].values() for name in told["figures"]}
    intervals = first.get("intervals", {})
    plain = set(first["metrics"]) == {"accuracy"} and not published  # the share of right answers says the same
    return {
        **task,
        "names": [] if plain else list(first["metrics"] or published),
        "conditions": list(intervals),
        "blind": next((told["count"] for name, told in intervals.items() if name != "with_image"), None),
        "models": {
            model: {
                **told,
                "words": [said["words"] for said in (told.get("gap"), *told.get("changed", {}).values()) if said],
            }
            for model, told in task["models"].items()
        },
        "pairs": [_pair(pair) for pair in task["pairs"]],
    }


def _pair(pair: Row) -> dict[str, Any]:
    """The better model first."""
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


def _side(better: str, worse: str, rows: list[Row]) -> dict[str, Any]:
    shown = [
        {**row, "thumbnail": thumbnail(row["image"], [Path(row["image"])]) if row["image"] else None}
        for row in spread(rows, SHOWN, group=lambda row: row["answer"], seed=0)
    ]
    return {"better": better, "worse": worse, "count": len(rows), "rows": shown}
