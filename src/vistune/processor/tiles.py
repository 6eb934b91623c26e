"""Cut an image into tiles, and map its slots to tiles, patches and areas of the image.

`square` and `pad` make one tile. `naflex` makes one tile of patches (`patch_grids.py`). `anyres` makes an overview and
the tiles of the canvas that fits the image best (LLaVA 1.6, https://llava-vl.github.io/blog/2024-01-30-llava-next). The
area that the canvas adds around the image gets no slots, and every row of patches ends in one slot for the model's
`newline` vector. The number of slots depends only on the image's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from vistune.errors import DataError
from vistune.processor.images import cut_corner, fit, image_size, open_image, pad_to_square, resized_to
from vistune.processor.patch_grids import budget_of, grid_of, load_patches, naflex_slots
from vistune.types import ImageRef, Spec

NEWLINE = -1  # tile number of a slot that the model's `newline` vector fills
Size = tuple[int, int]  # width, height in pixels


def choose_canvas(size: Size, canvases: tuple[Size, ...]) -> Size:
    """Return the canvas on which the image keeps the most pixels; among equals, the smallest."""

    def rank(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, kept - canvas[0] * canvas[1]

    return max(canvases, key=rank)


def slots_of(image: ImageRef, spec: Spec) -> int:
    """Return the number of slots of an image; no pixel is decoded."""
    return count_slots(image_size(image), spec) if spec.slots_vary else spec.slots_per_image


def count_slots(size: Size, spec: Spec) -> int:
    """Return the number of slots of an image of a model in which it varies.

    anyres: the overview, and each row of patches with its newline. naflex: the image's own grid.
    """
    if spec.image_mode == "naflex":
        budget = budget_of(spec)
        return math.prod(grid_of(size, budget)) // budget.cell**2
    rows, columns = (len(span) for span in _shown(size, spec))
    return spec.slots_per_image + rows * (columns + 1)


def slots_of_size(size: Size, spec: Spec) -> torch.Tensor | None:
    """Return the tile and patch of each slot, (slots, 2) int64; None if every patch of every tile has a slot."""
    if spec.image_mode == "naflex":
        return naflex_slots(size, spec)
    return anyres_slots(size, spec) if spec.image_mode == "anyres" else None


def blank_tiles(spec: Spec, tiles: int) -> torch.Tensor:
    """Return black tiles in the shape of `Example.images`."""
    if spec.image_mode == "naflex":
        budget = budget_of(spec)
        return torch.zeros((tiles, budget.most, 3 * budget.patch**2), dtype=torch.uint8)
    return torch.zeros((tiles, 3, spec.image_side, spec.image_side), dtype=torch.uint8)


def grids_of_sizes(sizes: Sequence[Size], spec: Spec) -> torch.Tensor | None:
    """Return the rows and columns of patches of each image, (images, 2) int64; None if the model is not NaFlex."""
    if spec.image_mode != "naflex":
        return None
    grids = [grid_of(size, budget_of(spec)) for size in sizes]
    return torch.tensor(grids, dtype=torch.int64).reshape(-1, 2)


@lru_cache(maxsize=4096)
def anyres_slots(size: Size, spec: Spec) -> torch.Tensor:
    """Return the tile and patch of each slot, (slots, 2) int64; the tile is NEWLINE at the end of a row of patches."""
    across = choose_canvas(size, spec.canvases)[0] // spec.image_side  # tiles side by side
    grid = math.isqrt(spec.slots_per_image)
    rows, columns = _shown(size, spec)
    y, x = np.mgrid[rows.start : rows.stop, columns.start : columns.stop]
    placed = np.stack([1 + (y // grid) * across + x // grid, (y % grid) * grid + x % grid], axis=-1)
    ended = np.concatenate([placed, np.full((len(rows), 1, 2), (NEWLINE, 0))], axis=1)
    overview = np.stack([np.zeros(grid * grid, int), np.arange(grid * grid)], axis=-1)
    return torch.from_numpy(np.concatenate([overview, ended.reshape(-1, 2)]))


def shift_tiles(slots: torch.Tensor, tiles: int) -> torch.Tensor:
    """Return slots (slots, 2) with `tiles` added to the tile numbers; NEWLINE stays."""
    shifted = slots.clone()
    shifted[shifted[:, 0] != NEWLINE, 0] += tiles
    return shifted


def _shown(size: Size, spec: Spec) -> tuple[range, range]:
    """Return the rows and columns of the canvas' patches that show the image, as `unpad_image` computes them.

    The original LLaVA truncates. transformers and vLLM round to seven digits first, so that a whole number just missed
    by floating point stays whole. `tokenization` shows from which of the two a model comes.
    """

    def within(patches: int, shown: float) -> range:
        margin = (patches - int(shown if spec.tokenization == "chunks" else round(shown, 7))) // 2
        return range(margin, patches - margin)

    (width, height), grid = size, math.isqrt(spec.slots_per_image)
    columns, rows = (edge // spec.image_side * grid for edge in choose_canvas(size, spec.canvases))
    if width / height > columns / rows:
        return within(rows, height * (columns / width)), range(columns)
    return range(rows), within(columns, width * (rows / height))


def load_tiles(image: ImageRef, spec: Spec) -> torch.Tensor:
    """Return an image as in `Example.images`, as the tower's own image processor gives it before normalising."""
    opened = open_image(image)
    if spec.image_mode == "naflex":
        return load_patches(opened, spec)
    if spec.image_mode == "anyres":
        return torch.stack([_tensor(tile) for tile in _anyres(opened, spec)])
    whole = pad_to_square(opened, spec) if spec.image_mode == "pad" else opened
    return _tensor(fit(whole, spec))[None]


