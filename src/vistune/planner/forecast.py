"""What each stage of a recipe will take: memory, steps, time, disk, and the longest packed row that fits.

Recipe (+ its rows, planned, where they are there) -> Sizes, Load -> Forecast of each stage, as plain values

Work is counted in FLOPs, a multiplication and an addition being two (P: weights of the language model's linear maps, A:
of its adapters, T tokens, n the length of a document, S supervised tokens, V vocabulary, d width, L layers, q width):

  forward    2 T (P + A) + 2 L q sum(n^2) + 2 S V d + the tower's 2 x patches x weights and 4 L v sum(patches^2);
             without the A that are merged, and the last MLP for S tokens, not T
  backward   as much again into the inputs where something before learns, and once more for each weight that learns
  recompute  a layer's forward once more
  muon       5 (4 m^2 n + 2 m^3) a step for each matrix of the backbones, m the smaller side

Time is work over a rate of FLOPs, plus the bytes that pass outside of products over a rate of bytes, plus 36 bytes for
each number that learns in a step (AdamW). Both rates are measured on this CPU in a moment; of a named GPU they are a
share of its data sheet's, and an assumption.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from vistune.model.projectors import projector_named
from vistune.model.shapes import config_of, language_shape, tower_shape
from vistune.model.spec import spec_of
from vistune.model.vision import layers_kept
from vistune.planner.memory import (
    MLP,
    How,
    Row,
    Sizes,
    adapter_layers,
    language_layer,
    linear_maps,
    memory,
    merged_layers,
    parameters,
)
from vistune.recipe import Model, Recipe, Stage
from vistune.types import Spec

if TYPE_CHECKING:
    from vistune.data.stages import PlannedStage

# Times that each number which a layer keeps is written or read outside of products: it is made and used, so is its
# gradient, and others come and go (norms in fp32, turned positions, sums). Fitted to benchmarks/plan_memory.py.
PASSES = 7.0
OPTIMIZER_BYTES = 36  # a number that learns: AdamW's seven passes and the two of clipping
SAMPLE_TEXT, SAMPLE_LEARNT = 200, 100  # tokens of a sample beside its picture, where no data is there to count
INDEX_BYTES = 52  # of a row in the cache
SHARE_OF_PEAK, SHARE_OF_BANDWIDTH = 0.45, 0.6  # what a GPU reaches of its data sheet; an assumption
LONGEST_ROW = 1 << 18


@dataclass(frozen=True, slots=True)
class Device:
    """Where it would run: memory in bytes, FLOP/s of products and bytes/s of everything else, as reached."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    bf16: bool


GPUS: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("24 GB (RTX 4090)", 24e9, SHARE_OF_PEAK * 165e12, SHARE_OF_BANDWIDTH * 1.0e12, True),
        Device("40 GB (A100)", 40e9, SHARE_OF_PEAK * 312e12, SHARE_OF_BANDWIDTH * 1.55e12, True),
        Device("80 GB (H100)", 80e9, SHARE_OF_PEAK * 989e12, SHARE_OF_BANDWIDTH * 3.35e12, True),
        Device("141 GB (H200)", 141e9, SHARE_OF_PEAK * 989e12, SHARE_OF_BANDWIDTH * 4.8e12, True),
    )
}
ROOM = 0.92  # of a GPU's memory: the rest is the driver's, the allocator's and the libraries'


@dataclass(frozen=True, slots=True)
class Load:
    """What a stage reads: the row that takes most, and sums over all its steps. `squares`: of documents' lengths.

    `assumed`: how it was made up where the data are not there; steps and sums are None where nobody can know.
    """

    worst: Row
    steps: int | None
    samples: int
    tokens: float
    squares: float
    supervised: float
    tiles: float
    assumed: str = ""


