"""The page of a run: RUN/report.html.

Each section comes from its own files: summary.json, metrics.jsonl, evals/, samples.jsonl, run.json and recipe.yaml.
`vistune.report.gather` computes the values that need tokenizers or model configs beforehand (`RunDetails`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from vistune.files import read_json, read_json_if_there, read_jsonl, read_text
from vistune.report import plots
from vistune.report.rendering import (
    Labels,
    Row,
    Thumbnail,
    Values,
    drawn_label,
    drawn_text,
    labels_of,
    spread,
    svg_uri,
    thumbnail,
    thumbnails,
    write_page,
)
from vistune.report.training_section import read_metrics, stage_summary, stage_table, training_section

SERIES = (
    plots.Series("tune", "blue"),
    plots.Series("without_image", "grey"),
    plots.Series("wrong_image", "orange"),
    plots.Series("majority", "muted", hollow=True),
)
ANSWERS, DESCRIPTIONS, MISTAKES, CONFUSIONS = 20, 4, 12, 10  # on the page
WORST_GROUPS = 4  # groups of questions whose mistakes are shown
TABLE_METRICS = 3  # of a task in the table; all are listed below it
ANSWERS_OVER_TRAINING = 6  # per validation question


@dataclass(frozen=True, slots=True)
class RunDetails:
    """Values that the page shows in addition to the files of the run folder."""

    diagrams: Sequence[Path] = ()  # SVG files of the model and the stages
    samples: Sequence[Row] = ()  # `vistune.data.show` of some training samples, with their stage and template
    provenance: Sequence[Row] = ()  # `vistune why` as dicts, the run first
    missing: Sequence[str] = ()  # which of these are not available, and why


def write_run_report(run: Path, details: RunDetails | None = None, *, language: str = "en") -> Path:
    """Write RUN/report.html. The page begins with the result and ends with the recipe for repeating the run."""
    labels = labels_of(language)
    details = details or RunDetails()
    summary = read_json_if_there(run / "summary.json") or {}
    seed = int(summary.get("seed") or 0)
    recipe = run / "recipe.yaml"
    metrics = read_metrics(run / "metrics.jsonl")
    evaluations = read_evaluations(run)
    answers = Answers(run, evaluations, list(metrics)[:-1], seed)
    sections = {
        "summary": _summary(summary, labels) if summary else None,
        "diagrams": [(path.stem, svg_uri(path)) for path in details.diagrams],
        "training": training_section(metrics, labels),
        "training_table": stage_table([stage_summary(rows) for rows in metrics.values()], labels),
        "samples": [{**row, "thumbnails": thumbnails(row["pictures"])} for row in details.samples],
        "evaluations": evaluation_rows(evaluations),
        "over_training": answers_over_training(run),
        "answers": answers.chosen(),
        "mistakes": answers.mistakes(),
        "descriptions": descriptions(run, seed),
        "run": read_json_if_there(run / "run.json"),
        "provenance": details.provenance,
        "missing": details.missing,
        "recipe": read_text(recipe) if recipe.is_file() else None,
    }
    return write_page(run / "report.html", "run.html.j2", run.resolve().name, labels["run_title"], language, sections)


def _summary(summary: Row, labels: Labels) -> Values:
    """Return the result section of a quickstart."""
    accuracy: Row = summary.get("accuracy") or {}
    intervals: Row = summary.get("intervals") or {}
    bars = [
        {"title": labels[f"by_{tag}"], "plot": _bars(groups, f"by_{tag}", labels), "rows": groups}
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


def _bars(groups: Mapping[str, Row], title: str, labels: Labels) -> Markup:
    drawn = [
        (drawn_text(name, labels, f"#{number}"), [shares.get(series.name) for series in SERIES])
        for number, (name, shares) in enumerate(groups.items(), start=1)
    ]
    return plots.grouped_bars(drawn, SERIES, title=drawn_label(title, labels))


def read_evaluations(run: Path) -> dict[str, Row]:
    """Read the results of `evaluate` in evals/NAME.json, by name."""
    files = {path.stem: read_json(path) for path in sorted((run / "evals").glob("*.json"))}
    return {name: result for name, result in files.items() if isinstance(result, dict) and "metrics" in result}


def evaluation_rows(evaluations: Mapping[str, Row]) -> list[Values] | None:
    """Return a row for each task, with its tables by question type and language."""
    rows = []
    for name, result in evaluations.items():
        metrics = list(result["metrics"].items())
        groups = {tag: table for tag in ("type", "language") if len(table := result.get(f"by_{tag}") or {}) > 1}
        rows.append({**result, "name": name, "shown": metrics[:TABLE_METRICS], "all": metrics, "groups": groups})
    return rows or None


class Answers:
    """The model's answers with the image, and its answers to the same questions after earlier stages.

    Args:
        earlier: Names of earlier stages. A predictions file with such a name belongs to that stage. It is only used for
            comparison, unless there are no other files.
    """

    def __init__(self, run: Path, evaluations: Mapping[str, Row], earlier: Sequence[str], seed: int) -> None:
        self.run, self.seed = run, seed
        files = {
            path.name.removesuffix(".predictions.jsonl"): path
            for path in sorted((run / "evals").glob("*.predictions.jsonl"))
        }
        answers = {name: _with_image(name, path) for name, path in files.items()}
        self.tasks = {name: str(evaluations.get(name, {}).get("task", name)) for name in {*files, *earlier}}
        final = {name: rows for name, rows in answers.items() if name not in earlier}
        self.before = {
            stage: {(self.tasks[stage], row["question_id"]): row["text"] for row in answers[stage]}
            for stage in earlier
            if stage in answers and final
        }
        # Answers that a server or a judge has to score are neither right nor wrong here.
        judged = {name for name, result in evaluations.items() if not result["metrics"]}
        self.rows = [row for name, rows in (final or answers).items() if name not in judged for row in rows]

    def chosen(self) -> list[Values] | None:
        """Choose answers: half right and half wrong if there are enough, of every language in turn."""
        right, wrong = ([row for row in self.rows if bool(row.get("right")) is verdict] for verdict in (True, False))
        chosen: list[Row] = []
        for side, other in ((right, wrong), (wrong, right)):
            count = max(ANSWERS // 2, ANSWERS - len(other))
            chosen += spread(side, count, group=lambda row: row.get("language"), seed=self.seed)
        return [self._card(row) for row in chosen] or None

    def mistakes(self) -> Values | None:
        """Choose wrong answers from the groups with the largest share of them, their most frequent confusions first."""
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.rows:
            groups[row["source"], str(row.get("type", ""))].append(row)
        wrong = {key: [row for row in rows if not row.get("right")] for key, rows in groups.items()}
        worst = sorted((key for key in groups if wrong[key]), key=lambda key: -len(wrong[key]) / len(groups[key]))
        queues = []
        for key in worst[:WORST_GROUPS]:
            counts = Counter(map(_confusion, wrong[key]))
            share = {"group": key, "wrong": len(wrong[key]), "of": len(groups[key])}
            firsts = {_confusion(row): row for row in reversed(wrong[key])}  # one image per confusion
            queues.append([{**self._card(firsts[pair]), **share, "times": times}
                           for pair, times in counts.most_common(MISTAKES)])  # fmt: skip
        cards = [queue[depth] for depth in range(MISTAKES) for queue in queues if depth < len(queue)][:MISTAKES]
        cards.sort(key=lambda card: -card["wrong"] / card["of"])
        confusions = Counter(_confusion(row) for rows in wrong.values() for row in rows)
        return {"cards": cards, "confusions": confusions.most_common(CONFUSIONS)} if cards else None

    def _card(self, row: Row) -> Values:
        key = self.tasks[row["source"]], row["question_id"]
        before = [(stage, texts[key]) for stage, texts in self.before.items() if key in texts]
        return {**row, "before": before, "thumbnail": run_image(row.get("image"), self.run)}


def _with_image(name: str, path: Path) -> list[Values]:
    rows = [{"source": name, **row} for _, row in read_jsonl(path)]
    return [row for row in rows if row.get("condition", "with_image") == "with_image"]


def _confusion(row: Row) -> tuple[str, str]:
    return str(row.get("answer", "")), str(row.get("text", "")).strip()


def run_image(name: str | None, run: Path) -> Thumbnail:
    """Return the thumbnail of an image of a run, whose folder may have been moved."""
    path = Path(str(name or "–"))
    return thumbnail(str(path), (path, *moved_paths(path, run)))


def moved_paths(path: Path, run: Path) -> list[Path]:
    """Return the paths of a file of a run whose folder was moved: the last parts of its path under the run folder."""
    return [run.joinpath(*path.parts[begin:]) for begin in range(len(path.parts))]


def descriptions(run: Path, seed: int) -> Values | None:
    """Read evals/descriptions.json and choose some descriptions."""
    result = read_json_if_there(run / "evals" / "descriptions.json")
    if result is None:
        return None
    texts = spread(result.get("texts") or [], DESCRIPTIONS, group=lambda row: row.get("language"), seed=seed)
    return {**result, "texts": [{**row, "thumbnail": run_image(row.get("image"), run)} for row in texts]}


def answers_over_training(run: Path) -> list[Values] | None:
    """Return the validation questions of samples.jsonl, each with its answers from the first to the last."""
    path = run / "samples.jsonl"
    questions: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for _, row in read_jsonl(path) if path.is_file() else ():
        questions[str(row["id"]), row["question"]].append(row)
    cards = []
    for (name, question), rows in questions.items():
        every = max(1, -(-len(rows) // ANSWERS_OVER_TRAINING))
        images = [run_image(image, run) for image in rows[0].get("images", ())[:1]]
        cards.append({"id": name, "question": question, "wanted": rows[0]["wanted"],
                      "answers": [*rows[:-1:every], rows[-1]], "asked": len(rows),
                      "thumbnail": images[0] if images else None})  # fmt: skip
    return cards or None
