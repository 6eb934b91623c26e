"""A picture as tiles, and which of their features fill its slots.

size (width, height) + Spec -> slots (slots, 2): tile and patch · picture + Spec -> uint8 (tiles, 3, side, side)
`square` and `pad` make one tile, `anyres` an overview and the tiles of the canvas that suits the picture best
(LLaVA 1.6, https://llava-vl.github.io/blog/2024-01-30-llava-next). What the canvas adds around the picture gets no
slots, and each row of patches ends in one slot for the model's `newline`. Lengths need a picture's size alone.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from vistune.processor.images import fit, open_picture, pad_to_square, picture_size
from vistune.types import Picture, Spec

NEWLINE = -1  # as a slot's tile: the model's `newline`, not a feature
Size = tuple[int, int]  # width, height in pixels


def choose_canvas(size: Size, canvases: tuple[Size, ...]) -> Size:
    """The canvas on which the picture keeps most pixels; of equal ones, the one with least left over."""

    def worth(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, kept - canvas[0] * canvas[1]

    return max(canvases, key=worth)


def slots_of(picture: Picture, spec: Spec) -> int:
    """How many slots a picture takes; no pixel is decoded."""
    if spec.image_mode != "anyres":
        return spec.slots_per_image
    return len(anyres_slots(picture_size(picture), spec))


@lru_cache(maxsize=4096)
def anyres_slots(size: Size, spec: Spec) -> torch.Tensor:
    """(slots, 2) int64: the tile and patch that fill each slot, tile NEWLINE at the end of a row of patches."""
    width, height = choose_canvas(size, spec.canvases)
    grid = math.isqrt(spec.slots_per_image)
    columns, rows = width // spec.image_side, height // spec.image_side
    y, x = np.mgrid[: rows * grid, : columns * grid]
    tile = 1 + (y // grid) * columns + x // grid
    placed = np.stack([tile, (y % grid) * grid + x % grid], axis=-1)[_inside(size, tile.shape)]
    ended = np.concatenate([placed, np.full((len(placed), 1, 2), (NEWLINE, 0))], axis=1)
    overview = np.stack([np.zeros(grid * grid, int), np.arange(grid * grid)], axis=-1)
    return torch.from_numpy(np.concatenate([overview, ended.reshape(-1, 2)]))


def _inside(size: Size, grid: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of patches that show the picture, rounded as the original's `unpad_image` rounds."""
    (width, height), (rows, columns) = size, grid
    if width / height > columns / rows:
        margin = (rows - int(height * (columns / width))) // 2
        return slice(margin, rows - margin), slice(None)
    margin = (columns - int(width * (rows / height))) // 2
    return slice(None), slice(margin, columns - margin)


def load_tiles(picture: Picture, spec: Spec) -> torch.Tensor:
    """uint8 (tiles, 3, side, side), as the tower's own processor makes them before it normalises."""
    image = open_picture(picture)
    if spec.image_mode == "anyres":
        return torch.stack([_tensor(tile) for tile in _anyres(image, spec)])
    whole = pad_to_square(image, spec) if spec.image_mode == "pad" else image
    return _tensor(fit(whole, spec))[None]


def _anyres(image: Image.Image, spec: Spec) -> list[Image.Image]:
    """The whole picture squeezed into one tile, then the canvas cut into tiles, row by row."""
    side, resample = spec.image_side, Image.Resampling(spec.image_resample)
    width, height = choose_canvas(image.size, spec.canvases)
    across, down = width / image.width, height / image.height
    if across < down:
        fitted = (width, min(math.ceil(image.height * across), height))
    else:
        fitted = (min(math.ceil(image.width * down), width), height)
    canvas = Image.new("RGB", (width, height))
    resized = image.resize(fitted, resample)
    canvas.paste(resized, ((width - fitted[0]) // 2, (height - fitted[1]) // 2))
    corners = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
    overview = image.resize((side, side), resample)
    return [overview, *(canvas.crop((x, y, x + side, y + side)) for x, y in corners)]


def _tensor(tile: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(tile)).permute(2, 0, 1)
