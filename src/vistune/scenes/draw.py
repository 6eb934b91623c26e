"""Make random scenes of coloured shapes with exact boxes, and draw them as pixels.

A scene has a background and one to five shapes in the cells of a 3 x 3 grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from vistune.types import Box

SIDE = 96  # pixels
CELL = SIDE // 3
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLORS = {
    "red": (214, 44, 44),
    "orange": (240, 138, 28),
    "yellow": (236, 214, 46),
    "green": (48, 158, 62),
    "blue": (46, 92, 214),
    "purple": (146, 62, 178),
}
RADII = {"small": (7, 8), "large": (12, 13)}  # pixels, inclusive
# No image of the training split has these pairs; every image of the split `combinations` has one.
HELD_OUT = (("red", "star"), ("blue", "heart"), ("yellow", "cross"), ("green", "triangle"))
LARGEST_COUNT = 5
_OVERSAMPLING = 4  # masks are drawn this many times larger and shrunk, for soft edges


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape; centre and radius in pixels, turn in degrees."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    radius: int
    turn: int

    def box(self) -> Box:
        x0, y0 = (self.x - self.radius) / SIDE, (self.y - self.radius) / SIDE
        x1, y1 = (self.x + self.radius) / SIDE, (self.y + self.radius) / SIDE
        return Box(self.shape, x0, y0, x1, y1, {"color": self.color, "size": self.size})


@dataclass(frozen=True, slots=True)
class DrawnScene:
    """Shapes in reading order, and the seed of the background's noise."""

    things: tuple[Thing, ...]
    background: int

    def boxes(self) -> tuple[Box, ...]:
        return tuple(thing.box() for thing in self.things)


def make_scene(
    rng: np.random.Generator, *, held_out: bool = False, counts: tuple[int, int] = (1, LARGEST_COUNT)
) -> DrawnScene:
    """Return a random scene. With `held_out` at least one shape is a held-out pair, without it none is."""
    count = int(rng.integers(counts[0], counts[1] + 1))
    cells = np.sort(rng.permutation(9)[:count])
    # Half of the scenes choose from few shapes and colours, so that counts above one and look-alikes are common.
    shapes = rng.permutation(len(SHAPES))[: int(rng.integers(2, 4)) if rng.random() < 0.5 else len(SHAPES)]
    colors = rng.permutation(len(COLORS))[: int(rng.integers(2, 4)) if rng.random() < 0.5 else len(COLORS)]
    pairs = [_pair(rng, shapes, colors) for _ in cells]
    if held_out:
        pairs[int(rng.integers(count))] = HELD_OUT[int(rng.integers(len(HELD_OUT)))]
    things = tuple(_thing(rng, pair, int(cell)) for pair, cell in zip(pairs, cells, strict=True))
    return DrawnScene(things, background=int(rng.integers(2**31)))


def _pair(rng: np.random.Generator, shapes: np.ndarray, colors: np.ndarray) -> tuple[str, str]:
    names = tuple(COLORS)
    while True:
        pair = names[int(rng.choice(colors))], SHAPES[int(rng.choice(shapes))]
        if pair not in HELD_OUT:
            return pair
        shapes, colors = (
            np.arange(len(SHAPES)),
            np.arange(len(COLORS)),
        )  # the chosen shapes and colours may allow only held-out pairs


def _thing(rng: np.random.Generator, pair: tuple[str, str], cell: int) -> Thing:
    size = "large" if rng.random() < 0.5 else "small"
    low, high = RADII[size]
    radius = int(rng.integers(low, high + 1))
    room = CELL // 2 - radius - 1  # the soft edge needs a pixel
    row, column = divmod(cell, 3)
    x = column * CELL + CELL // 2 + int(rng.integers(-room, room + 1))
    y = row * CELL + CELL // 2 + int(rng.integers(-room, room + 1))
    return Thing(pair[1], pair[0], size, x, y, radius, turn=int(rng.integers(-2, 3)) * 6)


def render(scene: DrawnScene) -> np.ndarray:
    """Return (side, side, 3) uint8 RGB with soft edges and a noisy, shaded background; equal scenes, equal pixels."""
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
    pixels: np.ndarray = np.clip(canvas, 0, 255).astype(np.uint8)
    return pixels


def _background(rng: np.random.Generator) -> np.ndarray:
    """Return a light or dark background with a tint, shaded in a random direction, and stripes in half of the cases."""
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
    """Return unit noise to cut windows from; fresh noise would take most of the time."""
    return np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    line = np.linspace(-1, 1, SIDE, dtype=np.float32)
    return line[:, None], line[None, :]


@cache
def _mask(shape: str, radius: int, turn: int) -> np.ndarray:
    """Return the coverage (2 * reach, 2 * reach, 1), 0-1, of a shape that fills its radius."""
    reach = radius + 1
    side = 2 * reach * _OVERSAMPLING
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    center, r = side / 2, radius * _OVERSAMPLING
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
    """Return polygons, or discs as one (x, y, radius), in units of the radius, y down."""
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
