"""Make random scenes of coloured shapes with exact boxes, draw them as pixels, and write them as a COCO folder.

A scene has a background and one to five shapes in the cells of a 3 x 3 grid. A folder has OUT/SPLIT/*.jpg,
OUT/annotations/{captions,instances}_SPLIT.json, and OUT/questions_SPLIT.jsonl with exact answers. Categories are
shapes; colour and size are `attributes` of each annotation. Each image has an English and a Korean caption.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vistune.files import write_jsonl
from vistune.grounding import QUESTION_TYPES, Scene, ask, brief_cue, caption
from vistune.types import Box

SPLITS = ("train", "heldout", "combinations")

DESCRIPTION = "vistune drawn scenes"  # `info.description` of the annotation files
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
    # Half of the scenes choose from few shapes and colours, so that counts above one and similar objects are common.
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
        # the chosen shapes and colours may allow only held-out pairs
        shapes, colors = np.arange(len(SHAPES)), np.arange(len(COLORS))


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


# Polygons, or discs as one (x, y, radius), in units of the radius, y down.
_OUTLINES: Mapping[str, Sequence[Sequence[tuple[float, ...]]]] = {
    "circle": [[(0, 0, 0.95)]],
    "square": [[(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)]],
    "triangle": [[(0, -0.95), (0.95, 0.75), (-0.95, 0.75)]],
    "star": [
        [
            (reach * math.cos(math.pi * k / 5 - math.pi / 2), reach * math.sin(math.pi * k / 5 - math.pi / 2))
            for k, reach in enumerate([1.0, 0.42] * 5)
        ]
    ],
    "cross": [
        [(-0.3, -0.95), (0.3, -0.95), (0.3, 0.95), (-0.3, 0.95)],
        [(-0.95, -0.3), (0.95, -0.3), (0.95, 0.3), (-0.95, 0.3)],
    ],
    "heart": [
        [(-0.45, -0.35, 0.5)],
        [(0.45, -0.35, 0.5)],
        [(-0.92, -0.15), (0.92, -0.15), (0, 0.95)],
        [(-0.5, -0.4), (0.5, -0.4), (0, 0.4)],
    ],
}


@cache
def _mask(shape: str, radius: int, turn: int) -> np.ndarray:
    """Return the coverage (2 * reach, 2 * reach, 1), 0-1, of a shape that fills its radius."""
    reach = radius + 1
    side = 2 * reach * _OVERSAMPLING
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    center, r = side / 2, radius * _OVERSAMPLING
    for polygon in _OUTLINES[shape]:
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


@dataclass(frozen=True, slots=True)
class DrawnFolder:
    """A written folder, and the number of images of each split."""

    path: Path
    counts: dict[str, int]


def write_world(
    out: Path, *, count: int, seed: int, tests: int | None = None, advance: Callable[[int], None] = lambda n: None
) -> DrawnFolder:
    """Draw `count` training scenes, and `tests` scenes for each of the two test splits.

    By default `tests` is a tenth of `count`, at least 20.
    """
    tests = max(20, count // 10) if tests is None else tests
    counts = {"train": count, "heldout": tests, "combinations": tests}
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    first = 1
    for split, number in counts.items():
        _write_split(out, split, first=first, count=number, seed=seed, advance=advance)
        first += number
    return DrawnFolder(out, counts)


def scenes_of(split: str, count: int, seed: int) -> Iterator[DrawnScene]:
    """Yield the scenes of a split; each split and seed has its own random generator.

    Scenes of the two test splits have at least two shapes, so that every type of question can be asked.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    for _ in range(count):
        yield make_scene(rng, held_out=split == "combinations", counts=(1, 5) if split == "train" else (2, 5))


def _write_split(out: Path, split: str, *, first: int, count: int, seed: int, advance: Callable[[int], None]) -> None:
    (out / split).mkdir(exist_ok=True)
    rng = random.Random(f"{seed}/{split}")
    images: list[dict[str, object]] = []
    captions: list[dict[str, object]] = []
    instances: list[dict[str, object]] = []
    questions: list[dict[str, object]] = []
    for number, drawn in enumerate(scenes_of(split, count, seed), start=first):
        name = f"{number:012d}.jpg"
        Image.fromarray(render(drawn)).save(out / split / name, "JPEG", quality=92)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        scene = Scene(drawn.boxes())
        for language in ("en", "ko"):
            text = caption(scene, language, rng)
            captions.append({"id": len(captions) + 1, "image_id": number, "caption": text, "language": language})
        instances.extend(_instances(drawn, number, len(instances)))
        if split != "train":
            questions.extend(_questions(scene, name, rng))
        advance(1)
    categories = [{"id": k, "name": shape, "supercategory": "shape"} for k, shape in enumerate(SHAPES, start=1)]
    for kind, records, extra in (("captions", captions, {}), ("instances", instances, {"categories": categories})):
        info = {"description": DESCRIPTION, "seed": seed}
        content = json.dumps({"info": info, "images": images, "annotations": records, **extra}, ensure_ascii=False)
        (out / "annotations" / f"{kind}_{split}.json").write_text(content, encoding="utf-8")
    if questions:
        write_jsonl(out / f"questions_{split}.jsonl", questions)


def _instances(drawn: DrawnScene, image: int, before: int) -> Iterator[dict[str, object]]:
    for number, thing in enumerate(drawn.things, start=before + 1):
        x, y, side = thing.x - thing.radius, thing.y - thing.radius, 2 * thing.radius
        yield {
            "id": number,
            "image_id": image,
            "category_id": SHAPES.index(thing.shape) + 1,
            "bbox": [x, y, side, side],
            "area": side * side,
            "iscrowd": 0,
            "attributes": {"color": thing.color, "size": thing.size},
        }


def _questions(scene: Scene, image: str, rng: random.Random) -> Iterator[dict[str, object]]:
    """Yield one question of each type that has a certain answer in the scene, in a random language."""
    for kind in QUESTION_TYPES:
        language = rng.choice(("en", "ko"))
        item = ask(scene, kind, language, rng)
        if item is not None:
            yield {
                "question_id": f"{image.removesuffix('.jpg')}-{kind}",
                "image": image,
                "text": f"{item.question}\n{brief_cue(language)}",
                "answer": item.answer,
                "type": kind,
                "language": language,
            }
