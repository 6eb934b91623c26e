"""What `vistune plan` foresees: parameters as transformers counts them, kept bytes as autograd keeps them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_stages import ALIGN, LORA, MERGED, TUNE, MakeRecipe
from typer.testing import CliRunner
from vistune.interop.load import recipe_processor

from vistune.api import dry_run, plan
from vistune.cli.app import app
from vistune.data.stages import plan_stages
from vistune.errors import RecipeError
from vistune.model import add_adapters, next_token_loss
from vistune.model.attention import register
from vistune.model.language import run
from vistune.model.merged import keep_merged
from vistune.model.shapes import config_of, language_shape, tower_shape
from vistune.planner.forecast import Load, largest_row, load_of, longest_row, sizes_of, work
from vistune.planner.memory import How, Row, adapter_layers, bf16_copies, language_layer, memory, tower_layer
from vistune.progress import no_progress
from vistune.recipe import Lora, Model, known_recipes, load_recipe
from vistune.training import Hooks, Run
from vistune.training.largest import beside, peak_bytes

LANGUAGE = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 300,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
TOKENS = 48


def language(kind: str = "llama", **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**LANGUAGE, "model_type": kind, **changes}
    config = AutoConfig.for_model(**settings)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=register())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}), ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {"head_dim": 32}), ("qwen2", {}), ("qwen3", {"head_dim": 16}),
    ],
)  # fmt: skip
def test_a_language_models_parameters_are_counted_as_transformers_has_them(kind: str, changes: dict[str, Any]) -> None:
    made = language(kind, **changes)
    assert language_shape(SimpleNamespace(**made.config.to_dict())).parameters == sum(
        p.numel() for p in made.parameters()
    )


@pytest.mark.parametrize("name", ["clip", "joint_clip", "siglip", "joint_siglip"])
def test_a_towers_parameters_are_those_of_the_tower_that_is_loaded(name: str, towers: Path) -> None:
    from vistune.model import load_tower
    from vistune.model.spec import spec_of
    from vistune.model.vision import image_rules

    source = str(towers / name)
    for space in ("hidden", "joint") if name == "joint_clip" else ("hidden",):
        config = config_of(source, "vision")
        spec = spec_of(Model(space=space), config, 16, 100, image_rules(source))
        tower = load_tower(source, spec, torch.float32)
        kept = len((tower.tower.vision_model if space == "joint" else tower.tower).encoder.layers)
        assert tower_shape(config, layers=kept, space=space).parameters == sum(p.numel() for p in tower.parameters())


def test_llava_15_7b_is_known_without_a_folder_or_a_network() -> None:
    sizes, spec = sizes_of(load_recipe("llava-v1.5-7b").model)
    assert sizes.language.parameters == 6_738_415_616
    assert sizes.projector == 20_979_712
    assert spec.slots_per_image == 576
    with pytest.raises(RecipeError, match=r"model\.language=nobody/nothing: .*neither"):
        sizes_of(Model(language="nobody/nothing"))


@pytest.mark.parametrize("name", [name for name in known_recipes() if load_recipe(name).origin is None])
def test_every_shipped_recipe_can_be_planned(name: str) -> None:
    sizes, _ = sizes_of(load_recipe(name).model)
    for stage in load_recipe(name).stages:
        how = How(tuple(stage.learn), stage.lora, stage.quantize, stage.recompute, bf16=True)
        assert memory(sizes, how, Row(stage.tokens_per_row, 2, 200)).total > 0


def kept_by(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in (*module.parameters(), *module.buffers())}
    found: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(found.values())


WAYS: dict[str, tuple[tuple[str, ...], Lora | None]] = {
    "learns": (("projector", "language"), None),
    "frozen": (("projector",), None),
    "adapters": (("projector", "adapters"), Lora(rank=8, alpha=8)),
    "adapters on attention": (("projector", "adapters"), Lora(rank=8, alpha=8, targets=("attention",))),
    "adapters on some": (("projector", "adapters"), Lora(rank=8, alpha=8, targets=("q_proj", "down_proj"))),
    "adapters, apart": (("projector", "adapters"), Lora(rank=2, alpha=2)),
    "adapters, dropout": (("projector", "adapters"), Lora(rank=8, alpha=8, dropout=0.1)),
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_language_layer_keeps_what_is_foreseen_to_the_byte(way: str, bf16: bool) -> None:
    """What a layer more keeps more, of two documents in a row; copies of weights in bf16 included."""
    learn, lora = WAYS[way]
    how = How(learn, lora, bf16=bf16)

    def kept(layers: int) -> tuple[int, Any]:
        made = language(num_hidden_layers=layers)
        shape = language_shape(SimpleNamespace(**made.config.to_dict()))
        model = add_adapters(made, lora) if lora else made
        if way == "frozen":
            model.requires_grad_(False)
        if how.merges:
            keep_merged(model)
        rows = torch.randn(TOKENS, 64, requires_grad=True)

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return run(model, (rows * 1.0)[None], torch.arange(TOKENS)[None], starts=[0, 30, TOKENS])

        return kept_by(model, forward), shape

    (one, shape), (two, _) = kept(1), kept(2)
    adapters = sum(lora.rank * (a + b) for a, b in adapter_layers(shape, lora).values()) if lora else 0
    copies = 2 * (shape.linear + adapters) if bf16 else 0
    assert two - one - copies == TOKENS * language_layer(shape, how)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_tower_layer_that_learns_keeps_what_is_foreseen_to_the_byte(kind: str, bf16: bool) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    settings = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 16,
    }

    def kept(layers: int) -> tuple[int, Any]:
        configs = {"clip": (CLIPVisionConfig, CLIPVisionModel), "siglip": (SiglipVisionConfig, SiglipVisionModel)}
        config, build = configs[kind]
        tower = build._from_config(config(**settings, num_hidden_layers=layers), attn_implementation="sdpa").train()

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return tower(pixel_values=torch.randn(3, 3, 32, 32)).last_hidden_state

        return kept_by(tower, forward), tower_shape(tower.config, layers=layers, space="hidden")

    (one, shape), (two, _) = kept(1), kept(2)
    copies = 2 * (4 * 64 * 64 + 2 * 64 * 160) if bf16 else 0
    assert two - one - copies == 3 * shape.tokens * tower_layer(shape, How(("vision",), bf16=bf16))


def test_no_token_keeps_logits() -> None:
    hidden, head = torch.randn(100, 64, requires_grad=True), nn.Linear(64, 5000, bias=False)
    labels = torch.full((100,), -100)
    labels[40:70] = 7
    held = kept_by(head, lambda: next_token_loss(hidden, head.weight, labels, torch.tensor([0, 100])).sum)
    of_head = 4 * head.weight.numel()
    assert of_head <= held <= of_head + 30 * 64 * 4 + 8 * 1024  # its gradient and that of 30 rows, beside indices


@pytest.fixture
def sizes() -> Any:
    return sizes_of(load_recipe("llava-v1.5-7b").model)[0]


def test_fsdp_keeps_a_share_and_recomputing_a_layer(sizes: Any) -> None:
    row = Row(2048, 3, 400, rows=4)
    alone = How(("projector", "language"), bf16=True)
    whole, shared = memory(sizes, alone, row), memory(sizes, replace(alone, way="fsdp", processes=8), row)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(shared, part) == pytest.approx(getattr(whole, part) / 8)
    assert 0 < shared.gathered < whole.weights / 8
    again = memory(sizes, replace(alone, recompute=("language",)), row)
    assert again.activations < whole.activations / 8
    assert again.copies == whole.copies  # autocast keeps those of weights that learn
    lora = How(("projector", "adapters"), Lora(), recompute=("language",), bf16=True)
    assert bf16_copies(sizes, lora, row) < whole.copies / 8
    assert memory(sizes, replace(lora, quantize=4), row).weights < 0.25 * memory(sizes, lora, row).weights


def test_frozen_weights_in_bf16_take_half_and_need_no_copies(sizes: Any) -> None:
    row = Row(2048, 3, 400)
    wide = How(("projector", "adapters"), Lora(), bf16=True)
    half = replace(wide, halved=("vision", "language"))
    frozen = sizes.tower.parameters + sizes.language.parameters
    assert memory(sizes, wide, row).weights - memory(sizes, half, row).weights == 2 * frozen
    assert bf16_copies(sizes, half, row) < 0.1 * bf16_copies(sizes, wide, row)
    packed = sizes.language.layers * sizes.language.linear
    saved = (
        memory(sizes, replace(wide, quantize=4), row).weights - memory(sizes, replace(half, quantize=4), row).weights
    )
    assert saved == 2 * (frozen - packed)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_longest_row_fits_and_a_longer_one_does_not(sizes: Any, rows: int) -> None:
    how, row, room = How(("projector", "adapters"), Lora(), 4, ("language",), bf16=True), Row(2048, 3, 400, rows), 22e9
    longest = longest_row(sizes, how, row, room)
    assert longest > 2048

    def total(tokens: int) -> float:
        grown = replace(row, tokens=tokens, tiles=round(3 * tokens / 2048), supervised=round(400 * tokens / 2048))
        return memory(sizes, how, grown).total

    assert total(longest) <= room < total(longest + 256)
    assert longest_row(sizes, replace(how, quantize=None), row, room) == 0  # the weights alone do not fit


def test_work_grows_with_what_learns_and_with_the_length_of_documents(sizes: Any) -> None:
    load = Load(Row(2048, 3, 400), 10, 100, 2e5, 1e8, 4e4, 100.0)
    ways = [How(("projector",)), How(("projector", "adapters"), Lora()), How(("projector", "language"))]
    assert sorted(ways, key=lambda how: work(sizes, how, load)) == ways
    assert work(sizes, ways[2], replace(load, squares=1e10)) > work(sizes, ways[2], load)
    # Of a full stage that learns every token: six for each weight and token, as everybody counts.
    everything = work(sizes, ways[2], replace(load, squares=0, tiles=0, supervised=load.tokens))
    shape = sizes.language
    assert everything == pytest.approx(6 * 2e5 * (32 * shape.linear + shape.embedding))
    # What is not learnt spares the head and the last MLP.
    fewer = work(sizes, ways[2], replace(load, squares=0, tiles=0, supervised=load.tokens / 2))
    assert everything - fewer == pytest.approx(6 * 1e5 * (shape.embedding + 3 * shape.width * shape.inner))


def test_merged_adapters_cost_their_weights_and_save_a_third_of_their_work(sizes: Any) -> None:
    """LLaVA's rank of 128 on attention of 4,096 saves too little there; one of 512 does not."""
    load = Load(Row(2048, 3, 400), 10, 100, 2e5, 0, 2e5, 0)
    for rank, pays in ((128, False), (512, True)):
        lora = Lora(rank=rank, alpha=rank, targets=("attention",))
        merged, apart = (How(("adapters",), lora, bf16=bf16) for bf16 in (False, True))
        assert (merged.merges, apart.merges, replace(merged, tf32=True).merges) == (True, False, False)
        layers, own = 32, rank * 4 * 2 * 4096
        more = memory(sizes, merged, load.worst).weights - memory(sizes, apart, load.worst).weights
        assert more == (4 * layers * 4 * 4096**2 if pays else 0)
        saved = work(sizes, apart, load) - work(sizes, merged, load)
        assert saved == pytest.approx(2 * 2e5 * layers * own if pays else 0)


