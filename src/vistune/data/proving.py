"""Each row of a file proved: its form, its pictures, its tokens, what is learnt; one after another or on all cores.

Records + Processor -> Proved (the index entry of a good record) or Fault, in the file's order
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from vistune.errors import DataError
from vistune.processor import Processor
from vistune.records import ImageFolders, Record, RecordError, kind_of, printable, read_sample
from vistune.types import IGNORE, IMAGE_ID, Reject

CHUNK = 500  # rows that a process is handed at once


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be learnt from; its kind is "" where not even that can be read; `at` as `Index.at`."""

    reject: Reject
    kind: str
    error: DataError
    at: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Proved:
    """What is kept of a good row; `names` of its pictures as the file writes them."""

    kind: str
    text_tokens: int
    learnt: int
    names: tuple[str, ...]


Found = tuple[Record, Proved | Fault]


@dataclass(slots=True)
class Prover:
    """Checks the records of one file. `warnings` counts values filled in while reading, `unread` unread fields."""

    folders: ImageFolders
    processor: Processor | None
    warnings: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def prove(self, record: Record) -> Proved | Fault:
        place, value, kind = record.location, record.value, ""
        at = (record.number, record.nth)
        try:
            if isinstance(value, RecordError):
                raise value
            if not isinstance(value, dict):
                problem = f"a record must be an object, got {type(value).__name__}"
                raise RecordError(place, "", problem, "see docs/reference/file-formats.md")
            kind = kind_of(value, place)
            sample = read_sample(value, place, self.folders, self.warnings, self.unread)
        except RecordError as error:
            name = value.get("id", "") if isinstance(value, dict) else ""
            return Fault(Reject(printable(name), place, error.reason, str(error)), kind, error, at)
        names = tuple(self.folders.name_of(image) for image in sample.images)
        if self.processor is None:
            return Proved(sample.kind, 0, 0, names)
        try:
            encoded = self.processor.encode_ids(sample)
            slots = sum(encoded.slots)
            learnt = len(encoded.labels) - 1 - encoded.labels[1:].count(IGNORE)  # the first token never is
            if (marks := encoded.ids.count(IMAGE_ID)) != slots:
                raise DataError(f"{place}: {marks} image tokens for {slots} features", "report this row")
            if learnt == 0:
                raise DataError(f"{sample.origin}: nothing in it is learnt", "give it an answer")
        except DataError as error:
            return Fault(Reject(sample.id, sample.origin, "bad_tokens", str(error)), kind, error, at)
        return Proved(sample.kind, len(encoded.ids) - slots, learnt, names)


def proved(prover: Prover, records: Iterator[Record], *, processes: int = 1) -> Iterator[Found]:
    """Yield every record with its result. Processes are forked, so that none loads the tokenizer again."""
    if processes == 1 or "fork" not in multiprocessing.get_all_start_methods():
        for record in records:
            yield record, prover.prove(record)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(prover,)) as pool:
        waiting: deque[tuple[list[Record], Future[_Answer]]] = deque()
        while True:
            chunk = list(islice(records, CHUNK))
            if chunk:
                waiting.append(([replace(record, value=None) for record in chunk], pool.submit(_prove, chunk)))
            if waiting and (not chunk or len(waiting) > 2 * processes):
                places, future = waiting.popleft()
                answers, warnings, unread, missing = future.result()
                prover.warnings += warnings
                prover.unread += unread
                prover.folders.missing += missing
                yield from zip(places, answers, strict=True)
            elif not chunk:
                return


_Answer = tuple[list["Proved | Fault"], Counter[str], Counter[str], Counter[str]]
_mine: list[Prover] = []  # of a forked process: the one that it was forked with


def _begin(prover: Prover) -> None:
    _mine.append(prover)


def _prove(records: list[Record]) -> _Answer:
    (prover,) = _mine
    prover.warnings, prover.unread, prover.folders.missing = Counter(), Counter(), Counter()
    answers = [prover.prove(record) for record in records]
    return answers, prover.warnings, prover.unread, prover.folders.missing