def sizes_of(model: Model, configs: tuple[Any, Any] | None = None, *, cut: bool = False) -> tuple[Sizes, Spec]:
    """A recipe's model in numbers, from configs alone. Raises RecipeError where a config is not at hand.

    `configs`: the tower's and the language model's, where they lie in no folders of their own · `cut`: the tower ends
    at the feature layer already.
    """
    vision, text = configs or (config_of(model.vision, "vision"), config_of(model.language, "language"))
    language = language_shape(text)
    half = (0.5, 0.5, 0.5)
    spec = spec_of(model, vision, language.width, language.vocabulary, {"image_mean": half, "image_std": half})
    layers = vision.num_hidden_layers if cut else layers_kept(vision.num_hidden_layers, model.feature_layer)
    tower = tower_shape(vision, layers=layers, space=model.space)
    with torch.device("meta"):
        made = projector_named(model.projector).build(spec.vision_width, language.width)
    count = sum(p.numel() for p in made.parameters()) + (language.width if model.image_mode == "anyres" else 0)
    linear = sum(isinstance(module, nn.Linear) for module in made.modules())
    return Sizes(tower, language, count, linear, spec.vision_width, spec.slots_per_image), spec


def load_of(planned: PlannedStage) -> Load:
    """What a planned stage reads."""
    lengths, learnt, tiles = columns_of(planned)
    counted = np.bincount(_shown(planned), minlength=len(lengths))
    sums = _sums(planned)
    worst = sums[_largest(sums)]
    return Load(
        worst=Row(int(worst[0]), max(1, int(worst[2])), int(worst[1]), max(map(len, planned.plan.steps))),
        steps=len(planned.plan.steps),
        samples=int(counted.sum()),
        tokens=float((counted * lengths).sum()),
        squares=float((counted * lengths.astype(float) ** 2).sum()),
        supervised=float((counted * learnt).sum()),
        tiles=float((counted * tiles).sum()),
    )


def largest_row(planned: PlannedStage) -> tuple[int, int]:
    """(step, its row's number) of the row that takes most: `load_of`'s worst."""
    place = _largest(_sums(planned))
    for step, rows in enumerate(planned.plan.steps):
        if place < len(rows):
            return step, place
        place -= len(rows)
    raise AssertionError("a plan has rows")


def _largest(sums: np.ndarray) -> int:
    """The place of a row that is long and learns much."""
    tokens, supervised, _ = sums.max(axis=0)
    return int((sums[:, 0] / tokens + sums[:, 1] / max(supervised, 1)).argmax())


def _shown(planned: PlannedStage) -> np.ndarray:
    """The samples of all rows of all steps, one after another."""
    rows = chain.from_iterable(planned.plan.steps)
    return np.fromiter(chain.from_iterable(rows), np.int64)


def _sums(planned: PlannedStage) -> np.ndarray:
    """(tokens, supervised tokens, tiles) of each row of all steps."""
    ends = np.cumsum([len(row) for row in chain.from_iterable(planned.plan.steps)])
    begins = np.concatenate([[0], ends[:-1]])
    return np.stack([np.add.reduceat(column[_shown(planned)], begins) for column in columns_of(planned)], axis=1)


def load_of_shards(planned: PlannedStage, folder: Path) -> Load:
    """What a stage over shards reads, if all are like the first, which is brought into the folder."""
    from vistune.data.stages import with_first_shard

    assert planned.stream is not None
    load, steps = load_of(with_first_shard(planned, folder)), planned.stream.steps
    times = steps / (load.steps or 1)
    return replace(
        load,
        steps=steps,
        samples=round(load.samples * times),
        tokens=load.tokens * times,
        squares=load.squares * times,
        supervised=load.supervised * times,
        tiles=load.tiles * times,
        assumed="rows as in the first shard",
    )


