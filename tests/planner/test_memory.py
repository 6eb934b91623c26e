"""Forecasts of memory: parameters as transformers counts them, kept bytes as autograd keeps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vistune.errors import RecipeError
from vistune.model import add_adapters, next_token_loss
from vistune.model.attention import register
from vistune.model.head import Head
from vistune.model.language import run
from vistune.model.shapes import config_of
from vistune.model.tower_shape import describe_tower
from vistune.planner.language_shape import language_shape
from vistune.planner.memory import bf16_copies, language_layer, longest_row, memory, tower_layer
from vistune.planner.sizes import ModelSizes, RowSize, StageSetup, adapter_layers, sizes_of, tower_of
from vistune.recipe import Lora, Model, known_recipes, load_recipe

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
    from vistune.model.image_rules import image_rules
    from vistune.model.vision import load_tower
    from vistune.model.vlm import spec_of

    source = str(towers / name)
    for space in ("hidden", "joint") if name == "joint_clip" else ("hidden",):
        config = config_of(source, "vision")
        spec = spec_of(Model(space=space), config, 16, 100, image_rules(source))
        tower = load_tower(source, spec, torch.float32)
        assert tower_of(config, spec).parameters == sum(p.numel() for p in tower.parameters())


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
        how = StageSetup(tuple(stage.learn), stage.lora, stage.quantize, stage.recompute, bf16=True)
        assert memory(sizes, how, RowSize(stage.tokens_per_row, 2, 200)).total > 0


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
    "adapters, dropout": (("projector", "adapters"), Lora(rank=8, alpha=8, dropout=0.1)),
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_language_layer_keeps_what_is_foreseen_to_the_byte(way: str, bf16: bool) -> None:
    """What one more layer keeps, for two documents in a row; copies of weights in bf16 included."""
    learn, lora = WAYS[way]
    how = StageSetup(learn, lora, bf16=bf16)

    def kept(layers: int) -> tuple[int, Any]:
        made = language(num_hidden_layers=layers)
        shape = language_shape(SimpleNamespace(**made.config.to_dict()))
        model = add_adapters(made, lora) if lora else made
        if way == "frozen":
            model.requires_grad_(False)
        rows = torch.randn(TOKENS, 64, requires_grad=True)

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return run(model, (rows * 1.0)[None], torch.arange(TOKENS)[None], starts=[0, 30, TOKENS])

        return kept_by(model, forward), shape

    (one, shape), (two, _) = kept(1), kept(2)
    adapters = sum(m.count * lora.rank * (m.inside + m.outside) for m in adapter_layers(shape, lora)) if lora else 0
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

        return kept_by(tower, forward), describe_tower(tower.config, -1)

    (one, shape), (two, _) = kept(1), kept(2)
    copies = 2 * (4 * 64 * 64 + 2 * 64 * 160) if bf16 else 0
    assert two - one - copies == 3 * shape.tokens * tower_layer(shape, StageSetup(("vision",), bf16=bf16))


def test_no_token_keeps_logits() -> None:
    hidden, head = torch.randn(100, 64, requires_grad=True), nn.Linear(64, 5000, bias=False)
    labels = torch.full((100,), -100)
    labels[40:70] = 7
    held = kept_by(head, lambda: next_token_loss(hidden, Head(head.weight), labels, torch.tensor([0, 100])).sum)
    of_head = 4 * head.weight.numel()
    assert of_head <= held <= of_head + 30 * 64 * 4 + 8 * 1024  # its gradient and that of 30 rows, beside indices


@pytest.fixture
def sizes() -> ModelSizes:
    return sizes_of(load_recipe("llava-v1.5-7b").model)[0]


def test_fsdp_keeps_a_share_and_recomputing_a_layer(sizes: ModelSizes) -> None:
    row = RowSize(2048, 3, 400, rows=4)
    alone = StageSetup(("projector", "language"), bf16=True)
    whole, shared = memory(sizes, alone, row), memory(sizes, replace(alone, parallelism="fsdp", processes=8), row)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(shared, part) == pytest.approx(getattr(whole, part) / 8)
    assert 0 < shared.gathered < whole.weights / 8
    again = memory(sizes, replace(alone, recompute=("language",)), row)
    assert again.activations < whole.activations / 8
    assert again.copies == whole.copies  # autocast keeps those of weights that learn
    lora = StageSetup(("projector", "adapters"), Lora(), recompute=("language",), bf16=True)
    assert bf16_copies(sizes, lora, row) < whole.copies / 8
    assert memory(sizes, replace(lora, quantize=4), row).weights < 0.25 * memory(sizes, lora, row).weights


def test_frozen_weights_in_bf16_take_half_and_need_no_copies(sizes: ModelSizes) -> None:
    row = RowSize(2048, 3, 400)
    wide = StageSetup(("projector", "adapters"), Lora(), bf16=True)
    half = replace(wide, bf16_parts=("vision", "language"))
    frozen = sum(tower.parameters for tower in sizes.towers) + sizes.language.parameters
    assert memory(sizes, wide, row).weights - memory(sizes, half, row).weights == 2 * frozen
    assert bf16_copies(sizes, half, row) < 0.1 * bf16_copies(sizes, wide, row)
    packed = sizes.language.layers * sizes.language.linear
    saved = (
        memory(sizes, replace(wide, quantize=4), row).weights - memory(sizes, replace(half, quantize=4), row).weights
    )
    assert saved == 2 * (frozen - packed)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_longest_row_fits_and_a_longer_one_does_not(sizes: ModelSizes, rows: int) -> None:
    how, row, room = (
        StageSetup(("projector", "adapters"), Lora(), 4, ("language",), bf16=True),
        RowSize(2048, 3, 400, rows),
        22e9,
    )
    longest = longest_row(sizes, how, row, room)
    assert longest > 2048

    def total(tokens: int) -> float:
        grown = replace(row, tokens=tokens, tiles=round(3 * tokens / 2048), supervised=round(400 * tokens / 2048))
        return memory(sizes, how, grown).total

    assert total(longest) <= room < total(longest + 256)
    assert longest_row(sizes, replace(how, quantize=None), row, room) == 0  # the weights alone do not fit
