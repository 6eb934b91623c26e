"""Every sample proved before anything is trained: form, pictures, tokens, what is learnt.

data sources + Processor -> CheckReport with a place and a reason for every fault
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistune.data.readers import read_samples
from vistune.errors import DataError
from vistune.processor import Processor, open_picture
from vistune.recipe import DataSource
from vistune.types import IGNORE, Picture, Reject, Sample


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is in the data and what is wrong with it; lengths in tokens with image slots expanded."""

    rows: int
    samples: int
    pictures: int
    kinds: dict[str, int]
    tokens: dict[str, int]
    learnt_tokens: int
    warnings: dict[str, int]
    faults: list[Reject]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check(
    sources: Sequence[DataSource],
    processor: Processor | None,
    *,
    pictures: bool = True,
    advance: Callable[[int], None] = lambda count: None,
) -> CheckReport:
    """Read all rows, encode them (with a processor), open each picture once; faults are gathered, not raised.

    Without `pictures` they are neither looked for nor opened.
    """
    samples: list[Sample] = []
    faults: list[Reject] = []
    warnings: Counter[str] = Counter()
    rows = 0
    for source in sources:
        result = read_samples(source, on_bad_sample="reject", find_pictures=pictures)
        samples += result.samples
        faults += result.rejects
        warnings += result.warnings
        rows += result.rows
    used = {p.source: sample for sample in samples for p in sample.pictures if isinstance(p.source, Path)}
    if pictures:
        faults += _open_all(used)
    lengths, learnt = [0], 0
    if processor is not None:
        lengths, learnt = _encode_all(samples, processor, faults, advance)
    return CheckReport(
        rows=rows,
        samples=len(samples),
        pictures=len(used),
        kinds=dict(Counter(sample.kind or "none" for sample in samples)),
        tokens={"min": min(lengths), "median": int(statistics.median(lengths)), "max": max(lengths)},
        learnt_tokens=learnt,
        warnings=dict(warnings),
        faults=faults,
    )


def _open_all(pictures: dict[Path, Sample]) -> list[Reject]:
    def fault(item: tuple[Path, Sample]) -> Reject | None:
        path, sample = item
        try:
            open_picture(Picture(path))
        except DataError as error:
            return Reject(sample.id, sample.origin, "bad_picture", f"{sample.origin}:image: {error}")
        return None

    with ThreadPoolExecutor() as pool:
        return [found for found in pool.map(fault, pictures.items()) if found is not None]


def _encode_all(
    samples: Sequence[Sample], processor: Processor, faults: list[Reject], advance: Callable[[int], None]
) -> tuple[list[int], int]:
    lengths, learnt = [], 0
    for sample in samples:
        try:
            encoded = processor.encode_ids(sample)
            count = sum(label != IGNORE for label in encoded.labels)
            if count == 0:
                raise DataError(f"{sample.origin}: nothing in it is learnt", "give it an answer")
            lengths.append(len(encoded.ids))
            learnt += count
        except DataError as error:
            faults.append(Reject(sample.id, sample.origin, "bad_tokens", str(error)))
        advance(1)
    return lengths or [0], learnt
