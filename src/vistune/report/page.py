"""One HTML file from a folder: it needs no network and no script, and reads on a phone.

run folder -> sections, each from its own file if that is there -> page.html.j2 -> RUN/report.html
data folder -> the same                                        -> page.html.j2 -> DATA/report.html
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vistune.errors import DataError
from vistune.files import read_json, read_jsonl, read_text, write_atomic
from vistune.registry import lookup
from vistune.report import plots
from vistune.report.pictures import Thumbnail, spread, thumbnail
from vistune.report.wording import question_types, verb_nouns

ANSWERS, DESCRIPTIONS, SAMPLES = 20, 4, 20
SERIES = (
    plots.Series("tune", "blue"),
    plots.Series("without_image", "grey"),
    plots.Series("wrong_image", "orange"),
    plots.Series("majority", "muted", hollow=True),
)
Row = Mapping[str, Any]
Labels = Mapping[str, Any]


def write_run_report(run: Path, *, language: str = "en") -> Path:
    """Write RUN/report.html: result, training, answers with their pictures, and how to repeat it."""
    labels = _labels(language)
    summary = _json(run / "summary.json") or {}
    seed = int(summary.get("seed") or 0)
    recipe = run / "recipe.yaml"
    training = _training(run / "metrics.jsonl", labels)
    sections = {
        "summary": _summary(summary, labels) if summary else None,
        "training": training,
        "answers": _answers(run, [stage["stage"] for stage in training or ()][:-1], seed),
        "descriptions": _descriptions(run, seed),
        "run": _json(run / "run.json"),
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
    labels = _labels(language)
    folder = data if data.is_dir() else data.parent
    rows = _rows(data)
    sections = {
        "counts": _counts(data, rows),
        "spent": _spent(data),
        "lengths": _lengths(rows, labels) if rows else None,
        "questions": question_types(rows) if rows else None,
        "verb_nouns": verb_nouns(rows) if rows else None,
        "likeness": likeness,
        "samples": _samples(folder, images, rows) if rows else None,
        "rejects": _rejects(data / "rejects.jsonl") if data.is_dir() else None,
    }
    path = out or (data / "report.html" if data.is_dir() else data.with_name(f"{data.name}.report.html"))
    return _write(path, data.resolve().name, "data_title", sections, labels, language)


def _rows(data: Path) -> list[Row] | None:
    """Rows in LLaVA form; messages are turned into it, and a language is told by its letters where a row names none."""
    path = data / "samples.json" if data.is_dir() else data
    if not path.is_file():
        if data.is_dir():
            return None
        raise DataError(f"{data}: no such file", "name a data file, a folder that `generate` wrote, or a run")
    lines = path.suffix.lower() == ".jsonl" or not read_text(path).lstrip().startswith("[")
    rows: list[Row] = [row for _, row in read_jsonl(path)] if lines else read_json(path)
    return [_in_llava_form(row) for row in rows]


def _in_llava_form(row: Row) -> Row:
    conversations = row.get("conversations")
    if conversations is None:
        names = {"user": "human", "assistant": "gpt"}
        conversations = [
            {"from": names.get(message["role"], message["role"]), "value": _said(message["content"])}
            for message in row["messages"]
        ]
    image = row.get("image") or next(iter(row.get("images") or ()), None)
    answers = " ".join(turn["value"] for turn in conversations if turn["from"] == "gpt")
    language = row.get("language") or ("ko" if re.search("[가-힣]", answers) else "en" if answers.isascii() else "–")
    image = image[0] if isinstance(image, list) and image else image
    return {"kind": "–", **row, "image": image, "language": language, "conversations": conversations}


def _said(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "<image>") for part in content)


def _write(path: Path, name: str, title: str, sections: Mapping[str, Any], labels: Labels, language: str) -> Path:
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder", "name the folder that train, quickstart or generate wrote")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f} %"
    environment.filters["duration"] = lambda seconds: _duration(seconds, labels)
    environment.filters["word"] = lambda text: _word(text, labels)
    environment.filters["whole"] = lambda number: f"{number:,.0f}"
    page = environment.get_template("page.html.j2").render(
        sections=sections, t=labels, language=language, title=labels[title], name=name
    )
    write_atomic(path, page)
    return path


@cache
def _tables() -> Mapping[str, Labels]:
    tables: Mapping[str, Labels] = read_json(Path(__file__).with_name("labels.json"))
    return tables


def _labels(language: str) -> Labels:
    return lookup(language, _tables(), "report language")


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _word(text: object, labels: Labels) -> str:
    """A name or sentence that files carry, in the page's language; unknown ones as they are."""
    return str(labels["words"].get(str(text), str(text).replace("_", " ")))


