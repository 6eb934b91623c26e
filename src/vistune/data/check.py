"""Every sample proved before anything is trained: form, pictures, tokens, what is learnt.

data sources + Processor -> CheckReport with a place and a reason for every fault
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistune.data.packing import refuse_too_long
from vistune.data.readers import read_samples
from vistune.errors import DataError
from vistune.processor import Processor, open_picture
from vistune.processor.tokens import Encoded
from vistune.recipe import DataSource
from vistune.types import IGNORE, Picture, Reject, Sample

Advance = Callable[..., None]
Watch = Callable[[str, int], AbstractContextManager[Advance]]


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
    tokens_per_row: int | None = None,
    watch: Watch = lambda label, total: nullcontext(lambda *done: None),
) -> CheckReport:
    """Read all rows, encode them (with a processor), open each picture once; faults are gathered, not raised.

    Without `pictures` they are neither looked for nor opened. Samples longer than `tokens_per_row` are faults.
    """
    samples: list[Sample] = []
    faults: list[Reject] = []
    warnings: Counter[str] = Counter()
    rows = 0
    for source in sources:
        try:
            result = read_samples(source, on_bad_sample="reject", find_pictures=pictures)
        except DataError as error:  # the file as a whole: not there, no list, broken off
            faults.append(Reject("", str(source.file), "bad_file", str(error)))
            continue
        samples += result.samples
        faults += result.rejects
        warnings += result.warnings
        rows += result.rows
    used = Counter(p.source for sample in samples for p in sample.pictures if isinstance(p.source, Path))
    if pictures:
        faults += _open_all(samples, used, watch)
    lengths, learnt = [0], 0
    if processor is not None:
        with watch("encode", len(samples)) as advance:
            lengths, learnt = _encode_all(samples, processor, tokens_per_row, faults, advance)
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


def prove(sample: Sample, processor: Processor, tokens_per_row: int | None = None) -> Encoded:
    """The sample's ids and labels. Raises DataError where nothing is learnt, or it is longer than a row."""
    encoded = processor.encode_ids(sample)
    if learnt_in(encoded) == 0:
        raise DataError(f"{sample.origin}: nothing in it is learnt", "give it an answer")
    if tokens_per_row is not None:
        refuse_too_long(sample.origin, len(encoded.ids), tokens_per_row)
    return encoded


def learnt_in(encoded: Encoded) -> int:
    """How many tokens are learnt; the first of a document never is."""
    return sum(label != IGNORE for label in encoded.labels[1:])


def _open_all(samples: Sequence[Sample], used: Counter[Path], watch: Watch) -> list[Reject]:
    """A fault for each picture that cannot be opened, at the first sample that shows it."""
    first: dict[Path, Sample] = {}
    for sample in samples:
        for picture in sample.pictures:
            if isinstance(picture.source, Path):
                first.setdefault(picture.source, sample)

    def fault(path: Path) -> Reject | None:
        try:
            open_picture(Picture(path))
        except DataError as error:
            sample = first[path]
            others = f" ({used[path] - 1} more places show it)" if used[path] > 1 else ""
            return Reject(sample.id, sample.origin, "bad_picture", f"{sample.origin}:image: {error}{others}")
        return None

    found = []
    with watch("open pictures", len(first)) as advance, ThreadPoolExecutor() as pool:
        for reject in pool.map(fault, first):
            found += [reject] if reject is not None else []
            advance(1)
    return found


def _encode_all(
    samples: Sequence[Sample],
    processor: Processor,
    tokens_per_row: int | None,
    faults: list[Reject],
    advance: Advance,
) -> tuple[list[int], int]:
    lengths, learnt = [], 0
    for sample in samples:
        try:
            encoded = prove(sample, processor, tokens_per_row)
            lengths.append(len(encoded.ids))
            learnt += learnt_in(encoded)
        except DataError as error:
            faults.append(Reject(sample.id, sample.origin, "bad_tokens", str(error)))
        advance(1)
    return lengths or [0], learnt
