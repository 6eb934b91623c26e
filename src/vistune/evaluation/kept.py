"""What runs have kept of their evaluations, read back to be compared; no model is asked.

RUN/evals/NAME.{json, predictions.jsonl} -> Measurements -> those tasks that all runs were asked with the same questions
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune.evaluation.comparison import compare
from vistune.evaluation.measurement import Measurement
from vistune.evaluation.runner import Answered
from vistune.files import read_json, read_jsonl
from vistune.types import ImageRef, Message, Part, Question, Sample


def compare_kept(folders: Mapping[str, Path]) -> dict[str, Any]:
    """The comparison of what the folders hold, by label; without tasks where they have none in common."""
    found = {label: kept(folder) for label, folder in folders.items()}
    names = [
        name
        for name in next(iter(found.values()))
        if all(name in tasks for tasks in found.values())
        and len({_asked(tasks[name]) for tasks in found.values()}) == 1
    ]
    return compare({label: [tasks[name] for name in names] for label, tasks in found.items()})


def kept(folder: Path) -> dict[str, Measurement]:
    """By task: its result and every answer. What was kept under another name, such as a stage's, is left out."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        predictions = path.with_name(f"{path.stem}.predictions.jsonl")
        result = read_json(path)
        if isinstance(result, dict) and result.get("task") == path.stem and predictions.is_file():
            rows: dict[str, list[Answered]] = defaultdict(list)
            for _, row in read_jsonl(predictions):
                rows[row["condition"]].append(_answered(row))
            found[path.stem] = Measurement(result, dict(rows))
    return found


def _asked(measured: Measurement) -> tuple[str, ...]:
    return tuple(row.question.id for row in measured.rows["with_image"])


def _answered(row: Mapping[str, Any]) -> Answered:
    name = str(row["question_id"])
    shown = row.get("image")
    images: tuple[Part, ...] = () if shown in (None, f"question {name}") else (ImageRef(Path(str(shown))),)
    sample = Sample(name, (Message("user", (*images, str(row["prompt"]))),))
    question = Question(name, sample, str(row.get("answer", "")))
    return Answered(question, row["condition"], str(row["text"]), float(row["right"]), row.get("finish_reason", "stop"))
