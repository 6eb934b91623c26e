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

from vistune.processor.images import fit, image_size, open_image, pad_to_square
from vistune.types import ImageRef, Spec

NEWLINE = -1  # as a slot's tile: the model's `newline`, not a feature
Size = tuple[int, int]  # width, height in pixels


def choose_canvas(size: Size, canvases: tuple[Size, ...]) -> Size:
    """The canvas on which the picture keeps most pixels; of equal ones, the one with least left over."""

    def worth(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, kept - canvas[0] * canvas[1]

    return max(canvases, key=worth)


def slots_of(image: ImageRef, spec: Spec) -> int:
    """How many slots a picture takes; no pixel is decoded."""
    return count_slots(image_size(image), spec) if spec.image_mode == "anyres" else spec.slots_per_image


def count_slots(size: Size, spec: Spec) -> int:
    """Slots of an anyres picture: the overview's, and a newline more than patches in each row."""
    rows, columns = (len(span) for span in _shown(size, spec))
    return spec.slots_per_image + rows * (columns + 1)


@lru_cache(maxsize=4096)
def anyres_slots(size: Size, spec: Spec) -> torch.Tensor:
    """(slots, 2) int64: the tile and patch that fill each slot, tile NEWLINE at the end of a row of patches."""
    across = choose_canvas(size, spec.canvases)[0] // spec.image_side  # tiles side by side
    grid = math.isqrt(spec.slots_per_image)
    rows, columns = _shown(size, spec)
    y, x = np.mgrid[rows.start : rows.stop, columns.start : columns.stop]
    placed = np.stack([1 + (y // grid) * across + x // grid, (y % grid) * grid + x % grid], axis=-1)
    ended = np.concatenate([placed, np.full((len(rows), 1, 2), (NEWLINE, 0))], axis=1)
    overview = np.stack([np.zeros(grid * grid, int), np.arange(grid * grid)], axis=-1)
    return torch.from_numpy(np.concatenate([overview, ended.reshape(-1, 2)]))


def _shown(size: Size, spec: Spec) -> tuple[range, range]:
    """Rows and columns of the canvas' patches that show the picture, as `unpad_image` counts them.

    The original's takes what stands before the point; transformers' and vLLM's round to seven digits first, so that a
    whole number which floating point falls just short of is met. A model is served by the code of its own layout.
    """

    def within(patches: int, shown: float) -> range:
        margin = (patches - int(shown if spec.tokenization == "chunks" else round(shown, 7))) // 2
        return range(margin, patches - margin)

    (width, height), grid = size, math.isqrt(spec.slots_per_image)
    columns, rows = (edge // spec.image_side * grid for edge in choose_canvas(size, spec.canvases))
    if width / height > columns / rows:
        return within(rows, height * (columns / width)), range(columns)
    return range(rows), within(columns, width * (rows / height))


def load_tiles(opened: ImageRef, spec: Spec) -> torch.Tensor:
    """uint8 (tiles, 3, side, side), as the tower's own processor makes them before it normalises."""
    image = open_image(opened)
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
