"""Join examples to one packed row: no padding, positions restart with each document, `starts` marks the documents."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vistune.processor.tiles import shift_tiles
from vistune.types import IGNORE, Batch, Example


def collate(examples: Sequence[Example], ids: Sequence[str] = ()) -> Batch:
    """Join examples to one packed row. A row without images carries one blank tile."""
    lengths = [len(example) for example in examples]
    labels = torch.cat([example.labels for example in examples])
    starts = torch.tensor([0, *lengths]).cumsum(0)
    images = [example.images for example in examples if len(example.images)]  # all tiles, or all their features
    supervised = labels != IGNORE
    supervised[starts[:-1]] = False  # a document's first token has no token before it to be predicted from
    blank = torch.zeros((1, *examples[0].images.shape[1:]), dtype=torch.uint8)
    return Batch(
        input_ids=torch.cat([example.input_ids for example in examples]),
        labels=labels,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        starts=starts.to(torch.int32),
        images=torch.cat(images) if images else blank,
        supervised=int(supervised.sum()),
        ids=tuple(ids),
        slots=_slots(examples),
    )


def blank_batch(side: int) -> Batch:
    """Return a row of one token, one blank tile and no label, for a process without a row of its own in a step."""
    return Batch(
        input_ids=torch.zeros(1, dtype=torch.int64),
        labels=torch.full((1,), IGNORE),
        positions=torch.zeros(1, dtype=torch.int64),
        starts=torch.tensor([0, 1], dtype=torch.int32),
        images=torch.zeros((1, 3, side, side), dtype=torch.uint8),
        supervised=0,
    )


def _slots(examples: Sequence[Example]) -> torch.Tensor | None:
    """Return the examples' slots with tiles counted over the row; None if every patch of every tile has its slot."""
    slots, tiles = [], 0
    for example in examples:
        if example.slots is not None:
            slots.append(shift_tiles(example.slots, tiles))
        tiles += len(example.images)
    return torch.cat(slots) if slots else None
