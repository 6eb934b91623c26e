"""Check each record of a file: its form, its images, its tokens and labels; in one process or on all cores.

Records + Processor -> IndexEntry (what the index keeps of a good record) or Fault, in the file's order
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

RECORDS_PER_TASK = 500  # records that a process is given at once


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that cannot be trained on.

    Attributes:
        reject: The entry for rejects.jsonl.
        kind: The record's kind; "" if not even that can be read.
        error: The error to raise.
        at: (line, index on that line), by which faults are sorted; see `Index.at`.
    """

    reject: Reject
    kind: str
    error: DataError
    at: tuple[int, int]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the index keeps of a good record; `names`: its images as the file names them."""

    kind: str
    text_tokens: int
    supervised: int
    names: tuple[str, ...]


@dataclass(slots=True)
class RecordChecker:
    """Checks the records of one file. `warnings` counts values filled in while reading, `unread` unread fields."""

    folders: ImageFolders
    processor: Processor | None
    warnings: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def check(self, record: Record) -> IndexEntry | Fault:
        location, value, kind = record.location, record.value, ""
        at = (record.number, record.nth)
        try:
            if isinstance(value, RecordError):
                raise value
            if not isinstance(value, dict):
                problem = f"a record must be an object, got {type(value).__name__}"
                raise RecordError(location, "", problem, "see docs/reference/file-formats.md")
            kind = kind_of(value, location)
            sample = read_sample(value, location, self.folders, self.warnings, self.unread)
        except RecordError as error:
            name = value.get("id", "") if isinstance(value, dict) else ""
            return Fault(Reject(printable(name), location, error.reason, str(error)), kind, error, at)
        names = tuple(self.folders.name_of(image) for image in sample.images)
        if self.processor is None:
            return IndexEntry(sample.kind, 0, 0, names)
        try:
            encoded = self.processor.encode_ids(sample)
            slots = sum(encoded.slots)
            supervised = len(encoded.labels) - 1 - encoded.labels[1:].count(IGNORE)  # nothing predicts the first token
            if (marks := encoded.ids.count(IMAGE_ID)) != slots:
                raise DataError(f"{location}: {marks} image tokens for {slots} image features", "report this record")
            if supervised == 0:
                raise DataError(f"{sample.origin}: no token is supervised", "give it an answer")
        except DataError as error:
            return Fault(Reject(sample.id, sample.origin, "bad_tokens", str(error)), kind, error, at)
        return IndexEntry(sample.kind, len(encoded.ids) - slots, supervised, names)


def check_records(
    checker: RecordChecker, records: Iterator[Record], *, processes: int = 1
) -> Iterator[tuple[Record, IndexEntry | Fault]]:
    """Yield every record with its result. Processes are forked, so that none loads the tokenizer again."""
    if processes == 1 or "fork" not in multiprocessing.get_all_start_methods():
        for record in records:
            yield record, checker.check(record)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(checker,)) as pool:
        waiting: deque[tuple[list[Record], Future[_TaskResult]]] = deque()
        while True:
            task = list(islice(records, RECORDS_PER_TASK))
            if task:
                waiting.append(([replace(record, value=None) for record in task], pool.submit(_check_task, task)))
            if waiting and (not task or len(waiting) > 2 * processes):
                checked, future = waiting.popleft()
                results, warnings, unread, missing = future.result()
                checker.warnings += warnings
                checker.unread += unread
                checker.folders.missing += missing
                yield from zip(checked, results, strict=True)
            elif not task:
                return


_TaskResult = tuple[list["IndexEntry | Fault"], Counter[str], Counter[str], Counter[str]]
_of_this_process: list[RecordChecker] = []  # in a forked process, the checker it was forked with


def _begin(checker: RecordChecker) -> None:
    _of_this_process.append(checker)


def _check_task(records: list[Record]) -> _TaskResult:
    (checker,) = _of_this_process
    checker.warnings, checker.unread, checker.folders.missing = Counter(), Counter(), Counter()
    results = [checker.check(record) for record in records]
    return results, checker.warnings, checker.unread, checker.folders.missing
