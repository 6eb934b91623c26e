"""Divide an image into a grid of patches that keeps its aspect ratio, for SigLIP 2 NaFlex (arXiv 2502.14786).

The grid is that of transformers' `Siglip2ImageProcessor`. It depends only on the image's size.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from vistune.types import PatchBudget, Spec

LARGEST_SCALE, PRECISION = 100.0, 1e-5  # of transformers' search for the scale


@lru_cache(maxsize=4096)
def grid_of(size: tuple[int, int], budget: PatchBudget) -> tuple[int, int]:
    """Return the (rows, columns) of patches of an image of `size` (width, height).

    An image is scaled as far as its patches stay within the budget, and each side is then rounded up to whole cells.
    """
    side, most = budget.patch * budget.cell, budget.most // budget.cell**2

    def cells(scale: float) -> tuple[int, int]:
        columns, rows = (max(1, math.ceil(length * scale / side)) for length in size)
        return rows, columns

    low, high = PRECISION / 10, LARGEST_SCALE
    while high - low >= PRECISION:  # transformers searches in these steps; a formula would round differently
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(cells(middle)) <= most else (low, middle)
    rows, columns = cells(low)
    return rows * budget.cell, columns * budget.cell


def budget_of(spec: Spec) -> PatchBudget:
    """Return the patch budget of a NaFlex model."""
    assert spec.patch_budget is not None, "only NaFlex models have a patch budget"
    return spec.patch_budget


def naflex_slots(size: tuple[int, int], spec: Spec) -> torch.Tensor:
    """Return the tile (0) and the number of each slot of an image, (slots, 2) int64."""
    budget = budget_of(spec)
    count = math.prod(grid_of(size, budget)) // budget.cell**2
    return torch.stack([torch.zeros(count, dtype=torch.int64), torch.arange(count)], dim=1)


def load_patches(image: Image.Image, spec: Spec) -> torch.Tensor:
    """Return an image's patches, uint8 (1, most patches, values of a patch), row by row and then zeros."""
    budget = budget_of(spec)
    rows, columns = grid_of(image.size, budget)
    patch = budget.patch
    resized = image.resize((columns * patch, rows * patch), Image.Resampling(spec.image_resample))
    pixels = torch.from_numpy(np.array(resized)).reshape(rows, patch, columns, patch, 3)
    patches = torch.zeros((1, budget.most, patch * patch * 3), dtype=torch.uint8)
    patches[0, : rows * columns] = pixels.transpose(1, 2).reshape(rows * columns, -1)
    return patches
