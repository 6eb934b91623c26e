"""Examples end to end as one row.

Examples -> Batch: no padding, positions restart, `starts` marks the documents
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vistune.processor.tiles import NEWLINE
from vistune.types import IGNORE, Batch, Example


def collate(examples: Sequence[Example], ids: Sequence[str] = ()) -> Batch:
    """One packed row; without any picture it carries one blank tile."""
    lengths = [len(example) for example in examples]
    labels = torch.cat([example.labels for example in examples])
    starts = torch.tensor([0, *lengths]).cumsum(0)
    shown = [example.images for example in examples if len(example.images)]  # of one kind: tiles, or their features
    images = torch.cat(shown) if shown else torch.zeros((1, *examples[0].images.shape[1:]), dtype=torch.uint8)
    learnt = labels != IGNORE
    learnt[starts[:-1]] = False  # a document's first token has nothing before it to be predicted from
    return Batch(
        input_ids=torch.cat([example.input_ids for example in examples]),
        labels=labels,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        starts=starts.to(torch.int32),
        images=images,
        supervised=int(learnt.sum()),
        ids=tuple(ids),
        slots=_slots(examples),
    )


def blank_row(side: int) -> Batch:
    """A row that shows one blank tile and learns nothing, for a process that has no row of its own in a step."""
    return Batch(
        input_ids=torch.zeros(1, dtype=torch.int64),
        labels=torch.full((1,), IGNORE),
        positions=torch.zeros(1, dtype=torch.int64),
        starts=torch.tensor([0, 1], dtype=torch.int32),
        images=torch.zeros((1, 3, side, side), dtype=torch.uint8),
        supervised=0,
    )


def _slots(examples: Sequence[Example]) -> torch.Tensor | None:
    """The examples' slots with tiles counted over the row; None where all are in order."""
    found, tiles = [], 0
    for example in examples:
        if example.slots is not None:
            counted = example.slots.clone()
            counted[counted[:, 0] != NEWLINE, 0] += tiles
            found.append(counted)
        tiles += len(example.images)
    return torch.cat(found) if found else None
