"""Training learns, is exact however it is packed, and a killed run resumes to the same weights, bit by bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_stages import ALIGN, LORA, TUNE, MakeRecipe

from vistune import checkpoint
from vistune.console import silent
from vistune.errors import CheckpointError, RecipeError, Stopped, VistuneError
from vistune.files import read_json
from vistune.recipe import Recipe, Stage, dump
from vistune.training import Run, checkpoints_of
from vistune.training.metrics import Metrics
from vistune.training.optim import make_optimizer, rate_factor


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    Run(recipe, out, watch=silent).start(resume=resume)
    return Metrics(out / "metrics.jsonl").read()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by file and name."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found.update({f"{path.relative_to(folder)}:{name}": t for name, t in load_file(path).items()})
    return found


def test_what_can_be_memorised_is(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    fast = {"projector": 5e-3, "language": 5e-3}
    rows = train(make_recipe(ALIGN, {**TUNE, "learn": fast, "steps": 120, "save_every": None}), tmp_path / "run")
    tune = [row["loss"] for row in rows if row["stage"] == "tune"]
    assert len(tune) == 120
    assert sum(tune[-5:]) < 0.2 * sum(tune[:5])
    assert read_json(tmp_path / "run" / "run.json")["status"] == "finished"
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == ["1-align-000006", "2-tune-000120"]


def test_a_stage_changes_only_what_it_names(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(ALIGN), tmp_path / "run")
    saved = checkpoints_of(tmp_path / "run")[-1]
    assert not (saved / "language").exists()
    model, _ = checkpoint.load(saved)
    fresh = Run(make_recipe(ALIGN), tmp_path / "other", watch=silent)._model(None, [])[0]
    started = dict(fresh.language.named_parameters())
    for name, parameter in model.language.named_parameters():
        assert torch.equal(parameter, started[name]), name
    assert not torch.equal(model.projector[0].weight, fresh.projector[0].weight)


def test_rows_of_any_length_give_the_same_losses(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Accumulated over many short rows or packed into one long row: the step is the same."""
    long = train(make_recipe({**TUNE, "tokens_per_row": 2048}), tmp_path / "long")
    short = train(make_recipe({**TUNE, "tokens_per_row": 96}), tmp_path / "short")
    assert [row["supervised_tokens"] for row in long] == [row["supervised_tokens"] for row in short]
    for a, b in zip(long, short, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


WORKER = """
import sys, torch
from pathlib import Path
from vistune.console import silent
from vistune.recipe import load_recipe
from vistune.training import Run
torch.set_num_threads(1)
Run(load_recipe(sys.argv[1]), Path(sys.argv[2]), watch=silent).start(resume=sys.argv[3] == "resume")
"""


def start(recipe: Path, out: Path, mode: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(recipe), str(out), mode], env=environment)


def wait_for(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120  # against hanging: the run takes seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.005)


@pytest.mark.parametrize(("tune", "lines"), [(TUNE, 3), (TUNE, 9), (LORA, 11)], ids=["align", "tune", "lora"])
def test_a_killed_run_resumes_to_the_same_weights(
    tune: dict[str, Any], lines: int, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe({**ALIGN, "save_every": 2}, tune, workers=1)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    whole = train(recipe, tmp_path / "whole")
    process = start(tmp_path / "recipe.yaml", tmp_path / "killed", "start")
    wait_for(tmp_path / "killed" / "metrics.jsonl", lines, process)
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
    run = Run(recipe, tmp_path / "run", watch=silent)
    log = run._log

    def log_and_ask(stage: Stage, report: Any) -> None:
        log(stage, report)
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run._log = log_and_ask  # type: ignore[method-assign]
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
    with pytest.raises(RecipeError, match="holds a run already"):
        train(make_recipe(ALIGN), tmp_path / "run")


def test_another_plan_is_refused_at_resume(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe({**TUNE, "steps": 6}), tmp_path / "run")
    last = checkpoints_of(tmp_path / "run")[-1]
    for path in sorted(last.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    last.rmdir()
    with pytest.raises(CheckpointError, match="other data, batch sizes or seed"):
        train(make_recipe({**TUNE, "steps": 6}, seed=9), tmp_path / "run", resume=True)


def test_a_loss_that_is_no_number_stops_with_the_samples(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(TUNE), tmp_path / "run", watch=silent)
    model = run._model

    def poisoned(*arguments: Any) -> Any:
        made = model(*arguments)
        with torch.no_grad():
            made[0].projector[0].weight.fill_(float("nan"))
        return made

    run._model = poisoned  # type: ignore[method-assign]
    with pytest.raises(VistuneError, match=r"stage tune, step 0: loss nan.*samples \w"):
        run.start(resume=False)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rates_rise_to_the_peak_and_fall_to_nothing(schedule: str) -> None:
    factors = [rate_factor(k, steps=100, warmup=10, schedule=schedule) for k in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == 1.0 if schedule == "constant" else factors[-1] < 0.02


def test_norms_and_biases_do_not_decay(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(TUNE), tmp_path / "run", watch=silent)
    model = run._model(None, [])[0]
    model.set_learning({"projector", "language"})
    stage = Stage(name="x", learn={"projector": 1e-3, "language": 1e-4}, steps=1, weight_decay=0.1)
    groups = make_optimizer(model.parts(), stage).param_groups
    assert {(g["part"], g["lr"], g["weight_decay"]) for g in groups} == {
        ("projector", 1e-3, 0.1),
        ("projector", 1e-3, 0.0),
        ("language", 1e-4, 0.1),
        ("language", 1e-4, 0.0),
    }
    assert all((p.ndim > 1) == (g["weight_decay"] > 0) for g in groups for p in g["params"])
