"""A scene as pixels: shapes with soft edges on a noisy, shaded background.

DrawnScene -> uint8 array (side, side, 3)
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from vistune.scenes.world import COLORS, SIDE, DrawnScene

_OVER = 4  # masks are drawn this much larger and shrunk, for soft edges


def render(scene: DrawnScene) -> np.ndarray:
    """(side, side, 3) uint8 RGB; the same scene gives the same pixels."""
    rng = np.random.default_rng(scene.background)
    canvas = _background(rng)
    tints = rng.integers(-22, 23, size=(len(scene.things), 3))
    for thing, tint in zip(scene.things, tints, strict=True):
        mask = _mask(thing.shape, thing.radius, thing.turn)
        reach = mask.shape[0] // 2
        window = canvas[thing.y - reach : thing.y + reach, thing.x - reach : thing.x + reach]
        color = np.clip(np.asarray(COLORS[thing.color]) + tint, 0, 255).astype(np.float32)
        window += mask * (color - window)
    bank = _noise()
    start = int(rng.integers(bank.size - canvas.size))
    canvas += bank[start : start + canvas.size].reshape(canvas.shape) * np.float32(rng.uniform(2, 7))
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Light or dark, slightly tinted, shaded in a random direction, half of them with stripes."""
    level = rng.uniform(16, 60) if rng.random() < 0.4 else rng.uniform(165, 240)
    tint = rng.uniform(-14, 14, size=3)
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 26)
    rows, columns = _grid()
    shade = slope * (np.float32(math.cos(angle)) * columns + np.float32(math.sin(angle)) * rows)
    if rng.random() < 0.5:
        waves, phase = rng.uniform(2, 9), rng.uniform(0, 2 * math.pi)
        turn = rng.uniform(0, math.pi)
        shade = shade + rng.uniform(3, 9) * np.sin(
            np.float32(waves * math.pi) * (math.cos(turn) * columns + math.sin(turn) * rows) + np.float32(phase)
        )
    return (shade[:, :, None] + (level + tint).astype(np.float32)).astype(np.float32)


@cache
def _noise() -> np.ndarray:
    """A stretch of unit noise to cut windows from: drawing fresh noise would take most of the time."""
    return np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    line = np.linspace(-1, 1, SIDE, dtype=np.float32)
    return line[:, None], line[None, :]


@cache
def _mask(shape: str, radius: int, turn: int) -> np.ndarray:
    """Coverage (2 * reach, 2 * reach, 1), 0-1, of a shape that fills its radius."""
    reach = radius + 1
    side = 2 * reach * _OVER
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    center, r = side / 2, radius * _OVER
    for polygon in _outlines(shape):
        if len(polygon) == 1:  # a disc: centre x, centre y, radius, in units of the radius
            x, y, disc = polygon[0]
            x, y, disc = center + x * r, center + y * r, disc * r
            pen.ellipse((x - disc, y - disc, x + disc, y + disc), fill=255)
        else:
            pen.polygon([(center + x * r, center + y * r) for x, y, *_ in polygon], fill=255)
    if turn and shape != "circle":
        image = image.rotate(turn, Image.Resampling.BICUBIC)
    small = image.resize((2 * reach, 2 * reach), Image.Resampling.BOX)
    return (np.asarray(small, dtype=np.float32) / 255)[:, :, None]


def _outlines(shape: str) -> list[list[tuple[float, ...]]]:
    """Polygons, or discs as one (x, y, radius), in units of the radius, y down."""
    if shape == "circle":
        return [[(0, 0, 0.95)]]
    if shape == "square":
        return [[(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)]]
    if shape == "triangle":
        return [[(0, -0.95), (0.95, 0.75), (-0.95, 0.75)]]
    if shape == "star":
        points = [(math.pi * k / 5 - math.pi / 2, 1.0 if k % 2 == 0 else 0.42) for k in range(10)]
        return [[(reach * math.cos(angle), reach * math.sin(angle)) for angle, reach in points]]
    if shape == "cross":
        arm = 0.3
        return [
            [(-arm, -0.95), (arm, -0.95), (arm, 0.95), (-arm, 0.95)],
            [(-0.95, -arm), (0.95, -arm), (0.95, arm), (-0.95, arm)],
        ]
    if shape == "heart":
        return [
            [(-0.45, -0.35, 0.5)],
            [(0.45, -0.35, 0.5)],
            [(-0.92, -0.15), (0.92, -0.15), (0, 0.95)],
            [(-0.5, -0.4), (0.5, -0.4), (0, 0.4)],
        ]
    raise ValueError(shape)
