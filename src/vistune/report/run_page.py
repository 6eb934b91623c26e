"""The page of a run: RUN/report.html.

run folder + what was gathered about it (pictures, samples, lineage) -> sections, each if its file is there -> the page
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistune.files import read_json_if_there, read_text
from vistune.report import plots
from vistune.report.evaluation_sections import Answers, descriptions, evaluations, over_training, results
from vistune.report.images import svg_uri, thumbnail
from vistune.report.labels import Labels, drawn_label, drawn_word, labels_of
from vistune.report.page import write_page
from vistune.report.training_section import read_metrics, training_section

SERIES = (
    plots.Series("tune", "blue"),
    plots.Series("without_image", "grey"),
    plots.Series("wrong_image", "orange"),
    plots.Series("majority", "muted", hollow=True),
)
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a page shows beyond the run folder, found out by whoever may load tokenizers and configs.

    `images`: SVG files of model and stages · `samples`: {stage, template, id, origin, kind, tokens, learnt, pieces:
    [(learnt, text)], pictures: files} · `lineage`: as `vistune why` has it, the run first · `missing`: what of these
    is not there, and why.
    """

    images: Sequence[Path] = ()
    samples: Sequence[Row] = ()
    lineage: Sequence[Row] = ()
    missing: Sequence[str] = field(default=())


def write_run_report(run: Path, gathered: Gathered | None = None, *, language: str = "en") -> Path:
    """Write RUN/report.html: result, model, training, data, evaluations, answers, mistakes, and how to repeat it."""
    labels = labels_of(language)
    gathered = gathered or Gathered()
    summary = read_json_if_there(run / "summary.json") or {}
    seed = int(summary.get("seed") or 0)
    recipe = run / "recipe.yaml"
    stages = read_metrics(run / "metrics.jsonl")
    found = results(run)
    answers = Answers(run, found, list(stages)[:-1], seed)
    sections = {
        "summary": _summary(summary, labels) if summary else None,
        "pictures": [(path.stem, svg_uri(path)) for path in gathered.images],
        "training": training_section(stages, labels),
        "learnt": [
            {**row, "thumbnails": [thumbnail(Path(str(file)).name, [Path(str(file))]) for file in row["pictures"]]}
            for row in gathered.samples
        ],
        "evaluations": evaluations(found),
        "over_training": over_training(run),
        "answers": answers.shown(),
        "mistakes": answers.mistakes(),
        "descriptions": descriptions(run, seed),
        "run": read_json_if_there(run / "run.json"),
        "lineage": gathered.lineage,
        "missing": gathered.missing,
        "recipe": read_text(recipe) if recipe.is_file() else None,
    }
    return write_page(run / "report.html", "run.html.j2", run.resolve().name, labels["run_title"], language, sections)


def _summary(summary: Row, labels: Labels) -> dict[str, Any]:
    accuracy: Row = summary.get("accuracy") or {}
    intervals: Row = summary.get("intervals") or {}
    bars = [
        {"title": labels[f"by_{tag}"], "plot": _bars(summary[f"by_{tag}"], f"by_{tag}", labels), "rows": groups}
        for tag in ("type", "language")
        if (groups := summary.get(f"by_{tag}"))
    ]
    return {
        "tune": accuracy.get("tune"),
        "gap": summary.get("gap"),
        "rows": [(name, share, intervals.get(name)) for name, share in accuracy.items() if share is not None],
        "series": SERIES,
        "bars": bars,
        "seconds": summary.get("seconds") or {},
        "peak_memory_mb": summary.get("peak_memory_mb"),
        "seed": summary.get("seed"),
    }


def _bars(groups: Mapping[str, Row], title: str, labels: Labels) -> plots.Markup:
    drawn = [
        (drawn_word(name, labels, f"#{number}"), [shares.get(series.name) for series in SERIES])
        for number, (name, shares) in enumerate(groups.items(), start=1)
    ]
    return plots.grouped_bars(drawn, SERIES, title=drawn_label(title, labels))
