"""What the page of a run says of its training: a panel each for loss, sources, rate, speed and memory.

metrics.jsonl -> stages in the order they ran -> plots and figures
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.files import read_text
from vistune.report import plots
from vistune.report.labels import Labels, drawn_label

Row = Mapping[str, Any]
CURVES = (("learning_rate", "rate"), ("tokens_per_second", "speed"), ("peak_memory_mb", "memory"))


def read_metrics(path: Path) -> dict[str, list[Row]]:
    """By stage. A run may still be writing, or have diverged: a torn last line is left out, NaN is kept."""
    stages: dict[str, list[Row]] = defaultdict(list)
    if not path.is_file():
        return stages
    *lines, _torn = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg}", "remove the line") from None
        if row is not None:
            stages[str(row["stage"])].append(row)
    return stages


def stage_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of a stage, None where its lines do not say; its loss is the mean of the last twentieth of its steps."""

    def told(key: str) -> list[float]:
        return [float(row[key]) for row in rows if row.get(key) is not None]

    def last(key: str) -> float | None:
        return told(key)[-1] if told(key) else None

    losses = told("loss")
    tokens, computed = sum(told("tokens")), sum(map(_computed, rows))
    return {
        "steps": len(rows),
        "loss": statistics.fmean(losses[-max(1, len(losses) // 20) :]),
        "validation_loss": last("validation_loss"),
        "validation_loss_without_pictures": last("validation_loss_without_pictures"),
        "tokens": tokens,
        "supervised_tokens": sum(told("supervised_tokens")),
        "padding_waste": 1 - tokens / computed if computed and told("padding_waste") else None,
        "tokens_per_second": statistics.median(told("tokens_per_second") or [0.0]),
        "mfu": statistics.median(told("mfu")) if told("mfu") else None,
        "peak_memory_mb": max(told("peak_memory_mb"), default=None),
        "seconds": sum(told("seconds")),
        "not_numbers": sum(loss - loss != 0 for loss in losses),  # only infinity and NaN differ from themselves
    }


def _computed(row: Row) -> float:
    """Tokens of a step with those of blank rows, from the share that these take."""
    waste = row.get("padding_waste", 0.0)
    return float(row.get("tokens", 0)) / (1 - waste) if waste < 1 else 0.0


def training_section(stages: Mapping[str, Sequence[Row]], labels: Labels) -> list[dict[str, Any]] | None:
    """Of each stage: its figures, the plots, the sources with their losses, and what was doubtful."""
    result = []
    for number, (stage, rows) in enumerate(stages.items(), start=1):
        name = plots.drawable(stage, f"#{number}")
        steps = [int(row["step"]) for row in rows]
        sources = _by_source(rows)
        panels = [
            plots.loss_panel(
                steps,
                [float(row["loss"]) for row in rows],
                title=f"{name} · {drawn_label('loss', labels)}",
                axis=drawn_label("step", labels),
                measured=[(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row],
            )
        ]
        if len(sources) > 1:
            curves = [source["curve"] for source in sources if source["curve"] is not None]
            title = f"{name} · {drawn_label('loss_by_source', labels)}"
            panels.append(plots.lines_panel(curves, title=title, axis=drawn_label("step", labels)))
        for key, label in CURVES:
            told = [(row["step"], float(row[key])) for row in rows if row.get(key) is not None]
            if told:
                curve = plots.Curve([step for step, _ in told], [value for _, value in told], "blue")
                title = f"{name} · {drawn_label(label, labels)}"
                panels.append(plots.lines_panel([curve], title=title, axis=drawn_label("step", labels)))
        doubts = [(row["step"], words) for row in rows for words in row.get("doubts", ())]
        figures = stage_figures(rows)
        result.append({"stage": stage, "plots": panels, "sources": sources, "doubts": doubts, **figures})
    return result or None


def _by_source(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The sources, that with most supervised tokens first, each with its loss at the stage's beginning and end.

    The first of them have curves, of their moving means, in the page's series colours.
    """
    found: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    for row in rows:
        for name, told in row.get("by_source", {}).items():
            found[name].append((int(row["step"]), float(told["loss"]), int(told["supervised_tokens"])))
    total = sum(tokens for told in found.values() for _, _, tokens in told)
    ordered = sorted(found.items(), key=lambda item: -sum(tokens for _, _, tokens in item[1]))
    sources = []
    for place, (name, told) in enumerate(ordered):
        steps, losses, tokens = zip(*told, strict=True)
        mean = plots.smooth(losses).tolist()
        color = plots.SERIES_COLORS[place] if place < len(plots.SERIES_COLORS) else None
        sources.append(
            {
                "name": name,
                "color": color,
                "curve": plots.Curve(steps, mean, color) if color is not None else None,
                "supervised_tokens": sum(tokens),
                "share": sum(tokens) / max(total, 1),
                "first": mean[0],
                "last": mean[-1],
            }
        )
    return sources
