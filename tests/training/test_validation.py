"""What is measured is never learnt from: splits by picture, the loss, the answers, figures from outside."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training_processes import Ranks, train_as_rank, train_killed_measuring
from training_stages import ALIGN, LORA, TUNE, MakeRecipe, train, weights

from vistune.data.stages import PlannedStage, plan_stages
from vistune.errors import DataError, RecipeError, TooManyRejects
from vistune.files import read_jsonl
from vistune.generation import Assistant
from vistune.progress import no_progress
from vistune.recipe import Recipe, dump, load_recipe
from vistune.runs.folder import MetricsLog, checkpoints_of
from vistune.training import Hooks, Run
from vistune.types import Sample

SPLIT = {"share": 0.4, "every": 2, "answers": 2, "answer_tokens": 4}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Sixty rows about thirty pictures, some of two at once, and ten of text alone."""
    rows = []
    for k in range(30):
        Image.effect_noise((32, 32), 40 + k).convert("RGB").save(tmp_path / f"m{k}.png")
    for k in range(60):
        shown = [f"m{k % 30}.png"] if k % 7 else [f"m{k % 30}.png", f"m{(k + 1) % 30}.png"]
        question = "<image>" * len(shown) + f"\nWhat is {k}?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "red"}]
        rows.append({"id": f"p{k}", "image": shown, "kind": "caption", "conversations": turns})
    for k in range(10):
        turns = [{"from": "human", "value": f"Hello {k}?"}, {"from": "gpt", "value": "네"}]
        rows.append({"id": f"t{k}", "kind": "caption", "conversations": turns})
    (tmp_path / "many.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return tmp_path / "many.json"


def planned(recipe: Recipe, tmp_path: Path) -> list[PlannedStage]:
    return plan_stages(recipe, Run(recipe, tmp_path / "never", progress=no_progress).processor, no_progress)[0]


def images(samples: Sequence[Sample]) -> set[str]:
    return {str(image.source) for sample in samples for image in sample.images}


def names(samples: Sequence[Sample]) -> set[str]:
    return {sample.id for sample in samples}


@pytest.mark.parametrize("seed", range(4))
def test_no_picture_is_on_both_sides_of_any_stage(
    seed: int, make_recipe: MakeRecipe, many: Path, tmp_path: Path
) -> None:
    """Though the second stage reads other rows of the same pictures."""
    second = {**TUNE, "data": [{"file": str(many), "take": "last 40"}]}
    recipe = make_recipe({**ALIGN, "template": "v1"}, second, data=str(many), validation={"share": 0.3}, seed=seed)
    stages = planned(recipe, tmp_path)
    learnt = set[str]().union(*(images(item.samples[:]) for item in stages))
    measured = set[str]().union(*(images(item.validation.samples[:]) for item in stages if item.validation is not None))
    assert learnt
    assert measured
    assert not learnt & measured
    for item in stages:
        assert item.validation is not None
        assert not names(item.samples[:]) & names(item.validation.samples[:])
        assert len(item.samples) + len(item.validation.samples) == (70, 40)[item.stage.name == "tune"]
    assert len(measured) == pytest.approx(9, abs=7)  # thirty, in groups


def test_pictures_of_any_held_row_are_shown_in_grey(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    """Though the first ones are text alone, and no answer is asked for."""
    rows = json.loads(data.read_text())
    texts = [{"id": f"t{k}", "kind": "caption", "conversations": [{"from": "human", "value": f"Hello {k}?"},
              {"from": "gpt", "value": "네"}]} for k in range(3)]  # fmt: skip
    (tmp_path / "held.json").write_text(json.dumps([*texts, *rows]))
    held = {"data": [{"file": str(tmp_path / "held.json"), "images": str(data.parent)}], "answers": 0}
    last = train(make_recipe({**TUNE, "steps": 2}, validation=held), tmp_path / "run")[-1]
    assert last["validation_loss_without_pictures"] != last["validation_loss"]
    held["data"] = [{"file": str(tmp_path / "held.json"), "images": str(data.parent), "take": "first 3"}]
    alone = train(make_recipe({**TUNE, "steps": 2}, validation=held), tmp_path / "text")[-1]
    assert "validation_loss_without_pictures" not in alone


def test_a_split_is_the_seeds_and_stays_when_rows_are_added(
    make_recipe: MakeRecipe, many: Path, tmp_path: Path
) -> None:
    def held(seed: int) -> set[str]:
        recipe = make_recipe({**ALIGN, "template": "v1"}, data=str(many), validation={"share": 0.3}, seed=seed)
        found = planned(recipe, tmp_path)[0].validation
        assert found is not None
        return names(found.samples[:])

    first = held(1)
    assert held(1) == first != held(2)
    rows = json.loads(many.read_text())
    more = [{**row, "id": f"again {row['id']}"} for row in rows[1:20:2]]
    many.write_text(json.dumps([*more, *rows]))
    with_more = held(1)
    assert {name for name in with_more if not name.startswith(("again", "t"))} == {n for n in first if n[0] == "p"}
    for name in (f"p{k}" for k in range(1, 20, 2)):
        assert (name in with_more) == (f"again {name}" in with_more)


def test_a_run_measures_answers_and_learns_as_if_it_did_not(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The same rows are learnt from by a run that is told of no validation: only the measuring differs."""
    rows = train(make_recipe(LORA, validation=SPLIT, seed=3), tmp_path / "run")
    silent_rows = train(make_recipe(LORA, validation={**SPLIT, "every": None, "answers": 0}, seed=3), tmp_path / "no")
    assert [row["step"] for row in rows if "validation_loss" in row] == [1, 3, 5]
    assert [row["step"] for row in rows if "validation_loss_without_pictures" in row] == [5]
    assert [row["step"] for row in silent_rows if "validation_loss" in row] == [5]
    assert [row["loss_hex"] for row in rows] == [row["loss_hex"] for row in silent_rows]
    ours, theirs = (weights(checkpoints_of(tmp_path / name)[-1]) for name in ("run", "no"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    said = [row for _, row in read_jsonl(tmp_path / "run" / "samples.jsonl")]
    assert [(row["stage"], row["step"]) for row in said] == [("tune", k) for k in (2, 2, 4, 4, 6, 6)]
    assert {row["wanted"] for row in said} <= {"red", "green", "blue", "yellow", "네"}
    assert all(isinstance(row["said"], str) and row["question"] for row in said)
    assert not (tmp_path / "no" / "samples.jsonl").exists()


def test_the_measured_loss_is_the_mean_over_the_rows_tokens(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Of rows that are learnt from all the same, by a file: a stage that learns nothing has the loss of its step."""
    still = {**TUNE, "learn": {"projector": 1e-12}, "steps": 1, "samples_per_step": 13, "save_every": None}
    recipe = make_recipe(still)
    told: list[str] = []
    again = make_recipe(still, validation={"data": str(recipe.data[0].file)})
    Run(again, tmp_path / "run", progress=no_progress, hooks=Hooks(told.append)).start(resume=False)
    (row,) = MetricsLog(tmp_path / "run" / "metrics.jsonl").read()
    assert row["validation_loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert any("12 images of the validation split are trained on too" in words for words in told)


def test_a_resumed_run_measures_and_says_the_same(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(TUNE, validation=SPLIT, seed=3)
    whole = train(recipe, tmp_path / "run")
    said = (tmp_path / "run" / "samples.jsonl").read_text()
    last = checkpoints_of(tmp_path / "run")[-1]
    for file in sorted(last.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    last.rmdir()
    resumed = train(recipe, tmp_path / "run", resume=True)
    for key in ("loss_hex", "validation_loss"):
        assert [row.get(key) for row in resumed] == [row.get(key) for row in whole]
    assert (tmp_path / "run" / "samples.jsonl").read_text() == said


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_killed_while_it_measures_goes_on_to_the_same(size: int, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """After step 4, whose line is not written yet and whose checkpoint is not begun."""
    (tmp_path / "recipe.yaml").write_text(dump(make_recipe(LORA, validation=SPLIT, seed=3)))
    given = (tmp_path / "recipe.yaml", tmp_path / "run")
    assert Ranks(train_as_rank, given[0], tmp_path / "whole", size=size).ended() == [0] * size
    ranks = Ranks(train_killed_measuring, *given, size - 1, 1, size=size)
    assert ranks.ended(within=60)[-1] == -signal.SIGKILL
    assert len(MetricsLog(tmp_path / "run" / "metrics.jsonl").read()) == 3
    assert Ranks(train_as_rank, *given, True, size=size).ended() == [0] * size
    resumed, whole = (MetricsLog(tmp_path / name / "metrics.jsonl").read() for name in ("run", "whole"))
    for key in ("step", "loss_hex", "validation_loss", "validation_loss_without_pictures"):
        assert [row.get(key) for row in resumed] == [row.get(key) for row in whole]
    assert (tmp_path / "run" / "samples.jsonl").read_text() == (tmp_path / "whole" / "samples.jsonl").read_text()
    ours, theirs = (weights(checkpoints_of(tmp_path / name)[-1]) for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_figures_from_outside_stand_beside_the_loss(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    asked: list[bool] = []

    def evaluate(assistant: Assistant, progress: object) -> dict[str, float]:
        asked.append(assistant.model.language.training)
        return {"mine.score": 0.5}

    recipe = make_recipe(TUNE, validation={"share": 0.4, "every": 3, "answers": 0}, seed=3)
    Run(recipe, tmp_path / "run", progress=no_progress, hooks=Hooks(evaluate=evaluate)).start(resume=False)
    rows = MetricsLog(tmp_path / "run" / "metrics.jsonl").read()
    assert [row.get("mine.score") for row in rows] == [None, None, 0.5, None, None, 0.5]
    assert asked == [False, False]


def test_a_benchmark_is_asked_of_the_model_in_training(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    from vistune import api

    folder = tmp_path / "questions"
    (folder / "heldout").mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(folder / "heldout" / "a.png")
    question = {"question_id": "1", "image": "a.png", "text": "Colour?", "answer": "red", "type": "c", "language": "en"}
    (folder / "questions_heldout.jsonl").write_text(json.dumps(question) + "\n")
    wanted: dict[str, Any] = {"share": 0.4, "answers": 0, "tasks": {"scenes": str(folder)}}
    api.train(make_recipe(TUNE, validation=wanted, seed=3), tmp_path / "run")
    assert MetricsLog(tmp_path / "run" / "metrics.jsonl").read()[-1]["scenes.accuracy"] in (0.0, 1.0)
    with pytest.raises(RecipeError, match=r"validation\.tasks 'scens'"):
        api.train(make_recipe(TUNE, validation={**wanted, "tasks": {"scens": "x"}}), tmp_path / "other")


def test_a_benchmark_is_asked_in_the_models_own_template(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Stage 1 learns under `plain`, which shows no question; its checkpoint is asked under the model's."""
    asked: list[tuple[str, str]] = []

    def evaluate(assistant: Any, progress: Any) -> dict[str, float]:
        asked.append((assistant.processor.spec.template, assistant.processor.spec.image_mode))
        return {}

    stage = {**ALIGN, "template": "plain", "image_mode": "pad"}
    recipe = make_recipe(stage, validation={"share": 0.4, "answers": 1})
    Run(recipe, tmp_path / "run", progress=no_progress, hooks=Hooks(evaluate=evaluate)).start(resume=False)
    assert asked == [("v1", "square")]


def test_a_dry_run_says_what_the_run_would_and_refuses_what_it_would(
    make_recipe: MakeRecipe, data: Path, tmp_path: Path
) -> None:
    from vistune import api

    source = [{"file": str(data), "take": "first 500"}]
    told: list[str] = []
    api.train(make_recipe(TUNE, data=source, seed=3), tmp_path / "run", on_message=told.append)
    (words,) = [words for words in told if "`take: first 500`" in words]
    (row,) = api.dry_run(make_recipe(TUNE, data=source, validation={"share": 0.4}))
    assert row.remarks == (words,)
    assert row.validation_samples
    lost = make_recipe(TUNE, validation={"share": 0.4, "tasks": {"scenes": str(tmp_path / "nowhere")}})
    with pytest.raises(DataError, match="nowhere"):
        api.dry_run(lost)


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ({}, "exactly one of `share` and `data`"),
        ({"share": 0.1, "data": "a.json"}, "exactly one of `share` and `data`"),
        ({"share": 0}, "greater than 0"),
        ({"share": 0.9}, "less than or equal to 0.5"),
        ({"share": 0.1, "evry": 5}, "did you mean 'every'"),
        ({"share": 0.1, "stages": ["tun"]}, "'tun' is not a stage; there are align"),
    ],
)
def test_a_wrong_validation_is_named(validation: dict[str, Any], words: str, make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=words):
        make_recipe(ALIGN, validation=validation)


def test_a_share_that_takes_nothing_or_all_is_named(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="validation has no record"):
        planned(make_recipe(ALIGN, validation={"share": 1e-9}), tmp_path)
    row = json.loads(data.read_text())[:1]
    data.write_text(json.dumps(row))
    seeds = [
        seed for seed in range(30) if _takes_all(make_recipe(ALIGN, validation={"share": 0.5}, seed=seed), tmp_path)
    ]
    assert 5 < len(seeds) < 25


def test_bad_rows_of_a_validations_own_file_are_set_aside_with_a_reason(
    make_recipe: MakeRecipe, data: Path, tmp_path: Path
) -> None:
    rows = json.loads(data.read_text())
    own = data.with_name("held.json")
    own.write_text("[\n" + ",\n".join(map(json.dumps, [*rows, {"id": "bad", "kind": "caption"}])) + "\n]\n")
    given: dict[str, Any] = {"validation": {"data": str(own)}, "on_bad_sample": "reject"}
    train(make_recipe({**ALIGN, "template": "v1"}, reject_limit=0.5, **given), tmp_path / "run")
    told = [row for _, row in read_jsonl(tmp_path / "run" / "rejects.jsonl")]
    assert [row["id"] for row in told] == ["bad"]
    assert "held.json:15" in told[0]["detail"]
    with pytest.raises(TooManyRejects, match="1 of 14 records rejected"):
        train(make_recipe({**ALIGN, "template": "v1"}, **given), tmp_path / "few")


def _takes_all(recipe: Recipe, tmp_path: Path) -> bool:
    try:
        planned(recipe, tmp_path)
    except RecipeError as error:
        return "leaves no record for training" in error.message
    return False


def test_validation_survives_a_dump(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(ALIGN, validation={"data": ["a.json"], "tasks": {"pope": "p"}, "every": 7})
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


@pytest.mark.parametrize("stage", [ALIGN, LORA, TUNE], ids=["projector", "lora", "full"])
def test_questions_are_answered_in_a_stage_that_learns_in_bf16(
    stage: dict[str, Any], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Frozen parts lie in bf16 there, what learns in fp32, and answers know no autocast."""
    recipe = make_recipe({**stage, "steps": 2, "precision": "bf16"}, validation={**SPLIT, "every": 1, "answers": 1})
    rows = train(recipe, tmp_path / "run")
    assert all("validation_loss" in row for row in rows)
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 2
