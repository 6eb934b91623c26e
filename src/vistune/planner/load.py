"""Count what a stage reads: samples, tokens, image tiles, and its largest packed row.

planned stage -> Load; without data a Load is assumed from the recipe
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vistune.planner.memory import RowSize
from vistune.recipe import Stage
from vistune.types import Spec

if TYPE_CHECKING:
    from vistune.data.stages import PlannedStage

SAMPLE_TEXT, SAMPLE_SUPERVISED = 200, 100  # text tokens of an assumed sample, and the supervised ones of them


@dataclass(frozen=True, slots=True)
class Load:
    """What a stage reads, summed over all its steps.

    Attributes:
        worst: The packed row that takes most memory.
        steps: None if nobody can know it.
        pairs: Of tokens: each with itself and those before it in its document.
        assumed: How the numbers were assumed; "" if they were counted in the data.
    """

    worst: RowSize
    steps: int | None
    samples: int
    tokens: float
    pairs: float
    supervised: float
    tiles: float
    assumed: str = ""


class SampleSizes(NamedTuple):
    """A number per sample. With anyres an image counts as the tiles that its slots would fill."""

    tokens: np.ndarray
    supervised: np.ndarray
    tiles: np.ndarray


def sample_sizes(planned: PlannedStage) -> SampleSizes:
    """Read the sizes of a stage's samples from their index."""
    parts, spec = planned.samples.parts, planned.processor.spec
    tokens = np.concatenate([index.lengths[rows] for index, rows in parts])
    supervised = np.concatenate([index.columns["supervised"][rows] for index, rows in parts])
    text = np.concatenate([index.columns["text_tokens"][rows] for index, rows in parts])
    return SampleSizes(tokens, supervised, np.ceil((tokens - text) / spec.slots_per_image).astype(int))


def load_of(planned: PlannedStage) -> Load:
    """Count what a planned stage reads."""
    sizes = sample_sizes(planned)
    times = np.bincount(_samples_in_order(planned), minlength=len(sizes.tokens))
    rows = _row_sizes(planned)
    tokens, supervised, tiles = (int(value) for value in rows[_largest(rows)])
    return Load(
        worst=RowSize(tokens, max(1, tiles), supervised, max(map(len, planned.plan.steps))),
        steps=len(planned.plan.steps),
        samples=int(times.sum()),
        tokens=float((times * sizes.tokens).sum()),
        pairs=float((times * sizes.tokens.astype(float) * (sizes.tokens + 1) / 2).sum()),
        supervised=float((times * sizes.supervised).sum()),
        tiles=float((times * sizes.tiles).sum()),
    )


def largest_row(planned: PlannedStage) -> tuple[int, int]:
    """Return (step, row in the step) of the row that takes most memory: `load_of`'s worst."""
    index = _largest(_row_sizes(planned))
    for step, rows in enumerate(planned.plan.steps):
        if index < len(rows):
            return step, index
        index -= len(rows)
    raise AssertionError("a plan has rows")


def _largest(rows: np.ndarray) -> int:
    """Index of a row that is long and has many supervised tokens."""
    tokens, supervised, _ = rows.max(axis=0)
    return int((rows[:, 0] / tokens + rows[:, 1] / max(supervised, 1)).argmax())


def _samples_in_order(planned: PlannedStage) -> np.ndarray:
    """Indices of the samples of all rows of all steps."""
    rows = chain.from_iterable(planned.plan.steps)
    return np.fromiter(chain.from_iterable(rows), np.int64)


def _row_sizes(planned: PlannedStage) -> np.ndarray:
    """(rows, 3): tokens, supervised tokens and tiles of each row of all steps."""
    ends = np.cumsum([len(row) for row in chain.from_iterable(planned.plan.steps)])
    begins = np.concatenate([[0], ends[:-1]])
    samples = _samples_in_order(planned)
    return np.stack([np.add.reduceat(column[samples], begins) for column in sample_sizes(planned)], axis=1)


def load_of_shards(planned: PlannedStage, folder: Path) -> Load:
    """Assume that all shards are like the first one, which is fetched into the folder."""
    from vistune.data.stages import with_first_shard

    assert planned.stream is not None
    first, steps = load_of(with_first_shard(planned, folder)), planned.stream.steps
    times = steps / (first.steps or 1)
    return replace(
        first,
        steps=steps,
        samples=round(first.samples * times),
        tokens=first.tokens * times,
        pairs=first.pairs * times,
        supervised=first.supervised * times,
        tiles=first.tiles * times,
        assumed="rows as in the first shard",
    )


def assumed_load(stage: Stage, spec: Spec, samples: int | None) -> Load:
    """Assume full rows, of samples with one image (with anyres, the middle canvas) and 200 tokens of text."""
    slots, tiles = spec.slots_per_image, 1
    if spec.image_mode == "anyres":
        canvas = sorted(width * height for width, height in spec.canvases)[len(spec.canvases) // 2]
        tiles = 1 + canvas // spec.image_side**2
        slots *= tiles
    length = min(slots + SAMPLE_TEXT, stage.tokens_per_row)
    samples_per_row = max(1, stage.tokens_per_row // length)
    per_step = stage.samples_per_step if stage.tokens_per_step is None else max(1, stage.tokens_per_step // length)
    steps = stage.steps
    if steps is None and samples is not None:
        steps = max(1, round((stage.epochs or 1) * -(-samples // per_step)))
    seen = (steps or 1) * per_step
    return Load(
        worst=RowSize(
            samples_per_row * length,
            samples_per_row * tiles,
            samples_per_row * SAMPLE_SUPERVISED,
            max(1, -(-per_step // samples_per_row)),
        ),
        steps=steps,
        samples=seen,
        tokens=float(seen * length),
        pairs=seen * length * (length + 1) / 2,
        supervised=float(seen * SAMPLE_SUPERVISED),
        tiles=float(seen * tiles),
        assumed=f"samples with one image ({slots} tokens) and {SAMPLE_TEXT} tokens of text, "
        f"{SAMPLE_SUPERVISED} of them supervised",
    )
