"""Stages in fp32, tf32 and bf16, and frozen weights stored in bf16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_stages import ALIGN, LORA, TUNE, MakeRecipe, ask_to_stop, train

from vistune.data import Loader
from vistune.data.stages import plan_stages
from vistune.errors import RecipeError, Stopped
from vistune.model import next_token_loss
from vistune.model.precision import matmul_precision, never_trained, parts_in_bf16, store_in_bf16
from vistune.progress import no_progress
from vistune.training import Run


def test_tf32_is_refused_where_there_is_none(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="precision: tf32 needs a CUDA device"):
        train(make_recipe({**ALIGN, "precision": "tf32"}), tmp_path / "run")


def test_tf32_lasts_as_long_as_the_block() -> None:
    """The setting can be read without a GPU."""
    before = torch.backends.cuda.matmul.fp32_precision
    with matmul_precision("tf32", "cuda:0"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_nothing_is_stored_in_bf16_where_one_stage_multiplies_in_fp32(make_recipe: MakeRecipe) -> None:
    align, lora = make_recipe(*({**tree, "precision": "bf16"} for tree in (ALIGN, LORA))).stages
    assert parts_in_bf16([align, lora], (), "cpu") == ["vision", "language"]
    assert parts_in_bf16([align, lora.model_copy(update={"precision": "fp32"})], (), "cpu") == []


def test_a_stage_in_fp32_behind_one_in_bf16_goes_on_to_the_same_bits(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The tower, which no stage learns, is the same whether the first stage ran in this process or in another."""
    recipe = make_recipe({**ALIGN, "precision": "bf16", "save_every": 6}, {**TUNE, "precision": "fp32"})
    whole = train(recipe, tmp_path / "whole")
    torch.set_num_threads(1)
    run = Run(recipe, tmp_path / "stopped", progress=no_progress)
    ask_to_stop(run, "align", 5)
    with pytest.raises(Stopped):
        run.start(resume=False)
    resumed = train(recipe, tmp_path / "stopped", resume=True)
    assert [row["loss_hex"] for row in resumed] == [row["loss_hex"] for row in whole]


def test_what_no_stage_trains_is_stored_in_bf16_and_nothing_else(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(ALIGN, LORA), tmp_path, progress=no_progress)
    align, lora = run.recipe.stages
    assert never_trained([align, lora], {"projector"}) == ["vision", "language"]
    assert never_trained([lora, align], {"projector"}) == ["vision"]  # the adapters are merged into it
    assert never_trained([align], {"projector", "vision", "language"}) == []  # an earlier run learnt them
    model = run.first_model(None)
    run.prepare(model, lora, 1)
    model.set_trainable(lora.learn)
    store_in_bf16(model, ["vision", "language"])
    dtypes = {part: {p.dtype for _, p in parameters} for part, parameters in model.parts().items()}
    half, full = {torch.bfloat16}, {torch.float32}
    assert dtypes == {"vision": half, "projector": full, "language": half, "adapters": full}
    assert model.vision.mean.dtype == torch.float32
    item = plan_stages(run.recipe, run.processor, no_progress)[0][1]
    (row,) = Loader(item.samples, item.processor, item.plan).load(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = next_token_loss(model(row), model.head, row.labels, row.starts)
    loss.sum.backward()
    assert loss.sum.dtype == torch.float32
    learning = [p for _, p in [*model.parts()["projector"], *model.parts()["adapters"]]]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in learning)
