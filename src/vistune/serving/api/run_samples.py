"""Sample questions for the page of a quickstart model, which knows the built-in scenes only.

RUN/evals/scenes.predictions.jsonl -> questions about held-out scenes that this model answered correctly
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vistune.files import read_jsonl

SAMPLES = 3
LANGUAGES = ("en", "ko")


@dataclass(frozen=True, slots=True, eq=False)
class RunSample:
    """A held-out scene as PNG, and a question about it in each language that the model answered correctly."""

    png: bytes
    questions: Mapping[str, str]


def samples_of_run(model: Path) -> tuple[RunSample, ...] | None:
    """Return the samples of a quickstart run or of its checkpoint; None if the model was trained on something else.

    The tuple may be empty: a model of a few steps answers nothing correctly.
    """
    whole = model.resolve()
    run = whole.parents[1] if whole.parent.name == "checkpoints" else model
    if not (run / "world" / "questions_heldout.jsonl").is_file():
        return None
    answers = run / "evals" / "scenes.predictions.jsonl"
    lines = [line for _, line in read_jsonl(answers)] if answers.is_file() else []
    return tuple(_chosen(lines, run / "world" / "heldout"))


def _chosen(lines: list[dict[str, Any]], images: Path) -> Iterator[RunSample]:
    """Yield samples of different images; the English questions are of different types."""
    right: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        if line.get("condition") == "with_image" and line.get("right") == 1 and line.get("language") in LANGUAGES:
            name = Path(str(line.get("image"))).name  # the run may have been moved
            right.setdefault(name, {}).setdefault(line["language"], []).append(line)
    types: set[str] = set()
    for name, by_language in right.items():
        new = [line for line in by_language.get("en", ()) if str(line.get("type")) not in types]
        if new and by_language.get("ko") and (images / name).is_file() and len(types) < SAMPLES:
            types.add(str(new[0].get("type")))
            questions = {"en": new[0]["prompt"], "ko": by_language["ko"][0]["prompt"]}
            yield RunSample(_png(images / name), questions)


def _png(path: Path) -> bytes:
    """Return an image with the same pixels as PNG, so that the model sees what it saw in the evaluation."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
