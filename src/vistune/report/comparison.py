"""A page on models beside each other: the figures, then the questions that one answers better than another.

comparison (as `evaluate` writes it) -> comparison.html, with the pictures inside
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vistune.files import write_atomic
from vistune.report.pictures import spread, thumbnail

SHOWN = 40  # questions of each side of a pair


def write_comparison(path: Path, comparison: Mapping[str, Any], *, seed: int = 0) -> Path:
    """Write the page; of each pair a seeded choice of wins and losses, how many there are said beside them."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    tasks = [{**task, "pairs": [_pair(pair, seed) for pair in task["pairs"]]} for task in comparison["tasks"]]
    page = environment.get_template("comparison.html.j2").render(models=comparison["models"], tasks=tasks)
    write_atomic(path, page)
    return path


def _pair(pair: Mapping[str, Any], seed: int) -> dict[str, Any]:
    sides = []
    for better, worse, rows in (
        (pair["one"], pair["other"], pair["wins"]),
        (pair["other"], pair["one"], pair["losses"]),
    ):
        shown = [
            {**row, "thumbnail": thumbnail(row["image"], [Path(row["image"])]) if row["image"] else None}
            for row in spread(rows, SHOWN, group=lambda row: row["answer"], seed=seed)
        ]
        sides.append({"better": better, "worse": worse, "count": len(rows), "rows": shown})
    return {**pair, "sides": sides}
