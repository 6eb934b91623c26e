"""What a person sees of a run: what learns, how it goes, and words where something is wrong."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from model.tiny_models import tiny
from torch.utils.flop_counter import FlopCounterMode
from training_stages import ALIGN, LORA, MERGED, TUNE, MakeRecipe, ask_to_stop, train

from vistune.data import Loader
from vistune.data.stages import plan_stages
from vistune.errors import RecipeError, Stopped
from vistune.model import build, next_token_loss, read_spec
from vistune.planner import flops
from vistune.planner.flops import matmul_peak, needed_by
from vistune.planner.precision import frozen_for_good, halve, merge_where_exact, products_in, to_halve
from vistune.progress import no_progress
from vistune.recipe import Model
from vistune.runs.metrics import MetricsLog
from vistune.training import Hooks, Run, doubts
from vistune.training.distributed.sharding import Learner


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


@pytest.mark.parametrize("stage", [ALIGN, TUNE, LORA, MERGED, {**TUNE, "learn": {"vision": 1e-3, "language": 1e-3}}],
                         ids=["projector", "language", "adapters apart", "merged", "vision and language"])  # fmt: skip
def test_needed_work_is_what_torch_counts(stage: dict[str, object], make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Products of forward and backward, but for gradients into what nothing below needs, which autograd leaves out."""
    recipe = make_recipe({**stage, "samples_per_step": 3})
    run = Run(recipe, tmp_path, progress=no_progress)
    item = plan_stages(recipe, run.processor, no_progress)[0][0]
    model = run.first_model(None)
    run.prepare(model, item.stage, 0)
    model.set_trainable(item.stage.learn)
    merge_where_exact(model, item.stage, "alone", "cpu")
    assert any("Merged" in type(module).__name__ for module in model.modules()) == (stage is MERGED)
    (row,) = Loader(item.samples, item.processor, item.plan).load(0)
    learner = Learner(model)
    learner(row)  # sums of adapters are made once
    with FlopCounterMode(display=False) as counter:
        learner(row)[0].backward()
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    products = sum(count for name, count in counts.items() if "attention" not in name)
    needed = needed_by(model)
    lengths = (row.starts[1:] - row.starts[:-1]).tolist()
    pairs = sum(length * (length + 1) / 2 for length in lengths) * needed.pair
    looks = 4 * 4 * 4 * 32 * 2 * (3 if "vision" in item.stage.learn else 1) * len(row.images)
    assert needed.of(row) - pairs - looks == pytest.approx(products, rel=0.12)


def test_merged_adapters_need_no_product_forward(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(MERGED), tmp_path, progress=no_progress)
    (stage,) = run.recipe.stages
    model = run.first_model(None)
    run.prepare(model, stage, 0)
    model.set_trainable(stage.learn)
    apart = needed_by(model)
    merge_where_exact(model, stage, "alone", "cpu")
    merged = needed_by(model)
    own = sum(p.numel() for _, p in model.parts()["adapters"])
    of_last_mlp = sum(p.numel() for name, p in model.parts()["adapters"] if ".layers.1.mlp." in name)
    assert apart.token - merged.token == 2 * (own - of_last_mlp)
    assert apart.supervised - merged.supervised == 2 * of_last_mlp > 0


def test_a_token_comes_to_some_experts_of_the_last_layer_too(tmp_path: Path, tiny_backbones: Path) -> None:
    language = tiny("qwen3, experts")
    language.save_pretrained(tmp_path)
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tmp_path))
    model = build(recipe, read_spec(recipe), seed=0)
    needed = needed_by(model)
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
    assert needed_by(model).of(blank) == 0


def test_a_peak_is_the_fastest_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "_fastest", {})  # what is made up here is no other test's
    first = matmul_peak("cpu", torch.float32)
    assert first > 1e8
    monkeypatch.setattr(flops, "_seconds_of_square", lambda one, wait: 60.0)  # something else holds the machine
    assert matmul_peak("cpu", torch.float32) == first
    monkeypatch.setattr(flops, "_seconds_of_square", lambda one, wait: 2.0 * len(one) ** 3 / (3 * first))
    assert matmul_peak("cpu", torch.float32) == pytest.approx(3 * first)
    with pytest.raises(RecipeError, match="tf32 is of CUDA devices"):  # measured in what the stage multiplies in
        matmul_peak("cpu", torch.float32, "tf32")


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
    assert doubts.stands_still([2.3] * 50) is not None
    assert doubts.stands_still([2.3] * 49) is None
    assert doubts.stands_still([*[9.0] * 50, *[2.3 - 0.001 * k for k in range(50)]]) is None
    falling = [3.0 - 0.02 * k for k in range(100)]
    assert doubts.explodes(falling) is None
    assert doubts.explodes([*falling, *[9.0] * 10]) is not None
    assert doubts.explodes([*falling, *[2.0] * 10]) is None  # a hard stretch, below where it began
    assert doubts.explodes([*falling, 90.0]) is not None
    assert doubts.learns_nothing(0, 7) is not None
    assert doubts.learns_nothing(1, 7) is None
    assert doubts.is_blind(1.0, 1.005) is not None
    assert doubts.is_blind(1.0, 1.2) is None


def test_a_loss_that_stands_still_is_said_once(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    told: list[str] = []
    still = {**ALIGN, "learn": {"projector": 1e-12}, "steps": 60, "samples_per_step": 13, "schedule": "constant"}
    Run(make_recipe(still), tmp_path / "run", progress=no_progress, hooks=Hooks(told.append)).start(resume=False)
    said = [words for words in told if "has stood at" in words]
    assert len(said) == 1
    assert said[0].startswith("stage align, step 49: the loss has stood at")
    rows = MetricsLog(tmp_path / "run" / "metrics.jsonl").read()
    assert [row["step"] for row in rows if "doubts" in row] == [49]


def test_tf32_is_refused_where_there_is_none(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="precision: tf32 is of CUDA devices"):
        train(make_recipe({**ALIGN, "precision": "tf32"}), tmp_path / "run")


def test_tf32_lasts_as_long_as_the_block() -> None:
    """The setting can be read without a GPU."""
    before = torch.backends.cuda.matmul.fp32_precision
    with products_in("tf32", "cuda:0"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_nothing_is_halved_where_one_stage_multiplies_in_fp32(make_recipe: MakeRecipe) -> None:
    align, lora = make_recipe(*({**tree, "precision": "bf16"} for tree in (ALIGN, LORA))).stages
    assert to_halve([align, lora], (), "cpu") == ["vision", "language"]
    assert to_halve([align, lora.model_copy(update={"precision": "fp32"})], (), "cpu") == []


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


def test_what_no_stage_learns_is_halved_and_nothing_else(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(ALIGN, LORA), tmp_path, progress=no_progress)
    align, lora = run.recipe.stages
    assert frozen_for_good([align, lora], {"projector"}) == ["vision", "language"]
    assert frozen_for_good([lora, align], {"projector"}) == ["vision"]  # the adapters are merged into it
    assert frozen_for_good([align], {"projector", "vision", "language"}) == []  # an earlier run learnt them
    model = run.first_model(None)
    run.prepare(model, lora, 1)
    model.set_trainable(lora.learn)
    halve(model, ["vision", "language"])
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