STAGE = {"name": "tune", "learn": {"projector": 1e-3, "language": 1e-3}, "steps": 3, "samples_per_step": 5,
         "tokens_per_row": 96}  # fmt: skip


def test_rows_are_counted_where_the_data_are_there(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(STAGE)
    (stage,) = plan(recipe)["stages"]
    (dry,) = dry_run(recipe)
    assert (stage["steps"], stage["assumed"]) == (dry["steps"], "")
    (planned,), _ = plan_stages(recipe, recipe_processor(recipe), no_progress)
    load = load_of(planned)
    rows = [sum(planned.plan.lengths[k] for k in row) for step in planned.plan.steps for row in step]
    assert load.worst.tokens == max(rows)
    assert load.tokens == sum(rows)
    assert (load.samples, load.tiles) == (13, 12)  # an epoch: twelve pictures and a row of text


def test_plan_is_a_verb_that_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("gpus: {H100: 2.5}\nmodels: {teacher: {input: 1, output: 2}}\n")
    said = CliRunner().invoke(
        app,
        ["plan", "llava-v1.5-7b-lora", "--samples", "665298", "--prices", str(tmp_path / "prices.yaml"),
         "--teacher", "teacher", "--flops", "4e14", "--json"],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert [stage["stage"] for stage in found["stages"]] == ["align", "tune"]
    assert found["stages"][1]["steps"] == 5198
    paid = {entry["device"]: entry["dollars"] for entry in found["stages"][1]["devices"]}
    hour = next(entry for entry in found["stages"][1]["devices"] if "H100" in entry["device"])
    assert paid[hour["device"]] == pytest.approx(hour["seconds"] / 3600 * 2.5)
    assert paid["this CPU"] is None
    assert found["teacher"]["dollars"] == pytest.approx(665_344 * (1000 * 1 + 250 * 2) / 1e6)
    shown = CliRunner().invoke(app, ["plan", "llava-v1.5-7b"])
    assert shown.exit_code == 0, shown.output
    assert "steps unknown (give --samples)" in shown.stdout
    assert "\n GB " in shown.stdout
    assert "\n MB " in CliRunner().invoke(app, ["plan", "quickstart", "--samples", "1000"]).stdout


@pytest.mark.parametrize("text", ["gpus: {H100: dear}", "gpus: [1]"])
def test_prices_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"prices\.yaml: gpus"):
        plan(load_recipe("quickstart"), prices=tmp_path / "prices.yaml")


@pytest.mark.parametrize("stage", [ALIGN, TUNE, LORA, MERGED], ids=["projector", "full", "lora", "merged"])
def test_the_largest_row_is_tried_before_the_first_step_and_told_beside_what_was_foreseen(
    stage: dict[str, Any], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    said: list[str] = []
    recipe = make_recipe({**stage, "steps": 2, "save_every": None, "precision": "fp32"})
    run = Run(recipe, tmp_path / "run", progress=no_progress, hooks=Hooks(on_message=said.append))
    run.start(resume=False)
    (told,) = [words for words in said if "the largest row" in words]
    tokens = re.search(r"the largest row \((\d+) tokens, \d+ tiles, \d+ learnt\) takes \S+ .* foreseen", told)
    assert tokens is not None, told
    (planned,), _ = plan_stages(recipe, recipe_processor(recipe), no_progress)
    step, number = largest_row(planned)
    lengths = [sum(planned.plan.lengths[k] for k in row) for rows in planned.plan.steps for row in rows]
    assert sum(planned.plan.lengths[k] for k in planned.plan.steps[step][number]) == max(lengths) == int(tokens[1])


def test_a_peak_on_a_cpu_is_what_tensors_held_at_once() -> None:
    kept = []

    def work() -> None:
        for _ in range(3):
            torch.zeros(1000)
        kept.extend([torch.zeros(500), torch.zeros(600)])

    assert peak_bytes("cpu", work) == 4400
    assert "more than 15% off" in beside(100e6, 120e6)
    assert "+10%" in beside(100e6, 110e6)
