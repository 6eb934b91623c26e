"""Compare image rules with the image processor from which they were read, on one image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from vistune.errors import reason_of

SIZE = (400, 300)  # width, height of the image
MOST_DIFFERENCE = 0.03  # mean difference of normalised pixels; rounding to 8 bits causes less than 0.01


def difference_from(processor: Any, side: int, resize: int, fit: str) -> str:
    """Return how an image processor's pixels differ from those of the rules; "" if they are the same.

    A processor that cuts an image into tiles may give the whole image as any of them. LLaVA's padding is
    `image_mode: pad` here, so its processor is compared on a square image, which padding does not change.
    """
    across, down = np.meshgrid(np.linspace(0, 9, SIZE[0]), np.linspace(0, 7, SIZE[1]))
    waves = np.stack([np.sin(across), np.cos(down), np.sin(across + down)], axis=-1)
    image = Image.fromarray((127.5 + 120 * waves).astype(np.uint8))
    if pads_first(processor):
        image = image.crop((0, 0, min(SIZE), min(SIZE)))
    width, height = image.size
    try:
        pixels = torch.as_tensor(np.asarray(processor([image], return_tensors="np")["pixel_values"], dtype=np.float32))
    except Exception as error:  # transformers' processors raise many types
        return f"it fails on an image of {width} x {height} pixels: {reason_of(error)}"
    if pixels.ndim < 4 or pixels.shape[-3:] != (3, side, side):
        return f"it gives an array of {tuple(pixels.shape)}, not images of {side} x {side} pixels"
    tile = torch.from_numpy(np.array(_square(image, side, resize, fit, int(processor.resample)), dtype=np.float32))
    tile = tile.permute(2, 0, 1) / 255
    if processor.do_normalize:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
        tile = (tile - mean) / std
    least = float((pixels.reshape(-1, 3, side, side) - tile).abs().mean(dim=(1, 2, 3)).min())
    if least <= MOST_DIFFERENCE:
        return ""
    return f"on an image of {width} x {height} pixels its normalised pixels differ by {least:.2f} on average"


def pads_first(processor: Any) -> bool:
    """Return whether a processor pads images to a square before it resizes them, as LLaVA 1.5's does."""
    return type(processor).__name__.startswith("LlavaImageProcessor") and bool(processor.do_pad)


def _square(image: Image.Image, side: int, resize: int, fit: str, resample: int) -> Image.Image:
    if fit == "stretch":
        image = image.resize((resize, resize), resample)
    else:
        width, height = image.size
        shorter = min(width, height)
        image = image.resize((resize * width // shorter, resize * height // shorter), resample)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
