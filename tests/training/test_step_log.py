"""What a user sees of a stage: its parameter table, its metrics, and warnings when something looks wrong."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from training_stages import ALIGN, LORA, TUNE, MakeRecipe, ask_to_stop, train

from vistune.errors import RecipeError, Stopped
from vistune.progress import no_progress
from vistune.runs.folder import MetricsLog
from vistune.training import Hooks, Run, step_log
from vistune.training.step_log import TRACKERS, refuse_missing


def test_a_table_says_what_learns_at_which_rate(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    told: list[str] = []
    stage = {**LORA, "weight_decay": 0.1, "steps": 2, "save_every": None}
    Run(make_recipe(ALIGN, stage), tmp_path / "run", progress=no_progress, hooks=Hooks(told.append)).start(resume=False)
    tables = [words for words in told if "parameters" in words]  # beside the price of kept features
    align, tune = ([line.split() for line in words.splitlines()[:-1]] for words in tables)
    assert all(words.splitlines()[-1].startswith("MFU is over ") for words in tables)
    assert align[0] == ["stage", "align"]
    assert align[1] == ["part", "parameters", "learn", "rate", "decay"]
    size = 32 * 48 + 48 + 48 * 48 + 48
    assert ["projector", f"{size:,}", f"{size:,}", "0.003", "0"] in align
    assert [line[2] for line in align[2:]] == ["frozen", f"{size:,}", "frozen"]
    assert {line[0]: line[2:] for line in tune[2:]}["projector"] == [f"{size:,}", "0.002", "0.1/0"]
    adapters = {line[0]: line[1:] for line in tune[2:]}["adapters"]
    assert adapters[0] == adapters[1] != "frozen"
    assert adapters[2:] == ["0.005", "0.1"]  # matrices alone


def test_each_step_tells_its_shares_and_what_it_took(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = train(make_recipe(TUNE), tmp_path / "run")
    for row in rows:
        assert row["supervised_share"] == row["supervised_tokens"] / row["tokens"]
        assert row["padding_waste"] == 0
        assert 0 < row["mfu"] < 1.5  # of a peak that was measured on other sizes
        assert row["peak_gflops"] > 1
        assert row["peak_memory_mb"] > 50


def test_a_resumed_run_doubts_what_it_would_have_doubted(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    still = {**ALIGN, "learn": {"projector": 1e-12}, "steps": 52, "samples_per_step": 13, "save_every": 40}
    recipe = make_recipe(still)
    torch.set_num_threads(1)
    doubts = []
    for resume in (False, True):
        run = Run(recipe, tmp_path / "run", progress=no_progress)
        if not resume:
            ask_to_stop(run, "align", 39)
        with nullcontext() if resume else pytest.raises(Stopped):
            run.start(resume=resume)
        doubts.append([row["step"] for row in MetricsLog(tmp_path / "run" / "metrics.jsonl").read() if "doubts" in row])
    assert doubts == [[], [49]]


def test_doubts() -> None:
    assert step_log.constant_loss([2.3] * 50) is not None
    assert step_log.constant_loss([2.3] * 49) is None
    assert step_log.constant_loss([*[9.0] * 50, *[2.3 - 0.001 * k for k in range(50)]]) is None
    falling = [3.0 - 0.02 * k for k in range(100)]
    assert step_log.exploding_loss(falling) is None
    assert step_log.exploding_loss([*falling, *[9.0] * 10]) is not None
    assert step_log.exploding_loss([*falling, *[2.0] * 10]) is None  # a hard stretch, below where it began
    assert step_log.exploding_loss([*falling, 90.0]) is not None
    assert step_log.unsupervised_step(0, 7) is not None
    assert step_log.unsupervised_step(1, 7) is None
    assert step_log.blind_model({"validation_loss": 1.0, "validation_loss_without_pictures": 1.005}) is not None
    assert step_log.blind_model({"validation_loss": 1.0, "validation_loss_without_pictures": 1.2}) is None


def test_a_loss_that_stands_still_is_said_once(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    told: list[str] = []
    still = {**ALIGN, "learn": {"projector": 1e-12}, "steps": 60, "samples_per_step": 13, "schedule": "constant"}
    Run(make_recipe(still), tmp_path / "run", progress=no_progress, hooks=Hooks(told.append)).start(resume=False)
    said = [words for words in told if "the loss has been" in words]
    assert len(said) == 1
    assert said[0].startswith("stage align, step 49: the loss has been")
    rows = MetricsLog(tmp_path / "run" / "metrics.jsonl").read()
    assert [row["step"] for row in rows if "doubts" in row] == [49]


def test_tensorboard_holds_what_metrics_hold(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = train(make_recipe(ALIGN, TUNE, track="tensorboard"), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for stage in ("align", "tune"):
        for key in ("loss", "learning_rate", "mfu", "supervised_share"):
            wanted = [(row["step"], pytest.approx(row[key], rel=1e-5)) for row in rows if row["stage"] == stage]
            assert [(event.step, event.value) for event in events.Scalars(f"{stage}/{key}")] == wanted


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_done(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    missing = [name for name in TRACKERS if find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    with pytest.raises(RecipeError, match=rf"track: {missing[0]} is not installed. Fix: pip install {missing[0]}"):
        train(make_recipe(ALIGN, track=missing), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    refuse_missing(())
