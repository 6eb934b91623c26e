"""Folders as a run and `generate` leave them, with made-up numbers: what a report is given to read."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from vistune.files import write_json, write_jsonl

TYPES = ("colour", "shape", "existence", "count", "position", "size", "comparison", "removal")
QUESTIONS = {
    "en": ("What colour is the star?\nAnswer with a word or phrase.", "blue", "orange"),
    "ko": ("별은 무슨 색인가요?\n단어나 짧은 구로 답하세요.", "파란색", "주황색"),
}
SCRIPT = "<script>alert(1)</script>"


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (448, 336), "white")
    box = (40 + 12 * number % 200, 60, 180 + 12 * number % 200, 200)
    ImageDraw.Draw(image).ellipse(box, fill=("blue", "orange", "purple", "green")[number % 4])
    image.save(path)


def _metrics(folder: Path) -> None:
    chance = random.Random(0)
    rows = []
    for stage, steps, first, last in (("align", 120, 4.2, 1.6), ("tune", 300, 1.9, 0.21)):
        for step in range(steps):
            loss = last + (first - last) * math.exp(-6 * step / steps) + chance.gauss(0, 0.06) * last
            rows.append(
                {
                    "step": step,
                    "stage": stage,
                    "loss": abs(loss),
                    "learning_rate": 1e-3,
                    "gradient_norm": 1.0,
                    "tokens": 4000,
                    "supervised_tokens": 900,
                    "tokens_per_second": 5200 + chance.gauss(0, 200),
                    "seconds": 0.77,
                }
            )
    write_jsonl(folder / "metrics.jsonl", rows)


def _summary(folder: Path) -> None:
    chance = random.Random(1)

    def shares() -> dict[str, float]:
        return {
            "tune": chance.uniform(0.8, 1),
            "without_image": chance.uniform(0.2, 0.5),
            "wrong_image": chance.uniform(0.2, 0.5),
            "majority": chance.uniform(0.2, 0.5),
        }

    accuracy = {
        "majority": 0.381,
        "align": 0.352,
        "tune": 0.914,
        "without_image": 0.402,
        "wrong_image": 0.377,
        "heldout_combinations": 0.843,
    }
    write_json(
        folder / "summary.json",
        {
            "accuracy": accuracy,
            "by_type": {kind: shares() for kind in TYPES},
            "by_language": {language: shares() for language in ("en", "ko")},
            "descriptions": {"recall": 0.83, "precision": 0.88},
            "gap": {
                "value": 0.512,
                "low": 0.47,
                "high": 0.55,
                "against": "without_image",
                "words": "the image helps: the 95 % interval of the gain is above zero",
            },
            "intervals": {
                name: {"value": share, "low": share - 0.03, "high": share + 0.03, "count": 1600}
                for name, share in accuracy.items()
                if name != "majority"
            },
            "seconds": {"draw": 4.1, "generate": 1.3, "train": 371.5, "evaluate": 48.0},
            "peak_memory_mb": 1843.2,
            "seed": 0,
        },
    )


def _predictions(folder: Path) -> None:
    rows = []
    for number in range(120):
        language = ("en", "ko")[number % 2]
        prompt, right, wrong = QUESTIONS[language]
        image = folder / "world" / "heldout" / f"{number // 4:012d}.jpg"
        draw(image, number // 4)
        for condition in ("with_image", "without_image"):
            good = number % 5 != 0
            rows.append(
                {
                    "question_id": f"{number}",
                    "prompt": prompt,
                    "text": right if good else f"{wrong} {SCRIPT}",
                    "answer": right,
                    "right": good,
                    "condition": condition,
                    "image": str(image),
                    "type": TYPES[number % 8],
                    "language": language,
                }
            )
    write_jsonl(folder / "evals" / "scenes.predictions.jsonl", rows)
    before = [{**row, "text": "what stage 1 said", "right": False} for row in rows]
    write_jsonl(folder / "evals" / "align.predictions.jsonl", before)
    texts = [
        {"image": rows[4 * number]["image"], "language": language, "text": text}
        for number in range(6)
        for language, text in (
            ("en", "There are two things: a large blue circle at the left and a small orange star below it."),
            ("ko", "큰 파란색 원이 왼쪽에 있고 그 아래에 작은 주황색 별이 있습니다."),
        )
    ]
    write_json(folder / "evals" / "descriptions.json", {"recall": 0.83, "precision": 0.88, "texts": texts})


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "quickstart")


def write_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: quickstart\nstages:\n  - {name: align}\n  - {name: tune}\n")
    write_json(
        folder / "run.json",
        {
            "status": "finished",
            "stage": "tune",
            "step": 300,
            "reason": "",
            "versions": {"python": "3.12.1", "torch": "2.13.0"},
            "data": {"data/samples.json": "9f" * 32},
            "device": "cpu",
        },
    )
    _metrics(folder)
    _summary(folder)
    _predictions(folder)
    return folder


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def write_data(folder: Path) -> Path:
    rows = []
    turns: dict[str, Callable[[int], str]] = {
        "en": lambda n: "A large blue circle is at the left. " * (1 + n % 5),
        "ko": lambda n: "왼쪽에 큰 파란색 원이 있습니다. " * (1 + n % 4),
    }
    for number in range(60):
        draw(folder.parent / "world" / f"{number}.jpg", number)
        for language, say in turns.items():
            for kind in ("caption", "detail"):
                rows.append(
                    {
                        "id": f"{number}-{kind}-{language}",
                        "image": f"{number}.jpg",
                        "kind": kind,
                        "language": language,
                        "conversations": [
                            {"from": "human", "value": f"<image>\n{QUESTIONS[language][0]}"},
                            {"from": "gpt", "value": say(number)},
                        ],
                    }
                )
    rejects = [
        {"id": f"{n}-reasoning-en", "origin": f"{n}.jpg", "reason": reason, "detail": f"{reason} {SCRIPT}"}
        for n, reason in enumerate(["too_little_known"] * 7 + ["image_marker"] * 2)
    ]
    write_json(folder / "samples.json", rows)
    write_json(folder / "images.json", {"folders": ["../world"]})
    counts = {f"{kind}/{language}": 60 for kind in ("caption", "detail") for language in ("en", "ko")}
    told = {"rows": len(rows), "images": 60, "counts": counts, "rejects": {"too_little_known": 7, "image_marker": 2}}
    write_json(folder / "generate.json", told)
    write_jsonl(folder / "rejects.jsonl", rejects)
    return folder
