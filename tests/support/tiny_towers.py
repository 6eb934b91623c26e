"""Small random vision towers of every kind, real classes of transformers: 32 x 32 pixels in patches of 8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vistune.model import VisionLanguageModel, build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model, Recipe, Stage

LAYERS = 4
SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
JOINT_WIDTH = 24
NAFLEX_PATCHES = 22  # not the square of a whole number, and more than the tower's position embeddings


def clip() -> Any:
    return CLIPVisionModel(CLIPVisionConfig(**SIZE))


def joint_clip() -> Any:
    """As on the hub; its vision part says another width of the joint space, as old configs do."""
    return CLIPModel(CLIPConfig(vision_config=SIZE, text_config=TEXT, projection_dim=JOINT_WIDTH))


def siglip() -> Any:
    return SiglipVisionModel(SiglipVisionConfig(**SIZE))


def joint_siglip() -> Any:
    """SigLIP 2 of a fixed resolution is this too: its model_type is siglip."""
    return SiglipModel(SiglipConfig(vision_config=SIZE, text_config=TEXT))


def naflex() -> Any:
    """SigLIP 2 of variable size: position embeddings of a 4 x 4 grid, resized to the grid of each image."""
    config = Siglip2VisionConfig(**{key: SIZE[key] for key in SIZE if key != "image_size"}, num_patches=16)
    return Siglip2VisionModel(config)


KINDS: dict[str, Callable[[], Any]] = {
    "clip": clip,
    "joint_clip": joint_clip,
    "siglip": siglip,
    "joint_siglip": joint_siglip,
}


def save_towers(folder: Path) -> None:
    """Every kind in a folder of its name, with its image rules."""
    for number, (kind, make) in enumerate({**KINDS, "naflex": naflex}.items()):
        torch.manual_seed(number)
        model = make()
        with torch.no_grad():  # fresh norms are the identity and would hide one left out
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(folder / kind)
        rules: Any = (
            CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
            if "clip" in kind
            else SiglipImageProcessor(size={"height": 32, "width": 32})
            if "siglip" in kind
            else Siglip2ImageProcessorPil(patch_size=8, max_num_patches=NAFLEX_PATCHES)
        )
        rules.save_pretrained(folder / kind)


def with_changed_tower(settings: Model) -> tuple[VisionLanguageModel, Processor, Recipe]:
    """A model whose tower has other weights than its folder, as after training; its processor and recipe."""
    recipe = Recipe(model=settings, stages=(Stage(name="all", learn={"vision": 1e-3, "projector": 1e-3}, steps=1),))
    spec = read_spec(settings)
    model = build(settings, spec, seed=0).eval()
    with torch.no_grad():
        for parameter in model.vision.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, Processor(load_tokenizer(settings.language), spec), recipe
