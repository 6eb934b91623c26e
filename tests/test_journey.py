"""The whole loop on a reduced main job: every step's folder is there, the numbers hang together, each verb reruns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import vistune
from vistune import api
from vistune._quickstart import Photographs, Size, quickstart
from vistune.cli.app import app
from vistune.errors import DataError
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


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 100 images with two captions each and one or two boxes."""
    folder = tmp_path_factory.mktemp("photographs")
    names = ("dog", "cat", "car", "bird")
    rows = []
    for k in range(100):
        Image.new("RGB", (64, 48), (2 * k, 90, 255 - 2 * k)).save(folder / f"{k}.jpg")
        shown = [names[(k + n) % 4] for n in range(1 + k % 2)]
        boxes = [[name, 0.5 * n, 0.1, 0.5 * n + 0.3, 0.4] for n, name in enumerate(shown)]
        captions = [f"A {shown[0]} outside.", f"This is a {shown[0]}."]
        rows.append({"image": f"{k}.jpg", "captions": captions, "boxes": boxes if k % 3 else []})
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "mine.jsonl"


def test_own_photographs_go_through_all_steps(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    backbones = ("--vision", "builtin", "--language", "builtin")
    few = ("epochs=null", "steps=2", "samples_per_step=4")
    steps = [f"stages.{stage}.{setting}" for stage in ("align", "tune") for setting in few]
    arguments = ["quickstart", "--data", str(photographs), *backbones, "--out", str(out), "--recipe", "smol-ko"]
    done = CliRunner().invoke(app, [*arguments, *steps])
    assert done.exit_code == 0, done.output
    assert "held-out photographs" in done.stdout
    assert "colour-shape" not in done.stdout
    summary = read_json(out / "summary.json")
    assert set(summary["accuracy"]) == {"majority", "align", "tune", "without_image", "wrong_image"}
    assert "existence" in summary["by_type"]
    assert set(summary["by_language"]) == {"en", "ko"}
    assert "descriptions" not in summary
    trained = {row["image"] for row in read_json(out / "data" / "samples.json")}
    held = {row["image"] for row in read_json(out / "data" / "held_out.json")}
    assert len(held) == 10
    assert not trained & held
    recipe = (out / "recipe.yaml").read_text(encoding="utf-8")
    assert "held_out.json" in recipe
    assert "name: smol-ko" in recipe
    checks = [line for line in (out / "metrics.jsonl").read_text().splitlines() if "blind_check" in line]
    assert len(checks) == 2
    shown = Path(done.stdout.replace("\n", "").split("--image ")[1])
    assert shown.is_file()
    assert shown.name in held
    again = CliRunner().invoke(app, arguments)
    assert "contains a run already" in str(again.exception)


def test_photographs_without_a_question_end_before_training(tmp_path: Path) -> None:
    for k in range(40):
        Image.new("RGB", (40, 40), (6 * k, 0, 0)).save(tmp_path / f"{k}.jpg")
    rows = [{"image": f"{k}.jpg", "captions": ["A view.", "Scenery."]} for k in range(40)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    mine = Photographs(tmp_path / "mine.jsonl", vision="builtin", language_model="builtin", held_out=0.3)
    with pytest.raises(DataError, match="give no question about the held-out photographs"):
        quickstart(tmp_path / "run", photographs=mine)
    assert not (tmp_path / "run" / "run.json").exists()


def test_options_for_photographs_need_data() -> None:
    done = CliRunner().invoke(app, ["quickstart", "--vision", "tower", "--labels", "labels.yaml"])
    assert "--vision, --labels: only used with --data" in str(done.exception)
