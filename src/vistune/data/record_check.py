"""Check each record of a file: its form, its images, its tokens and labels; in one process or on all cores.

Records + Processor -> IndexEntry (what the index keeps of a good record) or Fault, in the file's order
Records -> TextNotes on possible mistakes: repeated ids and records, special tokens, image markers of other formats
"""

from __future__ import annotations

import multiprocessing
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from vistune.errors import DataError
from vistune.processor import Processor, pair_sides
from vistune.records import (
    FORMS,
    MARKER,
    RECORD_FIELDS,
    DataFile,
    ImageFolders,
    Record,
    RecordError,
    kind_of,
    marker_like,
    printable,
    read_sample,
    shown,
)
from vistune.types import IMAGE_ID, Reject, Sample

RECORDS_PER_TASK = 500  # records that a process is given at once
COMPARED_FIELDS = ("image", "images", "system", *FORMS)  # records are equal if these fields are equal
TEXT_FIELDS = ("value", "content", "user", "assistant")  # fields of a turn that hold text
LISTED_NOTES = 1000  # notes of one kind that are kept; all are counted
# Of the templates here and of common language models; a recipe's tokenizer adds its own.
SPECIAL_TOKENS = (
    "<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>",
    "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
)  # fmt: skip


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
    """The part of a good record that the index keeps; `names`: its images as the file names them.

    `pair`: text tokens of the rejected side and supervised tokens of both answers; zeros without a pair.
    """

    kind: str
    text_tokens: int
    supervised: int
    names: tuple[str, ...]
    pair: tuple[int, int, int] = (0, 0, 0)


@dataclass(slots=True)
class RecordChecker:
    """Checks the records of one file. `warnings` counts missing values that were filled in, `unread` unread fields."""

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
            pair = (0, 1, 1) if sample.rejected is not None else (0, 0, 0)
            return IndexEntry(sample.kind, 0, 0, names, pair)
        try:
            pair = _pair_tokens(sample, self.processor)
            encoded = self.processor.encode_ids(sample)
            slots = sum(encoded.slots)
            if (marks := encoded.ids.count(IMAGE_ID)) != slots:
                raise DataError(
                    f"{location}: {marks} image tokens for {slots} image features",
                    "this is a bug of vistune; report it with this record",
                )
            if not (supervised := encoded.supervised):
                raise DataError(f"{sample.origin}: no token is supervised", "add an answer to the sample")
        except DataError as error:
            return Fault(Reject(sample.id, sample.origin, "bad_tokens", str(error)), kind, error, at)
        return IndexEntry(sample.kind, len(encoded.ids) - slots, supervised, names, pair)


def _pair_tokens(sample: Sample, processor: Processor) -> tuple[int, int, int]:
    """Return the text tokens of the rejected side, and the supervised tokens of both answers; zeros without a pair."""
    if sample.rejected is None:
        return 0, 0, 0
    chosen, rejected = (processor.encode_ids(side) for side in pair_sides(sample))
    if not chosen.supervised or not rejected.supervised:
        raise DataError(f"{sample.origin}: an answer of the pair has no token", "write both answers")
    return len(rejected.ids) - sum(rejected.slots), chosen.supervised, rejected.supervised


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


class TextNotes:
    """Reads files one after another; ids and records are compared across files."""

    def __init__(self, special_tokens: Collection[str] = ()) -> None:
        names = sorted({*SPECIAL_TOKENS, *special_tokens}, key=len, reverse=True)
        self.special = re.compile("|".join(re.escape(name) for name in names if name))
        self.notes: list[Reject] = []
        self.counts: Counter[str] = Counter()
        self.files: list[DataFile] = []
        self.ids: dict[int, tuple[int, int, int]] = {}  # hash -> file, number, number in the list
        self.records: dict[int, tuple[int, int, int]] = {}

    def read(self, data: DataFile) -> None:
        """Add the notes on one file. Raises DataError if it cannot be read as a whole."""
        self.files.append(data)
        for record in data.records(RECORD_FIELDS):
            if isinstance(record.value, dict):
                self._note(record.value, record, (len(self.files) - 1, record.number, record.nth))

    def _note(self, fields: Mapping[str, object], record: Record, key: tuple[int, int, int]) -> None:
        sample_id = fields.get("id")
        if sample_id is not None and (first := self.ids.setdefault(hash(str(sample_id)), key)) != key:
            self._add(record, "same_id", "id", f"{shown(sample_id)} is also the id of {self._location(first)}")
        read_by = [form.fields for name, form in FORMS.items() if fields.get(name) is not None]
        if not read_by:
            return  # of no form: nothing of it is read
        compared = [fields.get(name) for name in (*COMPARED_FIELDS, *sorted(read_by[0]))]
        if (first := self.records.setdefault(hash(repr(compared)), key)) != key:
            self._add(record, "same_row", "", f"the same record as {self._location(first)}")
        for path, text in texts_of(fields):
            if token := self.special.search(text):
                problem = f"{token.group()!r} is in the text: it is read as characters, not as the token"
                self._add(record, "special_token", path, problem)
            if ("<" in text or "[" in text or "&lt;" in text or "＜" in text) and (marker := marker_like(text)):
                problem = f"{marker!r} looks like an image marker and is read as text; images are marked by {MARKER}"
                self._add(record, "marker_like", path, problem)

    def _location(self, key: tuple[int, int, int]) -> str:
        return self.files[key[0]].location(*key[1:])

    def _add(self, record: Record, reason: str, path: str, problem: str) -> None:
        self.counts[reason] += 1
        if self.counts[reason] <= LISTED_NOTES:
            at = f"{record.location}:{path}" if path else record.location
            name = printable(record.value.get("id", "")) if isinstance(record.value, dict) else ""
            self.notes.append(Reject(name, record.location, reason, f"{at}: {problem}"))


def texts_of(record: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield (field, text) for all texts of a record of any form; skip values of other types."""
    for form in FORMS.keys() & record.keys():
        turns = record[form]
        for k, turn in enumerate(turns if isinstance(turns, list) else ()):
            for key, content in turn.items() if isinstance(turn, dict) else ():
                if isinstance(content, str):
                    if key in TEXT_FIELDS:
                        yield f"{form}[{k}].{key}", content
                    continue
                for n, part in enumerate(content if key in TEXT_FIELDS and isinstance(content, list) else ()):
                    if isinstance(part, dict) and isinstance(part.get("text"), str):
                        yield f"{form}[{k}].{key}[{n}].text", part["text"]