def _anyres(image: Image.Image, spec: Spec) -> list[Image.Image]:
    """Return the overview, the whole image stretched to one tile, and the canvas' tiles row by row."""
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


@dataclass(frozen=True, slots=True)
class View:
    """A grid of patches over an image.

    Attributes:
        rows: Number of rows.
        columns: Number of columns.
        slots: (rows * columns,) the image's slots that fill the grid, row by row.
        box: x0, y0, x1, y1 of the grid relative to the upright image; outside 0 to 1 if it covers padding.
    """

    rows: int
    columns: int
    slots: torch.Tensor
    box: tuple[float, float, float, float]


def views_of(size: Size, spec: Spec) -> tuple[View, ...]:
    """Return the grids in which a model sees an image: one, or for anyres the overview and the tiles.

    Slots without a position (the class token, an anyres newline) are in no grid.

    Raises:
        DataError: If the slots of a tile do not form a square grid.
    """
    if spec.image_mode == "naflex":
        budget = budget_of(spec)
        rows, columns = (edge // budget.cell for edge in grid_of(size, budget))
        return (View(rows, columns, torch.arange(rows * columns), (0.0, 0.0, 1.0, 1.0)),)
    skipped = int(spec.feature_tokens == "cls_patch")
    side = math.isqrt(spec.slots_per_image - skipped)
    if side * side != spec.slots_per_image - skipped:
        raise DataError(
            f"this model has {spec.slots_per_image} slots per tile, which do not form a square grid",
            "attention maps need a model that keeps the grid of patches",
        )
    slots = torch.arange(skipped, spec.slots_per_image)
    if spec.image_mode == "anyres":
        return View(side, side, slots, (0.0, 0.0, 1.0, 1.0)), _tiles_view(size, spec, side)
    return (View(side, side, slots, _visible_box(size, spec)),)


def _visible_box(size: Size, spec: Spec) -> tuple[float, float, float, float]:
    """Return the part of an image that a single tile shows after `pad_to_square` and `fit`."""
    width, height = size
    if spec.image_mode == "pad":
        side = max(size)
        left, top = -((side - width) // 2), -((side - height) // 2)
        return left / width, top / height, (left + side) / width, (top + side) / height
    side = spec.image_side
    across, down = resized_to(size, spec)
    left, top = cut_corner((across, down), spec)
    return left / across, top / down, (left + side) / across, (top + side) / down


def _tiles_view(size: Size, spec: Spec, side: int) -> View:
    """Return the grid of an anyres image's tiles, without the padding that `anyres_slots` leaves out."""
    tile_slots = anyres_slots(size, spec)[spec.slots_per_image :]
    rows = int((tile_slots[:, 0] == NEWLINE).sum())
    columns = len(tile_slots) // rows - 1
    indices = torch.arange(len(tile_slots)).reshape(rows, columns + 1)[:, :-1] + spec.slots_per_image
    canvas = choose_canvas(size, spec.canvases)
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    patch = spec.image_side / side
    edges = []
    for whole, length, count in zip(canvas, size, (columns, rows), strict=True):
        shown = min(math.ceil(length * scale), whole)
        begin = (whole - count * patch) / 2 - (whole - shown) // 2
        edges.append((begin / shown, (begin + count * patch) / shown))
    (x0, x1), (y0, y1) = edges
    return View(rows, columns, indices.flatten(), (x0, y0, x1, y1))
