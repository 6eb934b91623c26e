"""Stages of the training tests, small enough for seconds, a recipe over tiny backbones, and what a checkpoint holds."""

from __future__ import annotations

import json
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
from PIL import Image
from safetensors.torch import load_file

from vistune.files import read_json
from vistune.progress import no_progress
from vistune.recipe import Recipe, validate
from vistune.runs.folder import MetricsLog, checkpoints_of
from vistune.training import Run

MakeRecipe = Callable[..., Recipe]

ALIGN: dict[str, Any] = {
    "name": "align",
    "template": "plain",
    "learn": {"projector": 3e-3},
    "steps": 6,
    "samples_per_step": 5,
}
TUNE: dict[str, Any] = {
    "name": "tune",
    "learn": {"projector": 2e-3, "language": 2e-3},
    "steps": 6,
    "samples_per_step": 5,
    "save_every": 2,
}
LORA: dict[str, Any] = {
    "name": "tune",
    "learn": {"projector": 2e-3, "adapters": 5e-3},
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    "steps": 6,
    "samples_per_step": 5,
    "save_every": 2,
}
# Adapters without dropout; `auto` would be bf16 on some CPUs.
PLAIN_LORA: dict[str, Any] = {**LORA, "lora": {"rank": 8, "alpha": 16}, "precision": "fp32"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = []
    for k, color in enumerate([(220, 30, 30), (30, 200, 40), (40, 60, 220), (240, 220, 40)] * 3):
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{k}.png")
        answer = ("red", "green", "blue", "yellow")[k % 4]
        turns = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": answer}]
        row: dict[str, Any] = {"id": str(k), "image": f"{k}.png", "kind": "caption", "conversations": turns}
        rows.append(row)
    rows.append({"id": "text", "kind": "caption", "conversations": turns_without_image()})
    (tmp_path / "data.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return tmp_path / "data.json"


def turns_without_image() -> list[dict[str, str]]:
    return [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "네"}]


@pytest.fixture
def make_recipe(tiny_backbones: Path, data: Path) -> MakeRecipe:
    def make(*stages: dict[str, Any], **changes: Any) -> Recipe:
        model = {"vision": str(tiny_backbones / "vision"), "language": str(tiny_backbones / "language")}
        return validate({"model": model, "data": str(data), "stages": list(stages), **changes}, "test")

    return make


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    Run(recipe, out, progress=no_progress).start(resume=resume)
    return MetricsLog(out / "metrics.jsonl").read()


def ask_to_stop(run: Run, stage: str, step: int) -> None:
    """SIGTERM reaches the run right behind that step."""
    log = run.metrics.log

    def log_and_ask(**values: Any) -> None:
        log(**values)
        if (values["stage"], values["step"]) == (stage, step):
            os.kill(os.getpid(), signal.SIGTERM)

    run.metrics.log = log_and_ask  # type: ignore[method-assign]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by file and name."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found.update({f"{path.relative_to(folder)}:{name}": t for name, t in load_file(path).items()})
    return found


WORKER = """
import sys, torch
from pathlib import Path
from vistune.progress import no_progress
from vistune.recipe import load_recipe
from vistune.training import Run
torch.set_num_threads(1)
Run(load_recipe(sys.argv[1]), Path(sys.argv[2]), progress=no_progress).start(resume=sys.argv[3] == "resume")
"""


def start_process(recipe: Path, out: Path, mode: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(recipe), str(out), mode], env=environment)


def wait_for_metrics(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120  # against hanging: the run takes seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.005)


def assert_same_runs(two: Path, one: Path) -> None:
    """The same steps, losses and gradients step by step, the same weights in every checkpoint, to fp32's tolerance."""
    rows, alone = (MetricsLog(run / "metrics.jsonl").read() for run in (two, one))
    for key in ("step", "stage", "tokens", "supervised_tokens", "learning_rate"):
        assert [row[key] for row in rows] == [row[key] for row in alone], two.name
    for key in ("loss", "gradient_norm"):
        wanted = torch.tensor([row[key] for row in alone])
        torch.testing.assert_close(torch.tensor([row[key] for row in rows]), wanted, rtol=2e-5, atol=1e-6)
    for row, other in zip(rows, alone, strict=True):
        assert row["by_source"] == {
            name: {**part, "loss": pytest.approx(part["loss"], rel=2e-5, abs=1e-6)}
            for name, part in other["by_source"].items()
        }
    names = [path.name for path in checkpoints_of(one)]
    assert [path.name for path in checkpoints_of(two)] == names
    for name in names:
        ours, theirs = (weights(run / "checkpoints" / name) for run in (two, one))
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(
                ours[key], theirs[key], rtol=1e-4, atol=2e-5, msg=lambda m, k=key: f"{two.name}: {k}: {m}"
            )
    assert read_json(two / "run.json")["status"] == "finished"
