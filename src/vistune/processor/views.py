"""Where in a picture each of its slots lies: grids of patches, and the part of the picture that a grid covers.

size (width, height) + Spec -> View: rows, columns, which of the picture's slots fill them, box
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vistune.errors import DataError
from vistune.processor.tiles import NEWLINE, anyres_slots, choose_canvas
from vistune.types import Spec

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True, slots=True)
class View:
    """A grid over a picture.

    slots (rows * columns,): the picture's slots that fill the grid, row by row · box: x0, y0, x1, y1 of the grid in the
    upright picture's widths and heights; beyond 0 to 1 where it also covers what was added around the picture.
    """

    rows: int
    columns: int
    slots: torch.Tensor
    box: tuple[float, float, float, float]


def views_of(size: Size, spec: Spec) -> tuple[View, ...]:
    """The grids in which a model sees a picture: one, or for anyres the overview and the tiles.

    Slots that have no place (the class token, an anyres newline) are in none. Raises DataError where a model's slots
    lie in no grid.
    """
    skipped = int(spec.feature_tokens == "cls_patch")
    side = math.isqrt(spec.slots_per_image - skipped)
    if side * side != spec.slots_per_image - skipped:
        raise DataError(
            f"this model makes {spec.slots_per_image} slots of a tile, which lie in no square grid",
            "where it looks is known of models that keep their patches in a grid",
        )
    slots = torch.arange(skipped, spec.slots_per_image)
    if spec.image_mode == "anyres":
        return View(side, side, slots, (0.0, 0.0, 1.0, 1.0)), _tiles_view(size, spec, side)
    return (View(side, side, slots, _seen_box(size, spec)),)


def _seen_box(size: Size, spec: Spec) -> tuple[float, float, float, float]:
    """What a single tile shows of a picture, by `pad_to_square` and `fit` in images.py."""
    width, height = size
    if spec.image_mode == "pad":
        side = max(size)
        left, top = -((side - width) // 2), -((side - height) // 2)
        return left / width, top / height, (left + side) / width, (top + side) / height
    if spec.image_fit == "stretch":
        return 0.0, 0.0, 1.0, 1.0
    side = spec.image_side
    long = int(side * max(size) / min(size))
    across, down = (side, long) if width <= height else (long, side)
    left, top = math.floor((across - side) / 2), math.floor((down - side) / 2)
    return left / across, top / down, (left + side) / across, (top + side) / down


def _tiles_view(size: Size, spec: Spec, side: int) -> View:
    """The patches of an anyres picture's tiles, what its canvas adds cut off as in `anyres_slots`."""
    behind = anyres_slots(size, spec)[spec.slots_per_image :]
    rows = int((behind[:, 0] == NEWLINE).sum())
    columns = len(behind) // rows - 1
    places = torch.arange(len(behind)).reshape(rows, columns + 1)[:, :-1] + spec.slots_per_image
    canvas = choose_canvas(size, spec.canvases)
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    patch = spec.image_side / side
    edges = []
    for whole, length, count in zip(canvas, size, (columns, rows), strict=True):
        shown = min(math.ceil(length * scale), whole)
        begin = (whole - count * patch) / 2 - (whole - shown) // 2
        edges.append((begin / shown, (begin + count * patch) / shown))
    (x0, x1), (y0, y1) = edges
    return View(rows, columns, places.flatten(), (x0, y0, x1, y1))
