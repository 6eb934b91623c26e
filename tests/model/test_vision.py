"""Towers: features are transformers' hidden states, what lies behind them is gone, what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_towers import JOINT_WIDTH, KINDS, LAYERS, clip, with_changed_tower
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    CLIPModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipModel,
    SiglipVisionModel,
)

from vistune.errors import RecipeError
from vistune.model import build, read_spec
from vistune.model.image_rules import image_rules
from vistune.model.tower_shape import describe_tower
from vistune.model.vision import load_tower, vision_config
from vistune.recipe import Model, Stage
from vistune.runs import checkpoint
from vistune.training.optimizer import make_optimizer
from vistune.types import Spec


def spec_for(folder: Path, backbones: Path, **changes: Any) -> Spec:
    return read_spec(Model(vision=str(folder), language=str(backbones / "language"), **changes))


def stock(folder: Path) -> Any:
    """transformers' whole tower."""
    joint = {"joint_clip": CLIPModel, "joint_siglip": SiglipModel}.get(folder.name)
    if joint is not None:
        return joint.from_pretrained(folder).eval().vision_model
    return {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}[folder.name].from_pretrained(folder).eval()


def tiles(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalised(folder: Path, images: Tensor) -> Tensor:
    """As the folder's own processor does it."""
    rules = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return rules(list(images), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("layer", [-1, -2, -3])
@pytest.mark.parametrize("tokens", ["patch", "cls_patch"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_hidden_states_of_the_whole_tower(
    kind: str, tokens: str, layer: int, towers: Path, tiny_backbones: Path
) -> None:
    folder = towers / kind
    if tokens == "cls_patch" and "siglip" in kind:
        with pytest.raises(RecipeError, match="feature_tokens=cls_patch: siglip_vision_model has no class token"):
            spec_for(folder, tiny_backbones, feature_tokens=tokens)
        return
    spec = spec_for(folder, tiny_backbones, feature_tokens=tokens, feature_layer=layer)
    tower = load_tower(str(folder), spec, torch.float32)
    wanted = stock(folder)(normalised(folder, tiles()), output_hidden_states=True).hidden_states[layer]
    wanted = wanted[:, 1:] if tokens == "patch" and "clip" in kind else wanted
    assert wanted.shape == (2, spec.slots_per_image, spec.vision_width)
    torch.testing.assert_close(tower(tiles()), wanted, atol=1e-5, rtol=1e-5)
    kept = {name.split("layers.")[1].split(".")[0] for name, _ in tower.named_parameters() if "layers." in name}
    assert kept == {str(k) for k in range(LAYERS + 1 + layer)}
    assert not [name for name, _ in tower.named_parameters() if "post_layernorm" in name or "head" in name]


@pytest.mark.parametrize("layer", [-5, -9])
def test_a_layer_outside_the_tower_is_refused(layer: int, towers: Path, tiny_backbones: Path) -> None:
    with pytest.raises(RecipeError, match=f"feature_layer={layer} is outside the tower's 4 layers"):
        spec_for(towers / "clip", tiny_backbones, feature_layer=layer)


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("tokens", ["patch", "cls_patch"])
def test_the_joint_space_is_the_last_norm_and_the_projection_on_every_token(
    tokens: str, layer: int, towers: Path, tiny_backbones: Path
) -> None:
    folder = towers / "joint_clip"
    spec = spec_for(folder, tiny_backbones, space="joint", feature_tokens=tokens, feature_layer=layer)
    assert spec.vision_width == JOINT_WIDTH
    whole = CLIPModel.from_pretrained(folder).eval()
    hidden = whole.vision_model(normalised(folder, tiles()), output_hidden_states=True).hidden_states[layer]
    wanted = whole.visual_projection(whole.vision_model.post_layernorm(hidden))
    ours = load_tower(str(folder), spec, torch.float32)(tiles())
    torch.testing.assert_close(ours, wanted[:, 1:] if tokens == "patch" else wanted, atol=1e-5, rtol=1e-5)
    if tokens == "cls_patch" and layer == -1:  # where CLIP compares pictures with text
        stood = CLIPVisionModelWithProjection.from_pretrained(folder, config=vision_config(str(folder))).eval()
        torch.testing.assert_close(ours[:, 0], stood(normalised(folder, tiles())).image_embeds, atol=1e-5, rtol=1e-5)


def test_a_space_that_a_tower_has_not_is_refused(towers: Path, tiny_backbones: Path) -> None:
    with pytest.raises(RecipeError, match="space=joint: siglip_vision_model has no projection"):
        spec_for(towers / "joint_siglip", tiny_backbones, space="joint")
    spec = spec_for(towers / "clip", tiny_backbones, space="joint")
    with pytest.raises(RecipeError, match=r"1 weights are missing, such as visual_projection\.weight"):
        load_tower(str(towers / "clip"), spec, torch.float32)


def test_a_language_model_is_not_a_tower(tiny_backbones: Path) -> None:
    with pytest.raises(RecipeError, match="'llama' is not supported: LlamaModel takes input_ids, not square images"):
        describe_tower(vision_config(str(tiny_backbones / "language")), side=32)


def test_weights_that_do_not_fit_are_never_drawn_at_random(towers: Path, tiny_backbones: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    spec = spec_for(towers / "clip", tiny_backbones)
    clip().config.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"its weights cannot be read: .*model\.safetensors"):
        load_tower(str(tmp_path), spec, torch.float32)
    state = load_file(towers / "clip" / "model.safetensors")
    lost = {name: tensor for name, tensor in state.items() if "layers.0.mlp.fc1" not in name}
    save_file(lost, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"2 weights are missing, such as encoder\.layers\.0\.mlp\.fc1\.bias"):
        load_tower(str(tmp_path), spec, torch.float32)
    name = "pre_layrnorm.weight"
    save_file({**state, name: state[name][:5]}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="its weights cannot be read"):
        load_tower(str(tmp_path), spec, torch.float32)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(RecipeError, match="its weights cannot be read"):
        load_tower(str(tmp_path), spec, torch.float32)


def test_a_tower_is_frozen_unless_a_stage_gives_it_a_rate(towers: Path, tiny_backbones: Path) -> None:
    recipe = Model(vision=str(towers / "siglip"), language=str(tiny_backbones / "language"))
    model = build(recipe, read_spec(recipe), seed=0)
    model.set_trainable({"projector"})
    assert not model.vision(tiles()).requires_grad
    assert not model.vision.training
    stage = Stage(name="all", learn={"vision": 2e-6, "projector": 1e-3}, steps=1)
    model.set_trainable(stage.learn)
    model.vision(tiles()).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.vision.named_parameters()}
    assert all(gradient is not None and gradient.abs().sum() > 0 for name, gradient in gradients.items()
               if "k_proj.bias" not in name)  # fmt: skip  # a key's bias cancels in the softmax
    rates = {(group["part"], group["lr"]) for group in make_optimizer(model.parts(), stage).param_groups}
    assert rates == {("vision", 2e-6), ("projector", 1e-3)}


@pytest.mark.parametrize(("kind", "space"), [("clip", "hidden"), ("joint_clip", "joint"), ("siglip", "hidden")])
def test_a_tuned_tower_comes_back(kind: str, space: str, towers: Path, tiny_backbones: Path, tmp_path: Path) -> None:
    settings = Model(vision=str(towers / kind), language=str(tiny_backbones / "language"), space=space)
    model, processor, recipe = with_changed_tower(settings)
    learnt = {"vision", "projector"}
    checkpoint.save(tmp_path / "a", model, processor, recipe=recipe, tensors=checkpoint.snapshot(model, learnt))
    once, _ = checkpoint.load(tmp_path / "a")
    checkpoint.save(tmp_path / "b", once, processor, recipe=recipe, tensors=checkpoint.snapshot(once, learnt))
    twice, _ = checkpoint.load(tmp_path / "b")
    for loaded in (once, twice):
        ours, theirs = loaded.vision.state_dict(), model.vision.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert torch.equal(loaded.vision(tiles()), model.vision(tiles()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "space"), [("clip", "hidden"), ("joint_clip", "joint"), ("siglip", "hidden")])
def test_half_precision_towers_are_near(
    kind: str, space: str, dtype: torch.dtype, towers: Path, tiny_backbones: Path
) -> None:
    spec = spec_for(towers / kind, tiny_backbones, space=space)
    with torch.no_grad():
        half, full = (load_tower(str(towers / kind), spec, d)(tiles()) for d in (dtype, torch.float32))
    assert half.dtype == dtype
    assert float((half.float() - full).norm() / full.norm()) < 0.02


def test_picture_rules_are_the_towers_own(towers: Path) -> None:
    clips, siglips = image_rules(str(towers / "clip")), image_rules(str(towers / "siglip"))
    assert (clips["image_fit"], clips["image_resample"]) == ("crop", 3)
    assert clips["image_mean"] == (0.48145466, 0.4578275, 0.40821073)
    assert (siglips["image_fit"], siglips["image_mean"]) == ("stretch", (0.5, 0.5, 0.5))


RULES: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_normalize": True,
    "resample": 3,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
}


def write_rules(folder: Path, **more: Any) -> str:
    (folder / "preprocessor_config.json").write_text(json.dumps({**RULES, **more}))
    return str(folder)


def test_picture_rules_of_every_age_are_read(tmp_path: Path) -> None:
    old = write_rules(tmp_path, feature_extractor_type="CLIPFeatureExtractor", size=32, crop_size=32)
    assert image_rules(old) == {
        "image_mean": (0.4, 0.5, 0.6),
        "image_std": (0.2, 0.3, 0.4),
        "image_fit": "crop",
        "image_resample": 3,
        "image_side": 32,
        "image_resize": 0,
    }
    fast = {"image_processor_type": "SiglipImageProcessorFast", "size": {"height": 32, "width": 32}}
    rules = image_rules(write_rules(tmp_path, **fast, do_center_crop=None, resample=2))
    assert (rules["image_fit"], rules["image_resample"]) == ("stretch", 2)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"shortest_edge": 24}},  # smaller than the crop
        {"size": {"height": 32, "width": 40}, "do_center_crop": False},
        {"crop_size": {"height": 32, "width": 24}},
        {"do_resize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
    ],
)
def test_picture_rules_that_are_not_ours_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    source = write_rules(tmp_path, image_processor_type="CLIPImageProcessor", **{**square, **change})
    with pytest.raises(RecipeError, match="image processor does not resize to one square"):
        image_rules(source)


def test_a_tower_without_picture_rules_is_refused(tmp_path: Path) -> None:
    clip().config.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="no image processor") as caught:
        image_rules(str(tmp_path))
    assert "preprocessor_config.json" in caught.value.hint
