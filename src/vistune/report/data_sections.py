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
from vistune.files import read_json_if_there, read_jsonl
from vistune.records import FORMS, MARKER, ImageFolders, columns_read, open_data, read_sample
from vistune.report import plots
from vistune.report.images import spread, thumbnail
from vistune.report.labels import Labels, drawn_label, drawn_word

SAMPLES = 20
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
Row = Mapping[str, Any]


def read_rows(data: Path) -> list[Row] | None:
    """Convert records of any form to LLaVA's. If a record names no language, its letters decide.

    Raises DataError for the first bad record.
    """
    path = data / "samples.json" if data.is_dir() else data
    if not path.is_file():
        if data.is_dir():
            return None
        raise DataError(f"{data}: no such file", "name a data file, a folder that `generate` wrote, or a run")
    file = open_data(path, columns_read())
    return [_in_llava_form(record.value, record.location, file.images) for record in file.records(FORMS)]


def _in_llava_form(value: Any, location: str, inside: Path | None) -> Row:
    """`inside`: the folder of images that are inside the data file."""
    try:
        if isinstance(value, DataError):
            raise value
        if not isinstance(value, Mapping):
            raise DataError(f"{location}: a record must be an object", "see docs/reference/file-formats.md")
        sample = read_sample(value, location, ImageFolders(None), Counter())
    except DataError as error:
        raise DataError(error.message, "`vistune check` lists all faults") from None
    conversations = [
        {"from": SPEAKERS[message.role], "value": "\n".join(p if isinstance(p, str) else MARKER for p in message.parts)}
        for message in sample.messages
    ]
    answers = " ".join(message.text for message in sample.messages if message.role == "assistant")
    language = value.get("language") or ("ko" if re.search("[가-힣]", answers) else "en" if answers.isascii() else "–")
    image = str(sample.images[0].source) if sample.images else None
    if image is not None and inside is not None and (inside / image).is_file():
        image = str(inside / image)
    return {**value, "kind": sample.kind or "–", "image": image, "language": language, "conversations": conversations}


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
        if Path(name).is_absolute():  # was inside the data file; unpacked by us
            return [Path(name)]
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