def columns_of(planned: PlannedStage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, supervised tokens, tiles) of each sample; with anyres as many tiles as its slots would fill."""
    spec = planned.processor.spec
    lengths = np.concatenate([index.lengths[rows] for index, rows in planned.samples.parts])
    learnt = np.concatenate([index.columns["supervised"][rows] for index, rows in planned.samples.parts])
    text = np.concatenate([index.columns["text_tokens"][rows] for index, rows in planned.samples.parts])
    return lengths, learnt, np.ceil((lengths - text) / spec.slots_per_image).astype(int)


def assumed_load(stage: Stage, spec: Spec, samples: int | None) -> Load:
    """Rows that are full, of samples of one picture (of anyres, the middle canvas) and so much text."""
    slots, tiles = spec.slots_per_image, 1
    if spec.image_mode == "anyres":
        canvas = sorted(width * height for width, height in spec.canvases)[len(spec.canvases) // 2]
        tiles = 1 + canvas // spec.image_side**2
        slots *= tiles
    length = min(slots + SAMPLE_TEXT, stage.tokens_per_row)
    in_row = max(1, stage.tokens_per_row // length)
    step = stage.samples_per_step if stage.tokens_per_step is None else max(1, stage.tokens_per_step // length)
    steps = stage.steps
    if steps is None and samples is not None:
        steps = max(1, round((stage.epochs or 1) * -(-samples // step)))
    seen = (steps or 1) * step
    return Load(
        worst=Row(in_row * length, in_row * tiles, in_row * SAMPLE_LEARNT, max(1, -(-step // in_row))),
        steps=steps,
        samples=seen,
        tokens=float(seen * length),
        squares=float(seen * length**2),
        supervised=float(seen * SAMPLE_LEARNT),
        tiles=float(seen * tiles),
        assumed=f"samples of a picture ({slots} tokens) and {SAMPLE_TEXT} tokens of text, {SAMPLE_LEARNT} learnt",
    )


def work(sizes: Sizes, how: How, load: Load) -> float:
    """FLOPs of all the stage's rows, recomputing counted."""
    shape, tower = sizes.language, sizes.tower
    learns, sees = "language" in how.learn, "vision" in how.learn
    again = 1 if "language" in how.recompute else 0
    merged, adapted = merged_layers(shape, how), adapter_layers(shape, how.lora) if how.lora else {}
    of_map: dict[str, float] = {}
    for name, (inside, outside) in linear_maps(shape).items():
        of_map[name] = inside * outside * (2 + learns + again)
        if how.lora is not None and name in adapted:
            of_map[name] += how.lora.rank * (inside + outside) * (2 if name in merged else 3 + again)
    spared = 0.0 if again else load.tokens - load.supervised
    linear = 2 * (load.tokens * shape.layers * sum(of_map.values()) - spared * sum(of_map[name] for name in MLP))
    looks = 2 * load.squares * shape.layers * shape.query_width * (3.5 + again)  # backward computes the scores again
    head = 2 * load.supervised * shape.embedding * (3 if learns else 2)
    seen = load.tiles * (
        2 * tower.tokens * tower.layer * tower.layers + 4 * tower.tokens**2 * tower.width * tower.layers
    )
    seen *= 3 + ("vision" in how.recompute) if sees else 1
    total = linear + looks + head + seen + 2 * load.tiles * sizes.slots * sizes.projector * 3
    return total + (load.steps or 1) * muon_work(sizes, how) if how.optimizer == "muon" else total


def muon_work(sizes: Sizes, how: How) -> float:
    """FLOPs of one update: of each m x n matrix (m <= n) five rounds of x x', its square, and their product with x."""

    def of(m: int, n: int) -> float:
        return 5 * (4 * m * m * n + 2 * m**3)

    shape, tower, found = sizes.language, sizes.tower, 0.0
    if "language" in how.learn:
        d = shape.width
        sides = [(d, shape.query_width)] * 2 + [(d, shape.key_width)] * 2 + [(d, shape.inner)] * 3
        found += shape.layers * sum(of(min(pair), max(pair)) for pair in sides)
    if "vision" in how.learn:
        found += tower.layers * (4 * of(tower.width, tower.width) + 2 * of(tower.width, tower.inner))
    return found


