"""One HTML file from a folder: it needs no network and no script, and reads on a phone.

run folder -> sections, each from its own file if that is there -> page.html.j2 -> RUN/report.html
data folder -> the same                                        -> page.html.j2 -> DATA/report.html
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.files import read_json_if_there, read_jsonl, read_text, write_atomic
from vistune.report import plots
from vistune.report.data_sections import counts, length_plots, read_rows, rejects, samples, spent_on
from vistune.report.labels import Labels, drawn_label, drawn_word, labels_of
from vistune.report.pictures import Thumbnail, spread, thumbnail
from vistune.report.rendering import render
from vistune.report.wording import question_types, verb_nouns

ANSWERS, DESCRIPTIONS = 20, 4
SERIES = (
    plots.Series("tune", "blue"),
    plots.Series("without_image", "grey"),
    plots.Series("wrong_image", "orange"),
    plots.Series("majority", "muted", hollow=True),
)
Row = Mapping[str, Any]


def write_run_report(run: Path, *, language: str = "en") -> Path:
    """Write RUN/report.html: result, training, answers with their pictures, and how to repeat it."""
    labels = labels_of(language)
    summary = read_json_if_there(run / "summary.json") or {}
    seed = int(summary.get("seed") or 0)
    recipe = run / "recipe.yaml"
    training = _training(run / "metrics.jsonl", labels)
    sections = {
        "summary": _summary(summary, labels) if summary else None,
        "training": training,
        "answers": _answers(run, [stage["stage"] for stage in training or ()][:-1], seed),
        "descriptions": _descriptions(run, seed),
        "run": read_json_if_there(run / "run.json"),
        "recipe": read_text(recipe) if recipe.is_file() else None,
    }
    return _write(run / "report.html", run.resolve().name, "run_title", sections, labels, language)


def write_data_report(
    data: Path,
    *,
    out: Path | None = None,
    images: Path | None = None,
    likeness: Row | None = None,
    language: str = "en",
) -> Path:
    """The page of a folder that `generate` wrote (FOLDER/report.html), or of any file of samples (FILE.report.html).

    How many and how long, how it asks, samples with their pictures, what was set aside, and with `likeness` which
    pictures are nearly the same or in evaluation sets.
    """
    labels = labels_of(language)
    folder = data if data.is_dir() else data.parent
    rows = read_rows(data)
    sections = {
        "counts": counts(data, rows),
        "spent": spent_on(data),
        "lengths": length_plots(rows, labels) if rows else None,
        "questions": question_types(rows) if rows else None,
        "verb_nouns": verb_nouns(rows) if rows else None,
        "likeness": likeness,
        "samples": samples(folder, images, rows) if rows else None,
        "rejects": rejects(data / "rejects.jsonl") if data.is_dir() else None,
    }
    path = out or (data / "report.html" if data.is_dir() else data.with_name(f"{data.name}.report.html"))
    return _write(path, data.resolve().name, "data_title", sections, labels, language)


def _write(path: Path, name: str, title: str, sections: Mapping[str, Any], labels: Labels, language: str) -> Path:
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder", "name the folder that train, quickstart or generate wrote")
    page = render("page.html.j2", labels, sections=sections, language=language, title=labels[title], name=name)
    write_atomic(path, page)
    return path


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


def _training(path: Path, labels: Labels) -> list[dict[str, Any]] | None:
    """A panel and a line of throughput for each stage, in the order they ran."""
    if not path.is_file():
        return None
    stages: dict[str, list[Row]] = defaultdict(list)
    for row in _metrics(path):
        stages[str(row["stage"])].append(row)
    result = []
    for number, (stage, rows) in enumerate(stages.items(), start=1):
        losses = [float(row["loss"]) for row in rows]
        result.append(
            {
                "stage": stage,
                "plot": plots.loss_panel(
                    [row["step"] for row in rows],
                    losses,
                    title=f"{plots.drawable(stage, f'#{number}')} · {drawn_label('loss', labels)}",
                    axis=drawn_label("step", labels),
                ),
                "steps": len(rows),
                "not_numbers": sum(loss - loss != 0 for loss in losses),  # only infinity and NaN differ from themselves
                "tokens": sum(row.get("tokens") or 0 for row in rows),
                "supervised_tokens": sum(row.get("supervised_tokens") or 0 for row in rows),
                "tokens_per_second": statistics.median(row.get("tokens_per_second") or 0 for row in rows),
                "seconds": sum(row.get("seconds") or 0 for row in rows),
            }
        )
    return result or None


def _metrics(path: Path) -> list[Row]:
    """Rows of a run that may still be writing, or may have diverged: a torn last line is left out, NaN is kept."""
    rows: list[Row] = []
    *lines, _torn = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg}", "remove the line") from None
    return rows


def _answers(run: Path, earlier: Sequence[str], seed: int) -> list[dict[str, Any]] | None:
    """Half right and half wrong where there are that many; every language in turn.

    Files that bear the name of an `earlier` stage hold what that stage said, and are read only where there is no other.
    """
    files = {path.name.removesuffix(".predictions.jsonl"): path for path in (run / "evals").glob("*.predictions.jsonl")}
    final = {name: path for name, path in files.items() if name not in earlier}
    rows = [
        {"source": name, **row}
        for name, path in sorted((final or files).items())
        for _, row in read_jsonl(path)
        if row.get("condition", "with_image") == "with_image"
    ]
    right, wrong = ([row for row in rows if bool(row.get("right")) is verdict] for verdict in (True, False))
    half = ANSWERS // 2
    chosen: list[dict[str, Any]] = []
    for side, other in ((right, wrong), (wrong, right)):
        wanted = max(half, ANSWERS - len(other))
        chosen += spread(side, wanted, group=lambda row: row.get("language"), seed=seed)
    return [{**row, "thumbnail": _picture(row, run)} for row in chosen] or None


def _picture(row: Row, run: Path) -> Thumbnail:
    """A picture where its path says, else, as a run folder may have moved, under the run by the path's last parts."""
    path = Path(str(row.get("image") or "–"))
    tails = (run.joinpath(*path.parts[begin:]) for begin in range(len(path.parts)))
    return thumbnail(str(path), (path, *tails))


def _descriptions(run: Path, seed: int) -> dict[str, Any] | None:
    told = read_json_if_there(run / "evals" / "descriptions.json")
    if told is None:
        return None
    texts = spread(told.get("texts") or [], DESCRIPTIONS, group=lambda row: row.get("language"), seed=seed)
    return {**told, "texts": [{**row, "thumbnail": _picture(row, run)} for row in texts]}
