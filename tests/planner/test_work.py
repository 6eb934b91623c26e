"""FLOPs: what torch counts on a real model, and the same from sizes only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny
from torch.utils.flop_counter import FlopCounterMode
from training_stages import ALIGN, LORA, TUNE, MakeRecipe

from vistune.data import Loader
from vistune.data.stages import plan_stages
from vistune.errors import RecipeError
from vistune.model import build, read_spec
from vistune.planner import work
from vistune.planner.sizes import Load, ModelSizes, RowSize, StageSetup, setup_of, sizes_of
from vistune.planner.work import flops_of, matmul_peak, work_of_model, work_of_sizes
from vistune.progress import no_progress
from vistune.recipe import Lora, Model, load_recipe
from vistune.training import Run
from vistune.training.distributed.parallelism import ModelWithLoss


@pytest.fixture
def sizes() -> ModelSizes:
    return sizes_of(load_recipe("llava-v1.5-7b").model)[0]


def test_work_grows_with_what_learns_and_with_the_length_of_documents(sizes: ModelSizes) -> None:
    load = Load(RowSize(2048, 3, 400), 10, 100, 2e5, 5e7, 4e4, 100.0)
    ways = [
        StageSetup(("projector",)),
        StageSetup(("projector", "adapters"), Lora()),
        StageSetup(("projector", "language")),
    ]
    assert sorted(ways, key=lambda setup: flops_of(sizes, setup, load)) == ways
    assert flops_of(sizes, ways[2], replace(load, pairs=5e9)) > flops_of(sizes, ways[2], load)
    # With all weights trained and all tokens supervised: six for each weight and token, as everybody counts.
    everything = flops_of(sizes, ways[2], replace(load, pairs=0, tiles=0, supervised=load.tokens))
    shape = sizes.language
    assert everything == pytest.approx(6 * 2e5 * (32 * shape.linear + shape.embedding))
    # Tokens without a label need neither the head nor the last MLP.
    fewer = flops_of(sizes, ways[2], replace(load, pairs=0, tiles=0, supervised=load.tokens / 2))
    assert everything - fewer == pytest.approx(6 * 1e5 * (shape.embedding + 3 * shape.width * shape.inner))


@pytest.mark.parametrize("stage", [ALIGN, TUNE, LORA, {**TUNE, "learn": {"vision": 1e-3, "language": 1e-3}}],
                         ids=["projector", "language", "adapters", "vision and language"])  # fmt: skip
def test_needed_work_is_what_torch_counts(stage: dict[str, object], make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Products of forward and backward, but for gradients into what nothing below needs, which autograd leaves out."""
    recipe = make_recipe({**stage, "samples_per_step": 3})
    run = Run(recipe, tmp_path, progress=no_progress)
    item = plan_stages(recipe, run.processor, no_progress)[0][0]
    model = run.first_model(None)
    run.prepare(model, item.stage, 0)
    model.set_trainable(item.stage.learn)
    (row,) = Loader(item.samples, item.processor, item.plan).load(0)
    learner = ModelWithLoss(model)
    with FlopCounterMode(display=False) as counter:
        learner(row)[0].backward()
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    products = sum(count for name, count in counts.items() if "attention" not in name)
    needed = work_of_model(model)
    lengths = (row.starts[1:] - row.starts[:-1]).tolist()
    pairs = sum(length * (length + 1) / 2 for length in lengths) * needed.pair
    looks = 4 * 4 * 4 * 32 * 2 * (3 if "vision" in item.stage.learn else 1) * len(row.images)
    assert needed.of_batch(row) - pairs - looks == pytest.approx(products, rel=0.12)


def test_a_token_comes_to_some_experts_of_the_last_layer_too(tmp_path: Path, tiny_backbones: Path) -> None:
    language = tiny("qwen3, experts")
    language.save_pretrained(tmp_path)
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tmp_path))
    model = build(recipe, read_spec(recipe), seed=0)
    needed = work_of_model(model)
    config, layers = language.config, language.config.num_hidden_layers
    experts = 3 * config.num_experts_per_tok * 3 * 2 * config.hidden_size * config.moe_intermediate_size
    router = 3 * 2 * config.hidden_size * config.num_experts
    assert needed.supervised == 3 * 2 * language.lm_head.weight.numel() + experts + router
    attention = 3 * 2 * sum(p.numel() for p in language.model.layers[0].self_attn.parameters() if p.ndim == 2)
    assert needed.token == layers * attention + (layers - 1) * (experts + router)


def test_blank_rows_are_no_work_and_count_as_waste(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe({**ALIGN, "samples_per_step": 1})
    run = Run(recipe, tmp_path, progress=no_progress)
    item = plan_stages(recipe, run.processor, no_progress)[0][0]
    model = run.first_model(None)
    model.set_trainable(item.stage.learn)
    shared = Loader(item.samples, item.processor, item.plan, share=(1, 2))
    (blank,) = (
        shared.load(0)
        if not shared.load(0)[0].ids
        else Loader(item.samples, item.processor, item.plan, share=(0, 2)).load(0)
    )
    assert blank.ids == ()
    assert work_of_model(model).of_batch(blank) == 0


def test_a_peak_is_the_fastest_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_fastest", {})  # what is made up here is no other test's
    first = matmul_peak("cpu", torch.float32)
    assert first > 1e8
    monkeypatch.setattr(work, "_seconds_of_square", lambda one, wait: 60.0)  # something else holds the machine
    assert matmul_peak("cpu", torch.float32) == first
    monkeypatch.setattr(work, "_seconds_of_square", lambda one, wait: 2.0 * len(one) ** 3 / (3 * first))
    assert matmul_peak("cpu", torch.float32) == pytest.approx(3 * first)
    with pytest.raises(RecipeError, match="tf32 needs a CUDA device"):  # measured in what the stage multiplies in
        matmul_peak("cpu", torch.float32, "tf32")


@pytest.mark.parametrize(
    "stage",
    [ALIGN, TUNE, LORA, {**TUNE, "learn": {"vision": 1e-3, "language": 1e-3}}],
    ids=["projector", "language", "adapters", "vision and language"],
)
def test_a_models_work_is_that_of_its_sizes(stage: dict[str, object], make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Apart from biases and norms, which are no products, and from the scores that attention computes again."""
    run = Run(make_recipe(stage), tmp_path, progress=no_progress)
    model = run.first_model(None)
    run.prepare(model, run.recipe.stages[0], 0)
    model.set_trainable(run.recipe.stages[0].learn)
    real = work_of_model(model)
    sizes, _ = sizes_of(run.recipe.model)
    foreseen = work_of_sizes(sizes, setup_of(run.recipe.stages[0], bf16=False))
    assert foreseen.token == pytest.approx(real.token)
    assert foreseen.supervised == pytest.approx(real.supervised)
    assert foreseen.pair == pytest.approx(real.pair * 3.5 / 3)
    assert foreseen.projector == pytest.approx(real.projector, rel=0.1)
    assert foreseen.tower == pytest.approx(real.tower, rel=0.2)  # the class token beside four patches
