"""Pictures in tiles as transformers' LLaVA-NeXT has them, to compare ours with."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from vistune.types import Spec


def pairs(spec: Spec) -> list[list[int]]:
    """Canvases as transformers writes them: height, width."""
    return [[height, width] for width, height in spec.canvases]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def slots_by_transformers(size: tuple[int, int], spec: Spec) -> int:
    """By LlavaNextProcessor's own count, which vLLM repeats."""
    processor = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=pairs(spec)),
        patch_size=spec.image_side // round(spec.slots_per_image**0.5),
        num_additional_image_tokens=0,
        _get_unpadded_features=partial(LlavaNextProcessor._get_unpadded_features, None),
    )
    side = spec.image_side
    return LlavaNextProcessor._get_number_of_features(processor, size[1], size[0], side, side)


def placed_by_transformers(features: Tensor, size: tuple[int, int], spec: Spec, newline: Tensor) -> Tensor:
    """features (tiles, patches, width) -> (slots, width), by LlavaNextModel's own packing."""
    grid = round(spec.slots_per_image**0.5)
    vision = SimpleNamespace(image_size=spec.image_side, patch_size=spec.image_side // grid)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=pairs(spec)))
    packed, _ = LlavaNextModel.pack_image_features(
        model, [features], torch.tensor([[size[1], size[0]]]), "default", newline
    )
    return packed[0]
