"""What can stand in a drawn picture, and chance that puts it there.

seed, index -> DrawnScene: a background and one to five things in the cells of a 3 x 3 grid, with exact boxes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
# These pairs are in no picture of the training split; the split `combinations` is made of them.
HELD_OUT = (("red", "star"), ("blue", "heart"), ("yellow", "cross"), ("green", "triangle"))
LARGEST_COUNT = 5


@dataclass(frozen=True, slots=True)
class Thing:
    """One object; centre and radius in pixels, turn in degrees."""

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
    """Things in reading order, and the seed of the background's noise."""

    things: tuple[Thing, ...]
    background: int

    def boxes(self) -> tuple[Box, ...]:
        return tuple(thing.box() for thing in self.things)


def make_scene(
    rng: np.random.Generator, *, held_out: bool = False, counts: tuple[int, int] = (1, LARGEST_COUNT)
) -> DrawnScene:
    """A scene drawn by chance; with `held_out` at least one thing is a held-out pair, without it none is."""
    count = int(rng.integers(counts[0], counts[1] + 1))
    cells = np.sort(rng.permutation(9)[:count])
    # Half the scenes choose from few shapes and colours, so that counts above one and look-alikes are common.
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
        shapes, colors = np.arange(len(SHAPES)), np.arange(len(COLORS))  # a held-out pair may be all that was on offer


def _thing(rng: np.random.Generator, pair: tuple[str, str], cell: int) -> Thing:
    size = "large" if rng.random() < 0.5 else "small"
    low, high = RADII[size]
    radius = int(rng.integers(low, high + 1))
    room = CELL // 2 - radius - 1  # the soft edge needs a pixel
    row, column = divmod(cell, 3)
    x = column * CELL + CELL // 2 + int(rng.integers(-room, room + 1))
    y = row * CELL + CELL // 2 + int(rng.integers(-room, room + 1))
    return Thing(pair[1], pair[0], size, x, y, radius, turn=int(rng.integers(-2, 3)) * 6)
