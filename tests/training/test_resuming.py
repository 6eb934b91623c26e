"""A run that was killed, stopped or damaged goes on to the same weights, bit by bit, or says why it cannot."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_stages import (
    ALIGN,
    LORA,
    PLAIN_LORA,
    TUNE,
    MakeRecipe,
    ask_to_stop,
    start_process,
    train,
    wait_for_metrics,
    weights,
)

from vistune.errors import CheckpointError, RecipeError, Stopped
from vistune.files import read_json
from vistune.progress import no_progress
from vistune.recipe import dump
from vistune.runs.folder import MetricsLog, checkpoints_of
from vistune.training import Run
from vistune.training.trainer import seed_row

MUON = {**TUNE, "optimizer": "muon"}


@pytest.mark.parametrize(("tune", "lines"), [(TUNE, 3), (TUNE, 9), (LORA, 11), (PLAIN_LORA, 10), (MUON, 9)])
def test_a_killed_run_resumes_to_the_same_weights(
    tune: dict[str, Any], lines: int, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe({**ALIGN, "save_every": 2}, tune, workers=1)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    whole = train(recipe, tmp_path / "whole")
    process = start_process(tmp_path / "recipe.yaml", tmp_path / "killed", "start")
    wait_for_metrics(tmp_path / "killed" / "metrics.jsonl", lines, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert read_json(tmp_path / "killed" / "run.json")["status"] == "running"
    resumed = train(recipe, tmp_path / "killed", resume=True)
    ran, wanted = ([(r["stage"], r["step"], r["loss_hex"]) for r in rows] for rows in (resumed, whole))
    assert ran == wanted
    ours, theirs = (weights(checkpoints_of(tmp_path / run)[-1]) for run in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_resuming_a_finished_run_does_nothing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(ALIGN)
    first = train(recipe, tmp_path / "run")
    before = checkpoints_of(tmp_path / "run")
    assert train(recipe, tmp_path / "run", resume=True) == first
    assert checkpoints_of(tmp_path / "run") == before


def test_sigterm_saves_and_the_run_goes_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe({**TUNE, "save_every": None})
    run = Run(recipe, tmp_path / "run", progress=no_progress)
    ask_to_stop(run, "tune", 2)
    with pytest.raises(Stopped) as caught:
        run.start(resume=False)
    assert caught.value.exit_code == 75
    assert read_json(tmp_path / "run" / "run.json")["status"] == "preempted"
    resumed = train(recipe, tmp_path / "run", resume=True)
    whole = train(recipe, tmp_path / "whole")
    assert [row["loss_hex"] for row in resumed] == [row["loss_hex"] for row in whole]


def test_a_damaged_newest_checkpoint_is_passed_over(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe({**TUNE, "save_every": 2})
    whole = train(recipe, tmp_path / "run")
    newest = checkpoints_of(tmp_path / "run")[-1]
    (newest / "projector.safetensors").write_bytes(b"torn")
    assert [r["loss_hex"] for r in train(recipe, tmp_path / "run", resume=True)] == [r["loss_hex"] for r in whole]
    assert read_json(tmp_path / "run" / "skipped_checkpoint.json")["path"] == newest.name


def test_a_run_folder_is_never_overwritten(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(ALIGN), tmp_path / "run")
    with pytest.raises(RecipeError, match="contains a run already"):
        train(make_recipe(ALIGN), tmp_path / "run")


@pytest.fixture
def half_done(make_recipe: MakeRecipe, tmp_path: Path) -> Path:
    """A run whose newest checkpoint stands in the middle of its only stage."""
    train(make_recipe(TUNE), tmp_path / "run")
    shutil.rmtree(checkpoints_of(tmp_path / "run")[-1])
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("stage", "changes", "pattern"),
    [
        ({}, {"seed": 9}, "seed was 0, is now 9"),
        ({"learn": {"projector": 1e-3}}, {}, r"stages\.tune\.learn was .*0\.002.*, is .*0\.001"),
        ({"samples_per_step": 4}, {}, r"stages\.tune\.samples_per_step was 5, is now 4"),
        ({"name": "other"}, {}, "stages was tune, is now other"),
    ],
)
def test_a_changed_recipe_is_refused_at_resume_by_key(
    stage: dict[str, Any], changes: dict[str, Any], pattern: str, make_recipe: MakeRecipe, half_done: Path
) -> None:
    before = (half_done / "recipe.yaml").read_text()
    with pytest.raises(CheckpointError, match=pattern):
        train(make_recipe({**TUNE, **stage}, **changes), half_done, resume=True)
    assert (half_done / "recipe.yaml").read_text() == before


def test_changed_data_is_refused_at_resume(make_recipe: MakeRecipe, half_done: Path, data: Path) -> None:
    data.write_text(data.read_text().replace('"red"', '"rot"'))
    with pytest.raises(CheckpointError, match=r"another plan: .*data was"):
        train(make_recipe(TUNE), half_done, resume=True)


def test_other_rows_of_the_same_file_are_refused_at_resume(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    """Though as many and as long: the colours stand in a round of four."""
    recipes = [make_recipe(TUNE, data=[{"file": str(data), "take": take}]) for take in ("first 4", "random 4")]
    train(recipes[0], tmp_path / "run")
    shutil.rmtree(checkpoints_of(tmp_path / "run")[-1])
    with pytest.raises(CheckpointError, match=r"another plan: .*data was"):
        train(recipes[1], tmp_path / "run", resume=True)


def test_how_often_to_save_may_change_at_resume(make_recipe: MakeRecipe, half_done: Path, tmp_path: Path) -> None:
    resumed = train(make_recipe({**TUNE, "save_every": 5}, workers=1), half_done, resume=True)
    whole = train(make_recipe(TUNE), tmp_path / "whole")
    assert [row["loss_hex"] for row in resumed] == [row["loss_hex"] for row in whole]


def test_what_a_kill_left_half_written_or_half_removed_is_swept(
    make_recipe: MakeRecipe, half_done: Path, tmp_path: Path
) -> None:
    kept = checkpoints_of(half_done)
    draft = half_done / "checkpoints" / ".1-tune-000006.tmp-x"  # killed between manifest and rename
    shutil.copytree(kept[-1], draft)
    discarded = half_done / "checkpoints" / ".1-tune-000001.discarded"
    discarded.mkdir()
    (discarded / "manifest.json").write_text("{}")
    assert checkpoints_of(half_done) == kept
    train(make_recipe(TUNE), half_done, resume=True)
    assert not list((half_done / "checkpoints").glob(".*"))


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(make_recipe: MakeRecipe, half_done: Path) -> None:
    for path in checkpoints_of(half_done):
        (path / "projector.safetensors").write_bytes(b"torn")
    rows = MetricsLog(half_done / "metrics.jsonl").read()
    with pytest.raises(CheckpointError, match="all checkpoints are damaged"):
        train(make_recipe(TUNE), half_done, resume=True)
    assert MetricsLog(half_done / "metrics.jsonl").read() == rows


def test_checkpoints_stand_in_the_order_of_the_run(tmp_path: Path) -> None:
    names = ["1-a-000002", "2-b-000010", "2-b-999999", "2-b-1000000", "10-c-000001"]
    for name in reversed([*names, "mine", ".2-b-000003.tmp-x"]):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "manifest.json").write_text("{}")
    assert [path.name for path in checkpoints_of(tmp_path)] == names


def test_a_finished_run_stays_as_it_is_without_its_data_and_may_get_a_stage_more(
    make_recipe: MakeRecipe, tmp_path: Path, data: Path
) -> None:
    both = make_recipe(ALIGN, TUNE)
    whole = train(both, tmp_path / "whole")
    train(make_recipe(ALIGN), tmp_path / "run")
    content = data.read_text()
    data.unlink()
    train(make_recipe(ALIGN), tmp_path / "run", resume=True)
    assert read_json(tmp_path / "run" / "run.json")["status"] == "finished"
    data.write_text(content)
    assert [r["loss_hex"] for r in train(both, tmp_path / "run", resume=True)] == [r["loss_hex"] for r in whole]


def test_asked_to_stop_at_a_stages_last_step_the_next_one_does_not_begin(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(ALIGN, TUNE)
    run = Run(recipe, tmp_path / "run", progress=no_progress)
    ask_to_stop(run, "align", 5)
    with pytest.raises(Stopped):
        run.start(resume=False)
    told = read_json(tmp_path / "run" / "run.json")
    assert (told["status"], told["stage"], told["step"]) == ("preempted", "align", 6)
    assert {row["stage"] for row in run.metrics.read()} == {"align"}
    resumed, whole = train(recipe, tmp_path / "run", resume=True), train(recipe, tmp_path / "whole")
    assert [row["loss_hex"] for row in resumed] == [row["loss_hex"] for row in whole]


def test_chance_belongs_to_the_row_whatever_was_drawn_before() -> None:
    def draws(*place: int) -> tuple[float, list[float], list[float]]:
        seed_row(*place)
        return random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()

    wanted = draws(5, 1, 0)
    assert draws(5, 1, 0) == wanted
    assert all(draws(*place) != wanted for place in ((5, 1, 1), (5, 2, 0), (6, 1, 0)))


@pytest.mark.soak
@pytest.mark.parametrize("stage", [TUNE, LORA, PLAIN_LORA, MUON], ids=["full", "lora", "plain lora", "muon"])
def test_a_run_killed_again_and_again_ends_with_the_same_weights(
    stage: dict[str, Any], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Twenty kills at random moments, start-up and saving included, then one run to the end."""
    recipe = make_recipe({**ALIGN, "save_every": 1}, {**stage, "save_every": 1})
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    whole = train(recipe, tmp_path / "whole")
    chance = random.Random(0)
    for _ in range(20):
        begun = (tmp_path / "killed" / "run.json").exists()
        process = start_process(tmp_path / "recipe.yaml", tmp_path / "killed", "resume" if begun else "start")
        time.sleep(chance.uniform(2.0, 9.0))
        process.kill()
        process.wait()
    resumed = train(recipe, tmp_path / "killed", resume=True)
    assert [row["loss_hex"] for row in resumed] == [row["loss_hex"] for row in whole]
    ours, theirs = (weights(checkpoints_of(tmp_path / run)[-1]) for run in ("killed", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
