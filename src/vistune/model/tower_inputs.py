"""Normalise tiles, and turn them into a tower's arguments: pixels, or patches for SigLIP 2 NaFlex."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


def takes_patches(kind: type[nn.Module]) -> bool:
    """Return whether a tower takes flattened patches, as SigLIP 2 of variable size (NaFlex) does."""
    return "spatial_shapes" in inspect.signature(kind.forward).parameters


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise uint8 tiles (tiles, 3, side, side) or patches (tiles, patches, patch * patch * 3).

    Args:
        mean, std: (1, 3, 1, 1), for values from 0 to 255.
    """
    if images.ndim == 4:
        return (images.to(mean.dtype) - mean) / std
    pixels = images.unflatten(2, (-1, 3)).to(mean.dtype)
    patches: Tensor = (pixels - mean.flatten()) / std.flatten()
    return patches.flatten(2)


def tower_inputs(tower: Any, pixels: Tensor, grids: Tensor | None = None) -> dict[str, Tensor | None]:
    """Return a tower's arguments for normalised pixels (tiles, 3, side, side), or patches of different grids.

    Args:
        grids: (tiles, 2), the rows and columns of each tile of patches; a tile is padded after its last patch.
    """
    if grids is not None:
        return _patch_inputs(pixels, grids)
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


def _patch_inputs(patches: Tensor, grids: Tensor) -> dict[str, Tensor | None]:
    is_padding = torch.arange(patches.shape[1], device=grids.device) >= grids.prod(dim=1, keepdim=True)
    # transformers omits the mask if no tile has padding; a tile's features must not depend on the other tiles.
    mask = torch.zeros(is_padding.shape, dtype=patches.dtype, device=grids.device)
    mask = mask.masked_fill(is_padding, torch.finfo(patches.dtype).min)
    return {"pixel_values": patches, "pixel_attention_mask": mask[:, None, None], "spatial_shapes": grids}
