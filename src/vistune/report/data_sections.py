"""What the page of a data folder says: how many and how long, samples with their pictures, what was set aside.

samples.json, generate.json, pictures.jsonl, rejects.jsonl · or any file of samples -> one section each
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.files import read_json, read_json_if_there, read_jsonl, read_text
from vistune.report import plots
from vistune.report.labels import Labels, drawn_label, drawn_word
from vistune.report.pictures import spread, thumbnail

SAMPLES = 20
Row = Mapping[str, Any]


def read_rows(data: Path) -> list[Row] | None:
    """Rows in LLaVA form; messages are turned into it, and a language is told by its letters where a row names none."""
    path = data / "samples.json" if data.is_dir() else data
    if not path.is_file():
        if data.is_dir():
            return None
        raise DataError(f"{data}: no such file", "name a data file, a folder that `generate` wrote, or a run")
    lines = path.suffix.lower() == ".jsonl" or not read_text(path).lstrip().startswith("[")
    rows = list(read_jsonl(path) if lines else enumerate(read_json(path)))
    return [_in_llava_form(row, f"{path}:{number}" if lines else f"{path}: [{number}]") for number, row in rows]


def _in_llava_form(row: Row, place: str) -> Row:
    names = {"user": "human", "assistant": "gpt"}
    try:
        conversations = row.get("conversations")
        if conversations is None:
            conversations = [
                {"from": names.get(message["role"], message["role"]), "value": _said(message["content"])}
                for message in row["messages"]
            ]
        image = row.get("image") or next(iter(row.get("images") or ()), None)
        image = image[0] if isinstance(image, list) and image else image
        if image is not None and not isinstance(image, str):
            raise TypeError("image is no path")
        said = [(turn["from"], turn["value"].strip()) for turn in conversations]
        answers = " ".join(value for speaker, value in said if speaker == "gpt")
    except (LookupError, TypeError, AttributeError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{place}: no conversation is in this row ({fault})", "`vistune check` lists all faults"
        ) from None
    language = row.get("language") or ("ko" if re.search("[가-힣]", answers) else "en" if answers.isascii() else "–")
    return {"kind": "–", **row, "image": image, "language": language, "conversations": conversations}


def _said(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "<image>") for part in content)


def counts(data: Path, rows: Sequence[Row] | None) -> dict[str, Any] | None:
    """Samples by kind and language, of generate.json or else counted."""
    told: Row | None = read_json_if_there(data / "generate.json") if data.is_dir() else None
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


def spent_on(data: Path) -> dict[str, Any] | None:
    """What a remote teacher cost and how fast it went; None where none was asked."""
    told: Row = (read_json_if_there(data / "generate.json") if data.is_dir() else None) or {}
    spent = told.get("spent") or {}
    return spent if spent.get("outcomes") else None


def length_plots(rows: Sequence[Row], labels: Labels) -> list[plots.Markup]:
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
            title=drawn_word(language, labels, f"#{number}"),
            axis=drawn_label("characters", labels),
            median=drawn_label("median", labels),
            limit=limit,
        )
        for number, (language, lengths) in enumerate(sorted(by_language.items()), start=1)
    ]


def _boxes(path: Path) -> dict[str, list[Row]]:
    """By picture: the boxes that the teacher was shown."""
    return {str(row["image"]): row["boxes"] for _, row in read_jsonl(path)} if path.is_file() else {}


def _inside(folders: Sequence[Path], name: str) -> list[Path]:
    """Where a picture may lie; what leads out of a picture folder is not shown, as it is not learnt."""
    try:
        return [place / name for place in folders if (place / name).resolve().is_relative_to(place.resolve())]
    except (OSError, ValueError, RuntimeError):  # no path at all, or a link to itself
        return []


def samples(folder: Path, images: Path | None, rows: Sequence[Row]) -> list[dict[str, Any]]:
    listed: Row = read_json_if_there(folder / "images.json") or {}
    folders = [images] if images else [folder, *(folder / name for name in listed.get("folders", ()))]
    boxes = _boxes(folder / "pictures.jsonl")

    def by_group(row: Row) -> str:
        return f"{row.get('kind')}/{row.get('language')}"

    return [
        {
            **row,
            "thumbnail": thumbnail(row["image"], _inside(folders, row["image"]), boxes.get(row["image"], ()))
            if row.get("image")
            else None,
            "turns": [(turn["from"], turn["value"].replace("<image>", "").strip()) for turn in row["conversations"]],
        }
        for row in spread(rows, SAMPLES, group=by_group, seed=0)
    ]


def rejects(path: Path) -> list[tuple[str, int, Row]] | None:
    """(reason, how many, the first of them), the most frequent first."""
    if not path.is_file():
        return None
    first: dict[str, Row] = {}
    counts: Counter[str] = Counter()
    for _, row in read_jsonl(path):
        first.setdefault(str(row["reason"]), row)
        counts[str(row["reason"])] += 1
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]
