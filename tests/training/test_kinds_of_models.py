"""Tiles, shorter tiles, the joint space and SigLIP: trained, saved, resumed and asked through the same verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_stages import ask_to_stop, weights

from vistune import api
from vistune.errors import RecipeError, Stopped
from vistune.progress import no_progress
from vistune.recipe import Recipe, validate
from vistune.runs.folder import MetricsLog, checkpoints_of
from vistune.training import Run

KINDS: dict[str, dict[str, Any]] = {
    "anyres": {"vision": "joint_clip", "image_mode": "anyres"},
    "anyres_pooled": {"vision": "joint_clip", "image_mode": "anyres", "projector": "pool2x2_mlp2x_gelu"},
    "pooled": {"vision": "joint_clip", "projector": "pool2x2_mlp2x_gelu", "image_mode": "pad"},
    "shuffled": {"vision": "siglip", "projector": "shuffle2x2_mlp2x_gelu", "feature_layer": -1},
    "joint": {"vision": "joint_clip", "space": "joint", "feature_tokens": "cls_patch"},
    "siglip": {"vision": "siglip"},
    "naflex": {"vision": "naflex"},
    "naflex_shuffled": {"vision": "naflex", "projector": "shuffle2x2_mlp2x_gelu"},
}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Wide, tall and square pictures, two in one row, none in another."""
    sizes = [(90, 40), (40, 90), (64, 64), (33, 20)]
    for k, size in enumerate(sizes):
        Image.effect_noise(size, 60 + k).convert("RGB").save(tmp_path / f"{k}.png")
    listed: list[dict[str, Any]] = [
        {"id": str(k), "image": f"{k}.png", "conversations": turns("<image>\nWhat colour?", "red")} for k in range(4)
    ]
    listed.append({"id": "two", "image": ["0.png", "1.png"], "conversations": turns("<image><image>Same?", "no")})
    listed.append({"id": "none", "conversations": turns("Hello?", "네")})
    (tmp_path / "data.json").write_text(json.dumps(listed))
    return tmp_path / "data.json"


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def recipe_of(kind: str, towers: Path, tiny_backbones: Path, rows: Path, *, steps: int, **stage: Any) -> Recipe:
    model = {**KINDS[kind], "language": str(tiny_backbones / "language")}
    model["vision"] = str(towers / model["vision"])
    learn = {"vision": 1e-3, "projector": 3e-3, "language": 1e-3}
    only = {"name": "tune", "learn": learn, "steps": steps, "samples_per_step": 4, "tokens_per_row": 512, **stage}
    return validate({"model": model, "data": str(rows), "stages": [only]}, "test")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_saves_and_answers(
    kind: str, towers: Path, tiny_backbones: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(kind, towers, tiny_backbones, rows, steps=2)
    run = Run(recipe, tmp_path / "again", progress=no_progress)
    fresh = run.first_model(None)
    started = {name: parameter.clone() for name, parameter in fresh.named_parameters()}
    api.train(recipe, tmp_path / "run")
    assistant = api.load(tmp_path / "run", device="cpu")
    learnt = dict(assistant.model.named_parameters())
    assert learnt.keys() == started.keys()
    for part in ("vision.tower", "projector", "language", *(["newline"] if kind.startswith("anyres") else [])):
        assert any(not torch.equal(learnt[name], started[name]) for name in learnt if name.startswith(part)), part
    spec = assistant.processor.spec
    assert spec == run.processor.spec
    assert run.recipe.model.image_mode == spec.image_mode != "auto"
    image = Image.open(rows.parent / "0.png")
    example = assistant.encode([{"role": "user", "content": [{"type": "image", "image": image}]},
                                {"role": "assistant", "content": "red"}])  # fmt: skip
    assert (len(example.images) > 1) == (spec.image_mode == "anyres")
    answer = assistant.ask(image, "What colour?", max_tokens=6)
    assert answer == api.load(tmp_path / "run", device="cpu").ask(image, "What colour?", max_tokens=6)
    half = api.load(tmp_path / "run", device="cpu", dtype="bf16")
    assert isinstance(half.ask(image, "What colour?", max_tokens=2), str)


@pytest.mark.parametrize("kind", ["anyres", "joint", "naflex"])
def test_a_stopped_run_resumes_to_the_same_weights(
    kind: str, towers: Path, tiny_backbones: Path, rows: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    recipe = recipe_of(kind, towers, tiny_backbones, rows, steps=5)
    api.train(recipe, tmp_path / "whole")
    run = Run(recipe, tmp_path / "stopped", progress=no_progress)
    ask_to_stop(run, "tune", 1)
    with pytest.raises(Stopped):
        run.start(resume=False)
    api.train(recipe, tmp_path / "stopped", resume=True)
    whole, resumed = (
        [row["loss_hex"] for row in MetricsLog(tmp_path / name / "metrics.jsonl").read()]
        for name in ("whole", "stopped")
    )
    assert len(whole) == 5
    assert resumed == whole
    ours, theirs = (weights(checkpoints_of(tmp_path / name)[-1]) for name in ("stopped", "whole"))
    assert ours.keys() == theirs.keys()
    assert ("projector.safetensors:newline" in ours) == (kind == "anyres")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ["anyres", "naflex"])
def test_a_stage_has_no_mode_of_its_own_over_a_model_whose_tokens_vary(
    kind: str, towers: Path, tiny_backbones: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(kind, towers, tiny_backbones, rows, steps=1)
    origin = api.train(recipe, tmp_path / "first")
    stage = {"name": "more", "learn": {"projector": 1e-3}, "steps": 1, "image_mode": "square"}
    going_on = validate({"from": str(origin), "data": str(rows), "stages": [stage]}, "test")
    with pytest.raises(RecipeError, match=f"image_mode: square: this model was trained with {kind}"):
        api.dry_run(going_on)


def test_a_naflex_model_goes_on_is_planned_and_is_not_exported(
    towers: Path, tiny_backbones: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = recipe_of("naflex_shuffled", towers, tiny_backbones, rows, steps=1)
    origin = api.train(recipe, tmp_path / "first")
    for layout in ("llava-hf", "llava-original", "peft"):
        with pytest.raises(RecipeError, match=f"--layout {layout}: .* this model's images have different grids"):
            api.export(origin, tmp_path / layout, layout=layout)
    stage = {"name": "more", "learn": {"projector": 1e-3}, "steps": 1, "samples_per_step": 6, "tokens_per_row": 4096}
    going_on = validate({"from": str(origin), "data": str(rows), "stages": [stage]}, "test")
    (planned,) = api.plan(going_on).stages
    api.train(going_on, tmp_path / "second")
    (step,) = MetricsLog(tmp_path / "second" / "metrics.jsonl").read()
    assert (planned.row.tokens, planned.row.tiles) == (step["tokens"], 6)  # the tower in the checkpoint has no rules
    spec = api.load(tmp_path / "second", device="cpu").processor.spec
    assert spec == api.load(origin, device="cpu").processor.spec


def test_a_frozen_tower_is_named_and_not_copied(towers: Path, tiny_backbones: Path, rows: Path, tmp_path: Path) -> None:
    recipe = recipe_of("joint", towers, tiny_backbones, rows, steps=1, learn={"projector": 1e-3})
    api.train(recipe, tmp_path / "run")
    saved = checkpoints_of(tmp_path / "run")[-1]
    assert not (saved / "vision").exists()
    model = api.load(saved, device="cpu").model
    stock = load_file(towers / "joint_clip" / "model.safetensors")
    kept = dict(model.vision.tower.named_parameters())
    assert torch.equal(kept["visual_projection.weight"], stock["visual_projection.weight"])


@pytest.mark.parametrize("kind", ["anyres", "naflex"])
def test_rows_of_any_length_give_the_same_losses_of_images_of_any_size(
    kind: str, towers: Path, tiny_backbones: Path, rows: Path, tmp_path: Path
) -> None:
    losses = []
    for length in (512, 4096):
        recipe = recipe_of(kind, towers, tiny_backbones, rows, steps=3, tokens_per_row=length)
        api.train(recipe, tmp_path / str(length))
        losses.append([row["loss"] for row in MetricsLog(tmp_path / str(length) / "metrics.jsonl").read()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
