"""On a GPU: a stage learns as on a CPU, a run that was stopped goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_stages import ALIGN, LORA, TUNE, MakeRecipe, ask_to_stop, weights

from vistune.data import Loader, Prefetch
from vistune.data.stages import plan_stages
from vistune.errors import Stopped
from vistune.progress import no_progress
from vistune.recipe import Recipe
from vistune.runs.folder import MetricsLog
from vistune.training import Run
from vistune.training.distributed.world import World

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is at hand")]
PLAIN_LORA = {**LORA, "lora": {"rank": 4, "alpha": 8}}  # dropout is drawn by each device's own generator


def train_on(device: str, recipe: Recipe, out: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    Run(recipe, out, progress=no_progress, world=World(device=device)).start(resume=resume)
    return MetricsLog(out / "metrics.jsonl").read()


@pytest.mark.parametrize("stage", [ALIGN, PLAIN_LORA, TUNE], ids=["projector", "lora", "full"])
@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_losses_are_those_of_a_cpu(
    stage: dict[str, Any], precision: str, close: float, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe({**stage, "save_every": None, "precision": precision})
    wanted = train_on("cpu", recipe, tmp_path / "cpu")
    found = train_on("cuda", recipe, tmp_path / "cuda")
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=close)
        assert ours["peak_memory_mb"] > 0


@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_learn_on_a_quantised_model(bits: int, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Their loss is near that of the model in full precision, and falls."""
    pytest.importorskip("bitsandbytes")
    stage = {**PLAIN_LORA, "save_every": None, "precision": "bf16"}
    wanted = train_on("cuda", make_recipe(stage), tmp_path / "whole")
    found = train_on("cuda", make_recipe({**stage, "quantize": bits}), tmp_path / "quantised")
    assert found[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=5e-2)
    assert found[-1]["loss"] < found[0]["loss"]


@pytest.mark.parametrize("stage", [LORA, TUNE], ids=["lora", "full"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    stage: dict[str, Any], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe({**stage, "precision": "bf16"})
    whole = train_on("cuda", recipe, tmp_path / "whole")
    run = Run(recipe, tmp_path / "stopped", progress=no_progress, world=World(device="cuda"))
    ask_to_stop(run, "tune", 3)
    with pytest.raises(Stopped):
        run.start(resume=False)
    resumed = train_on("cuda", recipe, tmp_path / "stopped", resume=True)
    assert [row["loss_hex"] for row in resumed] == [row["loss_hex"] for row in whole]
    last = [sorted((tmp_path / name / "checkpoints").iterdir())[-1] for name in ("whole", "stopped")]
    ours, theirs = (weights(folder) for folder in last)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_compiled_layers_learn_what_plain_ones_learn(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    runs = [
        train_on("cuda", make_recipe({**TUNE, "save_every": None, "precision": "bf16", "compile": way}), tmp_path / way)
        for way in ("off", "on")
    ]
    for plain, fast in zip(*runs, strict=True):
        assert fast["loss"] == pytest.approx(plain["loss"], rel=2e-2)


def test_a_stages_share_of_the_peak_is_of_its_own_precisions() -> None:
    from vistune.planner.work import matmul_peak

    assert matmul_peak("cuda", torch.float32, "tf32") > matmul_peak("cuda", torch.float32)


def test_a_runs_model_lies_on_its_gpu(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(TUNE), tmp_path / "never", progress=no_progress, world=World(device="cuda"))
    assert {p.device.type for p in run.first_model(None).parameters()} == {"cuda"}


def test_rows_for_a_gpu_lie_in_pinned_memory(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(ALIGN, workers=1), tmp_path, progress=no_progress, world=World(device="cuda"))
    (planned,), _ = plan_stages(run.recipe, run.processor, no_progress)
    for _, batches in Loader(planned.samples, planned.processor, planned.plan, prefetch=Prefetch(1, pin=True)).steps():
        assert all(batch.images.is_pinned() and batch.input_ids.is_pinned() for batch in batches)
