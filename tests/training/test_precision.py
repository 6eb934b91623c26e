"""Stages in fp32, tf32 and bf16, and frozen weights stored in bf16."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_tokenizer import make_tokenizer
from training_stages import ALIGN, LORA, TUNE, MakeRecipe, ask_to_stop, train

from vistune.api import plan
from vistune.data import Loader
from vistune.data.stages import plan_stages
from vistune.errors import RecipeError, Stopped
from vistune.files import read_json, user_cache
from vistune.model import next_token_loss
from vistune.model.precision import matmul_precision, never_trained, parts_in_bf16, store_in_bf16
from vistune.progress import no_progress
from vistune.recipe import Recipe
from vistune.runs.folder import checkpoints_of
from vistune.training import Run
from vistune.training.validation import Hooks


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


@pytest.fixture
def wide_recipe(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Two stages with `precision: auto` on a language model that is wide enough to be measured."""
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=400, max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "language")
    make_tokenizer(tmp_path / "language")
    align = {**ALIGN, "steps": 2, "tokens_per_row": 128}
    recipe = make_recipe(align, {**TUNE, "steps": 4, "tokens_per_row": 128}, blind_check=0)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"language": str(tmp_path / "language")})})


def set_measured(speedup: float) -> None:
    """Change all stored measurements."""
    files = list((user_cache() / "precision").glob("*.json"))
    assert files
    for file in files:
        kept = json.loads(file.read_text())
        file.write_text(json.dumps({**kept, "seconds": [[speedup, 1.0]] * len(kept["seconds"])}))


def run(recipe: Recipe, out: Path, messages: list[str], *, resume: bool = False, stop: int | None = None) -> None:
    torch.set_num_threads(1)
    started = Run(recipe, out, progress=no_progress, hooks=Hooks(messages.append))
    if stop is not None:
        ask_to_stop(started, "tune", stop)
    started.start(resume=resume)


def losses(out: Path) -> list[str]:
    return [json.loads(line)["loss_hex"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_uses_what_plan_has_measured_and_a_resumed_run_keeps_it(wide_recipe: Recipe, tmp_path: Path) -> None:
    plan(wide_recipe)
    set_measured(2.0)
    forecast = plan(wide_recipe)
    assert [stage.devices[0].precision for stage in forecast.stages] == ["bf16", "bf16"]
    assert all("2.0 times as fast" in stage.remarks[0] for stage in forecast.stages)
    messages: list[str] = []
    run(wide_recipe, tmp_path / "whole", messages)
    for name in ("align", "tune"):
        assert len([line for line in messages if line.startswith(f"stage {name}: precision bf16: ")]) == 1
    with pytest.raises(Stopped):
        run(wide_recipe, tmp_path / "stopped", [], stop=1)
    set_measured(0.5)
    messages.clear()
    run(wide_recipe, tmp_path / "stopped", messages, resume=True)
    assert "stage tune: precision bf16, as when the run began" in messages
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    for record in (
        read_json(tmp_path / "stopped" / "run.json")["precision"],
        read_json(checkpoints_of(tmp_path / "stopped")[-1] / "parts.json")["extra"]["precision"],
    ):
        assert record["device"] == "cpu"
        assert {name: choice["precision"] for name, choice in record["stages"].items()} == dict.fromkeys(
            ("align", "tune"), "bf16"
        )
    run(wide_recipe, tmp_path / "fp32", messages)
    assert losses(tmp_path / "fp32") != losses(tmp_path / "whole")
    assert any(line.startswith("stage tune: precision fp32: ") for line in messages)


def test_a_narrow_model_trains_in_fp32_without_a_line(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    messages: list[str] = []
    recipe = make_recipe({**ALIGN, "steps": 1})
    run(recipe, tmp_path / "auto", messages)
    run(make_recipe({**ALIGN, "steps": 1, "precision": "fp32"}), tmp_path / "fp32", [])
    assert not [line for line in messages if "precision" in line]
    assert losses(tmp_path / "auto") == losses(tmp_path / "fp32")