def traffic(sizes: Sizes, how: How, load: Load) -> float:
    """Bytes that pass outside of products, the optimizer's included."""
    full = replace(how, learn=("language",), lora=None)
    language = load.tokens * sizes.language.layers * language_layer(sizes.language, full)
    v, u = sizes.tower.width, sizes.tower.inner
    tower = load.tiles * sizes.tower.tokens * sizes.tower.layers * how.narrow * (8 * v + 4 * u)
    tower *= 3 if "vision" in how.learn else 1
    if how.lora is not None:  # each adapter's answer is scaled and added to its layer's, there and back, unless merged
        apart = adapter_layers(sizes.language, how.lora).items() - merged_layers(sizes.language, how).items()
        answers = sum(outside for _, (_, outside) in apart)
        language += load.tokens * sizes.language.layers * how.narrow * 2 * answers
    language *= 4 / 3 if "language" in how.recompute else 1
    logits = load.supervised * sizes.language.vocabulary * 4 * 2
    learning = sum(parameters(sizes, how.lora)[part] for part in how.learn)
    return PASSES * (language + logits) + tower + OPTIMIZER_BYTES * learning * (load.steps or 1)


def seconds(sizes: Sizes, how: How, load: Load, device: Device) -> float:
    return work(sizes, how, load) / device.flops + traffic(sizes, how, load) / device.bandwidth


def this_cpu(sizes: Sizes, *, bf16: bool, clock: Callable[[], float] = time.perf_counter) -> Device:
    """Rates of this CPU, measured in a moment: a product about as wide as the model's, and a pass over 16 MB."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    width, inner = min(sizes.language.width, 1024), min(sizes.language.inner, 3072)
    one, other = torch.ones(256, width, dtype=dtype), torch.ones(width, inner, dtype=dtype)
    block = torch.ones(4 * 2**20)
    with torch.no_grad():
        product = _best(lambda: one @ other, clock)
        passed = _best(lambda: nn.functional.silu(block), clock)
    return Device("this CPU", _memory_here(), 512.0 * width * inner / product, 8.0 * block.numel() / passed, bf16)


def _best(call: Callable[[], object], clock: Callable[[], float], budget: float = 0.1) -> float:
    """Seconds of the fastest of as many calls as fit the budget."""
    call()
    best, end = float("inf"), clock() + budget
    while (start := clock()) < end:
        call()
        best = min(best, clock() - start)
    return best


def _memory_here() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def longest_row(sizes: Sizes, how: How, row: Row, room: float) -> int:
    """The most tokens of a packed row that fits, in steps of 256, tiles and learnt tokens in proportion; 0 if none."""

    def fits(tokens: int) -> bool:
        grown = replace(
            row,
            tokens=tokens,
            tiles=max(1, round(row.tiles * tokens / row.tokens)),
            supervised=round(row.supervised * tokens / row.tokens),
        )
        return memory(sizes, how, grown).total <= room

    low, high = 0, LONGEST_ROW // 256
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(256 * middle) else (low, middle - 1)
    return 256 * low


def checkpoint_bytes(sizes: Sizes, recipe: Recipe, number: int, before: Collection[str] = ()) -> tuple[float, float]:
    """(a finished stage's, one in the middle of the stage with AdamW's state): everything that has learnt so far.

    `before`: parts that others learnt; adapters become part of the language model when the next stage begins.
    """
    stage, earlier = recipe.stages[number], {part for each in recipe.stages[:number] for part in each.learn}
    learnt = {"language" if part == "adapters" else part for part in earlier} | {"projector", *before, *stage.learn}
    counts = parameters(sizes, stage.lora)
    whole = 4.0 * sum(counts[part] for part in learnt)
    return whole, whole + 8.0 * sum(counts[part] for part in stage.learn)