def _drawn(text: str, labels: Labels, instead: str) -> str:
    """The word for a plot: in the page's language, else in English, where this machine's fonts have the letters."""
    english = plots.drawable(_word(text, _tables()["en"]), instead)
    return plots.drawable(_word(text, labels), english)


def _label(key: str, labels: Labels) -> str:
    return plots.drawable(labels[key], _tables()["en"][key])


def _duration(seconds: float, labels: Labels) -> str:
    if seconds < 60:
        return f"{seconds:.1f}{labels['second']}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "hour"), (minutes, "minute"), (rest, "second"))
    return " ".join(f"{number}{labels[unit]}" for number, unit in parts if number)


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
        (_drawn(name, labels, f"#{number}"), [shares.get(series.name) for series in SERIES])
        for number, (name, shares) in enumerate(groups.items(), start=1)
    ]
    return plots.grouped_bars(drawn, SERIES, title=_label(title, labels))


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
                    title=f"{plots.drawable(stage, f'#{number}')} · {_label('loss', labels)}",
                    axis=_label("step", labels),
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
    told = _json(run / "evals" / "descriptions.json")
    if told is None:
        return None
    texts = spread(told.get("texts") or [], DESCRIPTIONS, group=lambda row: row.get("language"), seed=seed)
    return {**told, "texts": [{**row, "thumbnail": _picture(row, run)} for row in texts]}


def _counts(data: Path, rows: Sequence[Row] | None) -> dict[str, Any] | None:
    """Samples by kind and language, of generate.json or else counted."""
    told: Row | None = _json(data / "generate.json") if data.is_dir() else None
    if told is None and rows is None:
        return None
    if told is None:
        told = {
            "counts": Counter(f"{row['kind']}/{row['language']}" for row in rows or ()),
            "images": len({row["image"] for row in rows or () if row.get("image")}),
        }
    table = {tuple(name.rpartition("/")[::2]): count for name, count in told["counts"].items()}
    return {
        "table": table,
        "kinds": sorted({kind for kind, _ in table}),
        "languages": sorted({language for _, language in table}),
        "rows": told.get("rows", sum(table.values())),
        "images": told.get("images"),
        "rejects": sum((told.get("rejects") or {}).values()),
    }


def _spent(data: Path) -> dict[str, Any] | None:
    """What a remote teacher cost and how fast it went; None where none was asked."""
    told: Row = (_json(data / "generate.json") if data.is_dir() else None) or {}
    spent = told.get("spent") or {}
    return spent if spent.get("outcomes") else None


def _lengths(rows: Sequence[Row], labels: Labels) -> list[plots.Markup]:
    """One histogram a language, over the same lengths."""
    by_language: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        for turn in row["conversations"]:
            if turn["from"] == "gpt":
                by_language[str(row.get("language", "–"))].append(len(turn["value"]))
    limit = max((max(lengths) for lengths in by_language.values()), default=1)
    return [
        plots.histogram(
            lengths,
            title=_drawn(language, labels, f"#{number}"),
            axis=_label("characters", labels),
            median=_label("median", labels),
            limit=limit,
        )
        for number, (language, lengths) in enumerate(sorted(by_language.items()), start=1)
    ]


def _boxes(path: Path) -> dict[str, list[Row]]:
    """By picture: the boxes that the teacher was shown."""
    return {str(row["image"]): row["boxes"] for _, row in read_jsonl(path)} if path.is_file() else {}


def _samples(folder: Path, images: Path | None, rows: Sequence[Row]) -> list[dict[str, Any]]:
    listed: Row = _json(folder / "images.json") or {}
    folders = [images] if images else [folder, *(folder / name for name in listed.get("folders", ()))]
    boxes = _boxes(folder / "pictures.jsonl")
    by_group: Callable[[Row], str] = lambda row: f"{row.get('kind')}/{row.get('language')}"  # noqa: E731
    return [
        {
            **row,
            "thumbnail": thumbnail(
                row["image"], [place / row["image"] for place in folders], boxes.get(row["image"], ())
            )
            if row.get("image")
            else None,
            "turns": [(turn["from"], turn["value"].replace("<image>", "").strip()) for turn in row["conversations"]],
        }
        for row in spread(rows, SAMPLES, group=by_group, seed=0)
    ]


def _rejects(path: Path) -> list[tuple[str, int, Row]] | None:
    """(reason, how many, the first of them), the most frequent first."""
    if not path.is_file():
        return None
    first: dict[str, Row] = {}
    counts: Counter[str] = Counter()
    for _, row in read_jsonl(path):
        first.setdefault(str(row["reason"]), row)
        counts[str(row["reason"])] += 1
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]
