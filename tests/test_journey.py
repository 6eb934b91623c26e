"""The whole loop on a reduced main job: every step's folder is there, the numbers hang together, each verb reruns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vistune
from vistune import api
from vistune._quickstart import Size, quickstart
from vistune.files import read_json

SMALL = Size(scenes=60, tests=20, blind_questions=40, descriptions=4)
FEW_STEPS = ["stages.align.steps=3", "stages.tune.steps=6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("journey") / "run"
    quickstart(out, size=SMALL, overrides=FEW_STEPS)
    return out


def test_the_summary_has_its_numbers(run: Path) -> None:
    summary: dict[str, Any] = read_json(run / "summary.json")
    assert set(summary["accuracy"]) == {
        "majority",
        "align",
        "tune",
        "without_image",
        "wrong_image",
        "heldout_combinations",
    }
    assert all(0 <= value <= 1 for value in summary["accuracy"].values())
    assert set(summary["by_language"]) == {"en", "ko"}
    assert len(summary["by_type"]) == 8
    assert set(summary["seconds"]) == {"draw", "generate", "check", "train", "evaluate", "report"}
    assert summary["peak_memory_mb"] > 100


def test_every_step_left_its_folder(run: Path) -> None:
    for name in (
        "world/annotations/instances_train.json",
        "world/questions_heldout.jsonl",
        "data/samples.json",
        "data/messages.jsonl",
        "data/report.html",
        "recipe.yaml",
        "metrics.jsonl",
        "evals/scenes.json",
        "evals/scenes.predictions.jsonl",
        "evals/descriptions.json",
        "report.html",
    ):
        assert (run / name).is_file(), name
    assert read_json(run / "run.json")["status"] == "finished"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in steps] == ["align"] * 3 + ["tune"] * 6


def test_a_step_runs_alone_from_what_the_one_before_left(run: Path) -> None:
    """The scores are those of the first time: the same seed on the same machine gives the same numbers."""
    first = read_json(run / "evals" / "scenes.json")
    again = api.evaluate(run, task="scenes", data=run / "world", blind_limit=SMALL.blind_questions)
    tree = again.to_dict()
    assert tree["metrics"] == first["metrics"]
    assert tree["gap"] == first["gap"]
    assert api.write_report(run) == run / "report.html"


def test_the_same_seed_trains_the_same_model(run: Path, tmp_path: Path) -> None:
    from vistune.recipe import load_recipe

    recipe = load_recipe("quickstart", [f"data={run / 'data'}", *FEW_STEPS])
    api.train(recipe, tmp_path / "again")
    losses = [
        [json.loads(line)["loss_hex"] for line in (folder / "metrics.jsonl").open()]
        for folder in (run, tmp_path / "again")
    ]
    assert losses[0] == losses[1]


def test_it_answers_in_english_and_korean(run: Path) -> None:
    assistant = vistune.load(run)
    image = next(iter(sorted((run / "world" / "heldout").glob("*.jpg"))))
    for question in ("What is in the picture?", "그림에 무엇이 있나요?"):
        answer = assistant.ask(image, question, max_tokens=30)
        assert isinstance(answer, str)
        assert answer == "".join(assistant.stream(image, question, max_tokens=30))
