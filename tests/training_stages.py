"""Stages of the training tests, small enough for seconds; how they are run, and what a checkpoint holds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vistune.console import silent
from vistune.recipe import Recipe
from vistune.training import Run
from vistune.training.metrics import Metrics

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


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    Run(recipe, out, watch=silent).start(resume=resume)
    return Metrics(out / "metrics.jsonl").read()


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
