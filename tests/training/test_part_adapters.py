"""Adapters on tower and projector: trained, merged, resumed, exported, planned; refused where they cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_stages import MakeRecipe

from vistune.errors import RecipeError
from vistune.generation import Assistant
from vistune.interop.export import export_model, import_model
from vistune.interop.parity import probes
from vistune.model import VisionLanguageModel, build, read_spec
from vistune.model.part_adapters import adapted_parts, merge_parts, put_adapters
from vistune.planner.memory import memory
from vistune.planner.sizes import RowSize, parameters, setup_of, sizes_of
from vistune.progress import no_progress
from vistune.recipe import Lora
from vistune.runs import checkpoint
from vistune.runs.folder import checkpoints_of
from vistune.training import Run

ALL = ("language", "vision", "projector")
LORA: dict[str, Any] = {
    "name": "tune", "learn": {"adapters": 1e-2}, "lora": {"rank": 4, "alpha": 8, "parts": list(ALL)},
    "steps": 4, "samples_per_step": 5, "save_every": 2, "precision": "fp32",
}  # fmt: skip
FINISHED = [*probes()["picture"], {"role": "assistant", "content": "Waves."}]


def train(recipe: Any, out: Path, *, resume: bool = False) -> Path:
    run = Run(recipe, out, progress=no_progress)
    run.start(resume=resume)
    return checkpoints_of(out)[-1]


def logits(folder: Path) -> torch.Tensor:
    return Assistant(*checkpoint.load(folder)).logits(FINISHED)


def tiny(tiny_backbones: Path, lora: Lora, make_recipe: MakeRecipe) -> VisionLanguageModel:
    recipe = make_recipe({**LORA, "lora": lora.model_dump()}, **{})
    model = recipe.model.model_copy(update={"projector": "mlp2x_gelu"})
    built = build(model, read_spec(model), seed=1)
    put_adapters(built, lora)
    return built


def test_they_train_in_every_part_and_only_adapters_move(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = train(make_recipe(LORA), tmp_path / "run")
    model, _ = checkpoint.load(folder)
    assert adapted_parts(model) == set(ALL)
    moved = {name.split(".")[0] for name, tensor in load_file(folder / "adapters.safetensors").items()
             if "lora_B" in name and tensor.abs().max() > 0}  # fmt: skip
    assert moved == {"vision", "projector"}
    assert not (folder / "vision").exists()  # the tower's weights are those of its source
    first = build(make_recipe(LORA).model, read_spec(make_recipe(LORA).model), seed=make_recipe(LORA).seed)
    for name, tensor in model.projector_state().items():
        torch.testing.assert_close(tensor, first.projector_state()[name])


def test_a_resumed_run_ends_with_the_same_adapters(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    import shutil

    recipe = make_recipe({**LORA, "save_every": 2}, keep_checkpoints=9)
    whole = train(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    for folder in checkpoints_of(tmp_path / "half")[1:]:
        shutil.rmtree(folder)
    resumed = train(recipe, tmp_path / "half", resume=True)
    one, two = (load_file(folder / "adapters.safetensors") for folder in (whole, resumed))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=0, rtol=0)


def test_the_next_stage_starts_from_merged_weights(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(LORA, {**LORA, "name": "next", "lora": None, "learn": {"projector": 1e-12}, "steps": 1},
                         keep_checkpoints=9)  # fmt: skip
    last = train(recipe, tmp_path / "run")
    first = checkpoints_of(tmp_path / "run")[-2]  # the end of the stage with adapters
    model, _ = checkpoint.load(last)
    assert not model.adapted
    assert (last / "vision").is_dir()
    assert (last / "language").is_dir()
    torch.testing.assert_close(logits(last), logits(first), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [{}, {"dora": True}, {"rslora": True}], ids=["LoRA", "DoRA", "rsLoRA"])
def test_merging_keeps_what_each_layer_computes(
    kind: dict[str, bool], tiny_backbones: Path, make_recipe: MakeRecipe
) -> None:
    model = tiny(tiny_backbones, Lora(rank=4, alpha=8, parts=ALL, **kind), make_recipe).eval()
    with torch.no_grad():
        for _, parameter in model.parts()["adapters"]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    tile = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    before = model.encode(tile)
    assert merge_parts(model) == set(ALL)
    torch.testing.assert_close(model.encode(tile), before, atol=1e-5, rtol=1e-4)
    assert not model.parts()["adapters"]


@pytest.mark.parametrize("parts", [ALL, ("vision",), ("projector",)], ids=str)
def test_peft_and_merged_exports_compute_the_same(
    parts: tuple[str, ...], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """`export_model` compares ids, logits and greedy tokens with PEFT's and transformers' own classes."""
    stage = {**LORA, "lora": {**LORA["lora"], "parts": list(parts)}, "steps": 2}
    recipe = make_recipe(stage)
    folder = train(recipe, tmp_path / "run")
    for rows in (
        export_model(folder, tmp_path / "peft", layout="peft"),
        export_model(folder, tmp_path / "hf", layout="llava-hf", merge=True),
        export_model(folder, tmp_path / "original", layout="llava-original", merge=True),
    ):
        assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)
    names = set(load_file(tmp_path / "peft" / "adapter_model.safetensors"))
    top = "base_model.model.model."
    expected = {  # vLLM 0.33: its mapper replaces `model.vision_tower.`, and its CLIP has `vision_model` inside
        "language": f"{top}language_model.layers.0.self_attn.q_proj.lora_A.weight",
        "vision": f"{top}vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "projector": f"{top}multi_modal_projector.linear_1.lora_B.weight",
    }
    assert {part for part, name in expected.items() if name in names} == set(parts)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert not config["modules_to_save"]  # vLLM refuses it
    import_model(tmp_path / "peft", tmp_path / "again")
    torch.testing.assert_close(logits(tmp_path / "again")[:, :400], logits(folder)[:, :400], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"learn": {"adapters": 1e-2, "vision": 1e-4}}, r"`learn.vision` \(full\) and `lora` on the vision"),
        ({"learn": {"adapters": 1e-2, "projector": 1e-4}}, r"`learn.projector` \(full\) and `lora` on the projector"),
        ({"cache_features": "on"}, "cache_features is on, but the stage trains the vision tower"),
        (
            {"lora": {**LORA["lora"], "parts": ["vision"], "targets": ["gate_proj"]}},
            "'gate_proj': no such linear layer in the vision tower",
        ),
        (
            {"lora": {**LORA["lora"], "parts": ["vision"], "targets": ["q_proj", "q_prj"]}},
            "'q_prj': no such linear layer in the vision tower",
        ),
        ({"lora": {**LORA["lora"], "parts": ["tower"]}}, "language"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    change: dict[str, Any], reason: str, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=reason):
        train(make_recipe({**LORA, **change}), tmp_path / "run")


def test_a_tower_gets_adapters_by_those_targets_that_it_has(make_recipe: MakeRecipe) -> None:
    """Patterns may name layers of the language model only."""
    recipe = make_recipe(LORA)
    model = build(recipe.model, read_spec(recipe.model), seed=1)
    put_adapters(model, Lora(rank=4, alpha=8, parts=("language", "vision"), targets=("v_proj", "gate_proj")))
    adapted = {
        name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.vision.named_parameters() if "lora_" in name
    }
    assert adapted == {"v_proj"}


def test_an_older_vistune_does_not_read_the_folder_without_them(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = train(make_recipe({**LORA, "steps": 2}), tmp_path / "run")
    assert json.loads((folder / "parts.json").read_text())["format"] == 2


@pytest.mark.parametrize("targets", [None, ("attention",), ("q_proj", "down_proj")], ids=str)
def test_the_plan_counts_their_parameters_and_activations(
    targets: tuple[str, ...] | None, make_recipe: MakeRecipe
) -> None:
    lora = Lora(rank=4, alpha=8, parts=ALL, targets=targets)
    recipe = make_recipe({**LORA, "lora": lora.model_dump()})
    model = build(recipe.model, read_spec(recipe.model), seed=1)
    put_adapters(model, lora)
    sizes, _ = sizes_of(recipe.model)
    assert parameters(sizes, lora)["adapters"] == sum(p.numel() for _, p in model.parts()["adapters"])
    row = RowSize(tokens=64, tiles=2, supervised=16)
    setups = [
        setup_of(recipe.stages[0].model_copy(update={"lora": lora.model_copy(update={"parts": parts})}), bf16=False)
        for parts in (("language",), ALL)
    ]
    less, more = (memory(sizes, setup, row) for setup in setups)
    assert more.activations > less.activations
    assert more.optimizer > less.optimizer
