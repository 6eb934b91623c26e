"""Conversations longer than a packed row, cut where a turn ends: whole turns from the beginning are learnt.

Index + tokens_per_row -> the same Index with those rows shorter, and a note on each; a first turn too long stays so
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

import numpy as np

from vistune.data.index import Index
from vistune.processor import Processor
from vistune.processor.tokens import Encoded
from vistune.types import IGNORE, Reject, Sample


def shortened(made: Index, processor: Processor, tokens_per_row: int | None) -> Index:
    """Rows of more than `tokens_per_row` tokens lose their last turns; where the first is too long, they stay as is."""
    long = np.flatnonzero(made.lengths > (tokens_per_row or np.inf)).tolist()
    if tokens_per_row is None or not long:
        return made
    lengths, learnt, text = made.lengths.copy(), made.columns["learnt"].copy(), made.columns["text_tokens"].copy()
    cut, notes = {}, {}
    for row in long:
        sample = made.sample(row)
        kept = _messages_that_fit(sample, processor, tokens_per_row)
        if not kept:
            continue
        encoded = processor.encode_ids(replace(sample, messages=sample.messages[:kept]))
        cut[row], lengths[row], learnt[row] = kept, len(encoded.ids), _learnt(encoded)
        text[row] = len(encoded.ids) - sum(encoded.slots)
        place = made.origin(row)
        words = (
            f"{place}: {made.lengths[row]} tokens do not fit a row of {tokens_per_row}: "
            f"{kept} of {len(sample.messages)} messages are kept"
        )
        notes[row] = Reject(sample.id, place, "cut_short", words)
    columns = {**made.columns, "learnt": learnt, "text_tokens": text}
    return replace(made, columns=columns, lengths=lengths, cut=cut, notes=notes)


def _messages_that_fit(sample: Sample, processor: Processor, tokens_per_row: int) -> int:
    """How many messages, whole turns with something learnt; 0 where not even the first turn fits."""
    skipped = int(sample.messages[0].role == "system")
    ends = range(skipped + 2, len(sample.messages), 2)
    fitting = bisect_right(
        ends, tokens_per_row, key=lambda end: len(_encode(sample, end, processor).ids)
    )  # an answer's end is the template's: turns before another are no shorter than alone
    return ends[fitting - 1] if fitting and _learnt(_encode(sample, ends[fitting - 1], processor)) else 0


def _encode(sample: Sample, messages: int, processor: Processor) -> Encoded:
    return processor.encode_ids(replace(sample, messages=sample.messages[:messages]))


def _learnt(encoded: Encoded) -> int:
    return len(encoded.labels) - 1 - encoded.labels[1:].count(IGNORE)
