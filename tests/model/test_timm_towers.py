"""Towers of timm, in transformers' wrapper: features are the wrapper's own hidden states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tower_images import SHAPES, images, spec_for, tiles
from transformers import TimmWrapperConfig

from vistune.model import build, read_spec
from vistune.model.image_rules import image_rules
from vistune.model.tower_shape import tokens_first
from vistune.model.vision import load_tower
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model, Recipe, Stage
from vistune.runs import checkpoint

pytest.importorskip("timm", reason="timm is not installed: pip install 'vistune[timm]'", exc_type=ImportError)

VIT = {"depth": 3, "embed_dim": 32, "num_heads": 4, "img_size": 32, "patch_size": 8}
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {  # architecture, its settings, patches
    "ViT": ("vit_tiny_patch16_224", VIT, 16),
    "ViT with registers": ("vit_tiny_patch16_224", {**VIT, "reg_tokens": 4}, 16),
    "ConvNeXt": ("convnext_atto", {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}, 1),
    "ResNet": ("resnet10t", {}, 1),
}


def save(kind: str, folder: Path) -> Any:
    """Save a tower as the hub stores it: transformers' config with timm's `pretrained_cfg`, and the weights."""
    from transformers import TimmWrapperModel

    architecture, settings, _ = KINDS[kind]
    rules = {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "crop_pct": 0.9,
             "interpolation": "bicubic", "crop_mode": "center"}  # fmt: skip
    config = TimmWrapperConfig(architecture=architecture, model_args=settings, pretrained_cfg=rules)
    torch.manual_seed(2)
    model = TimmWrapperModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_wrappers_own_on_images_of_four_shapes(
    kind: str, tiny_backbones: Path, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor

    model = save(kind, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "timm_wrapper"
    assert image_rules(str(tmp_path))["image_resize"] == 35
    assert image_rules(str(tmp_path))["image_fit"] == "crop_round"
    own = AutoImageProcessor.from_pretrained(tmp_path)
    values = torch.stack([own(image)["pixel_values"][0] for image in images()])
    for layer in (-1, -2):
        spec = spec_for(tmp_path, tiny_backbones, feature_layer=layer, feature_norm="off")
        tower = load_tower(str(tmp_path), spec, torch.float32)
        seen = tiles(spec)
        torch.testing.assert_close((seen - tower.mean) / tower.std, values, atol=0.03, rtol=0)
        with torch.no_grad():
            hidden = model((seen - tower.mean) / tower.std, output_hidden_states=True).hidden_states
            features = tower(seen)
        expected = tokens_first(hidden[layer])
        assert features.shape == (len(SHAPES), spec.slots_per_image, spec.vision_width)
        torch.testing.assert_close(features, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    assert spec_for(tmp_path, tiny_backbones, feature_layer=-1).slots_per_image == KINDS[kind][2]


@pytest.mark.parametrize("kind", ["ViT", "ConvNeXt"])
def test_a_trained_tower_of_timm_comes_back(kind: str, tiny_backbones: Path, tmp_path: Path) -> None:
    save(kind, tmp_path / "tower")
    settings = Model(vision=str(tmp_path / "tower"), language=str(tiny_backbones / "language"), feature_layer=-1)
    recipe = Recipe(model=settings, stages=(Stage(name="all", learn={"vision": 1e-3, "projector": 1e-3}, steps=1),))
    spec = read_spec(settings)
    model = build(settings, spec, seed=0).eval()
    with torch.no_grad():
        for parameter in model.vision.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    processor = Processor(load_tokenizer(settings.language), spec)
    tensors = checkpoint.snapshot(model, {"vision", "projector"})
    checkpoint.save(tmp_path / "run", model, processor, recipe=recipe, tensors=tensors)
    loaded, _ = checkpoint.load(tmp_path / "run")
    assert torch.equal(loaded.vision(tiles(spec)), model.vision(tiles(spec)))
