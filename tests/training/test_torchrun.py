"""Test the documented command `torchrun … -m vistune train` when its launcher is killed, stopped or restarted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_stages import LORA, TUNE, MakeRecipe, weights

from vistune.errors import RecipeError
from vistune.files import Lock, read_json
from vistune.recipe import dump
from vistune.runs.folder import MetricsLog, checkpoints_of

DEADLINE = 300  # seconds, against hanging


def launch(recipe: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "-m", "vistune", "train", str(recipe), "--out", str(out)], env=environment)


def until(done: Callable[[], bool], what: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < DEADLINE, f"{what} is not so after {DEADLINE} s"
        time.sleep(0.01)
    return time.monotonic() - began


def lines(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def workers_of(launcher: subprocess.Popen[bytes]) -> list[int]:
    children = Path(f"/proc/{launcher.pid}/task").glob("*/children")
    return [int(pid) for path in children for pid in path.read_text().split()]


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.fixture
def write(make_recipe: MakeRecipe, tmp_path: Path) -> Callable[..., Path]:
    def write(*stages: dict[str, Any], **changes: Any) -> Path:
        (tmp_path / "recipe.yaml").write_text(dump(make_recipe(*stages, **changes)))
        return tmp_path / "recipe.yaml"

    return write


def is_free(lock: Path) -> bool:
    try:
        Lock(lock).release()
    except RecipeError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word on a parent's death is Linux'")
def test_a_killed_launcher_leaves_no_process_and_no_lock(write: Callable[..., Path], tmp_path: Path) -> None:
    launcher = launch(write({**TUNE, "steps": 5000, "save_every": 100}), tmp_path / "run")
    until(lambda: lines(tmp_path / "run") > 2, "the third step")
    workers = workers_of(launcher)
    assert len(workers) == 2
    launcher.kill()
    launcher.wait()
    seconds = until(lambda: not any(map(is_there, workers)), "the end of all processes")
    # A process is told dead when its first thread is; the kernel closes its files with the last.
    seconds += until(lambda: is_free(tmp_path / "run" / "run.lock"), "the end of the lock")
    assert seconds < 25  # five times what is promised: other work runs beside
    assert read_json(tmp_path / "run" / "run.json")["status"] == "running"


@pytest.mark.soak
@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_to_the_launcher_is_a_clean_stop(write: Callable[..., Path], tmp_path: Path, times: int) -> None:
    recipe = write({**TUNE, "steps": 5000, "save_every": None}, parallel="fsdp")
    launcher = launch(recipe, tmp_path / "run")
    until(lambda: lines(tmp_path / "run") > 2, "the third step")
    for _ in range(times):
        launcher.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert launcher.wait(DEADLINE) != 0
    print(f"ended {time.monotonic() - began:.1f} s after {times} SIGTERM")
    told = read_json(tmp_path / "run" / "run.json")
    assert told["status"] == "preempted"
    assert lines(tmp_path / "run") == told["step"]
    assert len(checkpoints_of(tmp_path / "run")) == 1


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["start", "step", "save"])
def test_a_killed_process_is_started_again_by_the_launcher(
    write: Callable[..., Path], tmp_path: Path, moment: str
) -> None:
    recipe = write({**LORA, "steps": 60, "save_every": 3}, keep_checkpoints=50)
    assert launch(recipe, tmp_path / "whole").wait(DEADLINE) == 0
    out = tmp_path / "run"
    launcher = launch(recipe, out, "--max-restarts", "1")
    reached = {
        "start": lambda: len(workers_of(launcher)) == 2,
        "step": lambda: lines(out) > 4,
        "save": lambda: lines(out) > 4 and any((out / "checkpoints").glob(".*")),
    }
    until(reached[moment], moment)
    os.kill(workers_of(launcher)[0 if moment == "save" else 1], signal.SIGKILL)
    assert launcher.wait(DEADLINE) == 0
    ran, wanted = ([(r["step"], r["loss_hex"]) for r in MetricsLog(run / "metrics.jsonl").read()]
                   for run in (out, tmp_path / "whole"))  # fmt: skip
    assert ran == wanted
    ours, theirs = (weights(checkpoints_of(run)[-1]) for run in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
