"""The training section of a run's page: for each stage plots of loss, learning rate, speed and memory, and a table."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vistune.errors import DataError
from vistune.files import read_text
from vistune.report import plots
from vistune.report.rendering import Labels, Row, Values, drawn_label, duration, metric

TABLE = (  # of the stages: label, key of the summary, format
    ("steps", "steps", "whole"),
    ("last_loss", "loss", "metric"),
    ("validation_loss", "validation_loss", "metric"),
    ("validation_loss_grey", "validation_loss_without_pictures", "metric"),
    ("held_out_loss", "with_image", "metric"),
    ("held_out_loss_wrong_image", "wrong_image", "metric"),
    ("held_out_loss_without_image", "without_image", "metric"),
    ("image_gap", "image_gap", "interval"),
    ("tokens", "tokens", "whole"),
    ("supervised", "supervised_tokens", "whole"),
    ("padding", "padding_waste", "percent"),
    ("per_second", "tokens_per_second", "whole"),
    ("mfu", "mfu", "percent"),
    ("peak_memory", "peak_memory_mb", "memory"),
    ("time", "seconds", "duration"),
)
CURVES = (("learning_rate", "rate"), ("tokens_per_second", "speed"), ("peak_memory_mb", "memory"))


def read_metrics(path: Path) -> dict[str, list[Row]]:
    """Read metrics.jsonl by stage. An incomplete last line of a running run is left out, NaN is kept."""
    stages: dict[str, list[Row]] = defaultdict(list)
    if not path.is_file():
        return stages
    *lines, _incomplete = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg}", "remove the line") from None
        if row is not None:
            stages[str(row["stage"])].append(row)
    return stages


def stage_summary(rows: Sequence[Row]) -> Values:
    """Summarise the metrics of a stage; None for values that its lines lack.

    The loss is the mean over the last twentieth of the steps.
    """

    def values(key: str) -> list[float]:
        return [float(row[key]) for row in rows if row.get(key) is not None]

    def last(key: str) -> float | None:
        return values(key)[-1] if values(key) else None

    losses = values("loss")
    check = next((row["blind_check"] for row in reversed(rows) if "blind_check" in row), None)
    tokens, computed = sum(values("tokens")), sum(map(_computed_tokens, rows))
    return {
        "steps": len(rows),
        "loss": statistics.fmean(losses[-max(1, len(losses) // 20) :]),
        "validation_loss": last("validation_loss"),
        "validation_loss_without_pictures": last("validation_loss_without_pictures"),
        **{form: None if check is None else check[form] for form in ("with_image", "wrong_image", "without_image")},
        "image_gap": None if check is None else check["gap"],
        "tokens": tokens,
        "supervised_tokens": sum(values("supervised_tokens")),
        "padding_waste": 1 - tokens / computed if computed and values("padding_waste") else None,
        "tokens_per_second": statistics.median(values("tokens_per_second") or [0.0]),
        "mfu": statistics.median(values("mfu")) if values("mfu") else None,
        "peak_memory_mb": max(values("peak_memory_mb"), default=None),
        "seconds": sum(values("seconds")),
        "not_numbers": sum(loss - loss != 0 for loss in losses),  # true only for infinity and NaN
    }


def _computed_tokens(row: Row) -> float:
    """Return the tokens of a step including padding."""
    waste = row.get("padding_waste", 0.0)
    return float(row.get("tokens", 0)) / (1 - waste) if waste < 1 else 0.0


def stage_table(summaries: Sequence[Values | None], labels: Labels) -> list[tuple[str, list[str]]]:
    """Return (label, cells) for each value that at least one of the summaries has."""
    return [
        (labels[label], [_cell(None if summary is None else summary[key], kind, labels) for summary in summaries])
        for label, key, kind in TABLE
        if any(summary is not None and summary[key] is not None for summary in summaries)
    ]


def _cell(value: Any, kind: str, labels: Labels) -> str:
    """Format a number, or the dict of a gap with its interval."""
    if value is None:
        return "–"
    formats = {
        "interval": lambda: f"{value['value']:+.3f} ({value['low']:+.3f} … {value['high']:+.3f})",
        "whole": lambda: f"{value:,.0f}",
        "metric": lambda: metric(value),
        "percent": lambda: f"{100 * value:.1f} %",
        "memory": lambda: f"{value:,.0f} MB",
        "duration": lambda: duration(value, labels),
    }
    return formats[kind]()


def training_section(stages: Mapping[str, Sequence[Row]], labels: Labels) -> list[Values] | None:
    """Return for each stage its summary, plots, data sources with their losses, and warnings."""
    section = []
    for number, (stage, rows) in enumerate(stages.items(), start=1):
        name = plots.drawable(stage, f"#{number}")
        sources = _by_source(rows)
        losses = plots.loss_panel(
            [int(row["step"]) for row in rows],
            [float(row["loss"]) for row in rows],
            title=f"{name} · {drawn_label('loss', labels)}",
            axis=drawn_label("step", labels),
            validation=[(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row],
        )
        curves = {}
        if len(sources) > 1:
            curves["loss_by_source"] = [source["curve"] for source in sources if source["curve"] is not None]
        for key, label in CURVES:
            if given := [row for row in rows if row.get(key) is not None]:
                curve = plots.Curve([row["step"] for row in given], [float(row[key]) for row in given], "blue")
                curves[label] = [curve]
        panels = [losses, *(curves_panel(name, label, listed, labels) for label, listed in curves.items())]
        warnings = [(row["step"], warning) for row in rows for warning in row.get("doubts", ())]
        section.append(
            {"stage": stage, "plots": panels, "sources": sources, "warnings": warnings, **stage_summary(rows)}
        )
    return section or None


def curves_panel(stage: str, label: str, curves: Sequence[plots.Curve], labels: Labels) -> Markup:
    """Draw curves over the steps of a stage, under the label of what they show."""
    title = f"{stage} · {drawn_label(label, labels)}"
    return plots.lines_panel(curves, title=title, axis=drawn_label("step", labels))


def _by_source(rows: Sequence[Row]) -> list[Values]:
    """Return the data sources with their loss at the start and end, the one with most supervised tokens first.

    The first of them have a curve of the moving mean in a colour of its own.
    """
    by_source: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    for row in rows:
        for name, entry in row.get("by_source", {}).items():
            by_source[name].append((int(row["step"]), float(entry["loss"]), int(entry["supervised_tokens"])))
    supervised = {name: sum(tokens for _, _, tokens in points) for name, points in by_source.items()}
    sources = []
    for index, name in enumerate(sorted(by_source, key=lambda name: -supervised[name])):
        steps, losses, _ = zip(*by_source[name], strict=True)
        mean = plots.smooth(losses).tolist()
        color = plots.SERIES_COLORS[index] if index < len(plots.SERIES_COLORS) else None
        sources.append(
            {
                "name": name,
                "color": color,
                "curve": plots.Curve(steps, mean, color) if color is not None else None,
                "supervised_tokens": supervised[name],
                "share": supervised[name] / max(sum(supervised.values()), 1),
                "first": mean[0],
                "last": mean[-1],
            }
        )
    return sources
