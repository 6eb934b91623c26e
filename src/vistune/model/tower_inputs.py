"""Turn normalised tiles into a tower's arguments: pixels, or for SigLIP 2 of variable size patches."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


def takes_patches(kind: type[nn.Module]) -> bool:
    """Return whether a tower takes flattened patches, as SigLIP 2 of variable size does."""
    return "spatial_shapes" in inspect.signature(kind.forward).parameters


def tower_inputs(tower: Any, pixels: Tensor) -> dict[str, Tensor | None]:
    """Return a tower's arguments for normalised pixels (tiles, 3, side, side).

    SigLIP 2 of variable size takes patches (tiles, patches, patch * patch * 3) and the shape of their grid.
    """
    if not takes_patches(type(tower)):
        return {"pixel_values": pixels}
    tiles, channels, height, width = pixels.shape
    patch = int(tower.config.patch_size)
    rows, columns = height // patch, width // patch
    grid = pixels.reshape(tiles, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": grid.reshape(tiles, rows * columns, patch * patch * channels),
        "pixel_attention_mask": None,
        "spatial_shapes": torch.tensor([[rows, columns]] * tiles),
    }
