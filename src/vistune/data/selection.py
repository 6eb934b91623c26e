"""Select the records of a data source that a stage trains on.

source + the stage's kinds and row length -> Selection: records of an index, and faults
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vistune.data.index import Index, folders_of, index, open_source
from vistune.data.packing import rng_of
from vistune.data.record_check import Fault
from vistune.errors import DataError
from vistune.processor import Processor
from vistune.processor.tokens import Encoded
from vistune.progress import Progress, no_progress
from vistune.recipe import DataSource, Stage, Take
from vistune.records import DataFile, RecordError
from vistune.types import Reject, Sample


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """Which records of its sources a stage trains on.

    Attributes:
        kinds: Kinds of the records, for sources without `kinds`. None: all.
        tokens_per_row: Longest sample; None: any length.
        cut: Cut samples longer than `tokens_per_row` at the end of a turn. Otherwise, or if no turn fits, they are
            faults. Preference tuning never cuts.
        seed: Selects the records of a source with `take: random N`.
        pair_documents: For preference tuning, the documents of a pair, 2 or 3; 0 for other stages.
    """

    kinds: tuple[str, ...] | None = None
    tokens_per_row: int | None = None
    cut: bool = True
    seed: int = 0
    pair_documents: int = 0

    @classmethod
    def of(cls, stage: Stage, seed: int) -> SelectionRules:
        """Return the rules of a recipe's stage."""
        return cls(stage.kinds, stage.tokens_per_row, stage.too_long == "cut", seed, stage.pair_documents)


EVERY_RECORD = SelectionRules()


@dataclass(frozen=True, slots=True)
class Selection:
    """Records of an index that a stage trains on.

    Attributes:
        index: The index.
        records: Indices of the selected records.
        lengths: Their tokens, image slots included.
        faults: Records that would have been selected but are bad.
        remarks: Messages for the user: where the selection differs from the recipe, or does not use all of a record.
    """

    index: Index
    records: np.ndarray
    lengths: np.ndarray
    faults: tuple[Fault, ...]
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> list[Reject]:
        """Notes on selected samples that were cut because they are too long."""
        return [self.index.notes[record] for record in self.records.tolist() if record in self.index.notes]

    @property
    def is_empty(self) -> bool:
        return not len(self.records) and not self.faults


def select_records(
    source: DataSource,
    processor: Processor,
    rules: SelectionRules = EVERY_RECORD,
    *,
    progress: Progress = no_progress,
    label: str = "",
    keep: bool = True,
    data: DataFile | None = None,
) -> Selection:
    """Select records by kind (the source's `kinds`, else the stage's), and then apply the source's `take`.

    Args:
        keep: Whether to keep the index of the file's records in the cache.
        data: The source's file, if it is already open.

    Raises:
        DataError: The file cannot be read, or has no record of the source's own kinds.
    """
    data = data or open_source(source.file)
    file = index(data, folders_of(data, source.images), processor, progress=progress, label=label, keep=keep)
    selected_kinds = source.kinds or rules.kinds
    file = as_read(file, processor, rules)
    faults = [fault for fault in file.faults if not selected_kinds or not fault.kind or fault.kind in selected_kinds]
    records, unusable = usable_records(file, rules, selected_kinds)
    faults += unusable
    remarks = []
    if source.take is not None and len(records) >= source.take.rows:
        records, faults = _take(source.take, file, records, faults, rules.seed)
    elif source.take is not None:
        take = f"{source.take.which} {source.take.rows:,}"
        remarks += [f"{data.name}: `take: {take}` asks for more records than there are; all {len(records):,} are used"]
    if not rules.pair_documents:
        remarks += remarks_on_pairs(file, records)
    faults.sort(key=lambda fault: fault.at)
    if source.kinds and not len(records) and not faults:
        refuse_unknown_kinds(known_kinds(file), source.kinds, data.name)
    return Selection(file, records, file.lengths[records], tuple(faults), tuple(remarks))


def as_read(file: Index, processor: Processor | None, rules: SelectionRules) -> Index:
    """Return the index with the lengths at which a stage reads the samples: both sides of pairs, or what fits a row."""
    if rules.pair_documents:
        return _as_pairs(file, rules.pair_documents)
    return _shorten(file, processor, rules.tokens_per_row) if rules.cut and processor is not None else file


def usable_records(
    file: Index, rules: SelectionRules, selected_kinds: Sequence[str] | None
) -> tuple[np.ndarray, list[Fault]]:
    """Return the good records of the selected kinds that a stage can train on, and a fault for each of the others."""
    faults = _without_kind(file, selected_kinds) if selected_kinds else []
    records = file.of_kind(selected_kinds)
    if rules.pair_documents:
        is_pair = file.columns["rejected_answer"][records] > 0
        faults += _without_pair(file, records[~is_pair])
        records = records[is_pair]
    fits = file.lengths[records] <= (rules.tokens_per_row or np.inf)
    return records[fits], faults + _too_long(file, records[~fits], rules.tokens_per_row)


def _take(
    take: Take, file: Index, records: np.ndarray, faults: list[Fault], seed: int
) -> tuple[np.ndarray, list[Fault]]:
    """Return the records to take, and the faults among them."""
    if take.which == "first":
        records = records[: take.rows]
        return records, [fault for fault in faults if fault.at < file.at(records[-1])]
    if take.which == "last":
        records = records[-take.rows :]
        return records, [fault for fault in faults if fault.at > file.at(records[0])]
    return np.sort(rng_of(seed).permutation(records)[: take.rows]), faults


def known_kinds(file: Index) -> list[str]:
    return sorted({*file.kinds, *(fault.kind for fault in file.faults)})


def _without_kind(file: Index, selected_kinds: Sequence[str]) -> list[Fault]:
    """Return a fault for each record without a kind, for recipes that select records by their kind."""
    faults = []
    for record in file.of_kind([""]).tolist():
        error = RecordError(
            file.location(record),
            "kind",
            f"is missing, but the recipe selects {', '.join(selected_kinds)}",
            "add `kind` to the records, or set the stage's kinds to null",
        )
        faults.append(_fault(file, record, error.reason, error))
    return faults


def remarks_on_pairs(file: Index, records: np.ndarray) -> list[str]:
    """Return the message for a stage without preference tuning, if it trains on records that are preference pairs."""
    pairs = count_pairs(file, records)
    return [f"{file.data.name}: {pairs:,} preference pairs: only their chosen answers are trained on"] if pairs else []


def count_pairs(file: Index, records: np.ndarray) -> int:
    """Return how many of the records are preference pairs."""
    return int((file.columns["rejected_answer"][records] > 0).sum())


def _as_pairs(file: Index, documents: int) -> Index:
    """Return the index with the lengths of pairs: the chosen side, the rejected one, and with 3 documents the chosen
    one again after a damaged image. Other records keep their lengths.

    The slots of the second document count as text: it shows the same tiles.
    """
    columns = dict(file.columns)
    pairs = columns["rejected_answer"] > 0
    slots = file.lengths - columns["text_tokens"]
    lengths = np.where(pairs, file.lengths * (documents - 1) + columns["rejected_text"] + slots, file.lengths)
    supervised = columns["chosen_answer"] * (documents - 1) + columns["rejected_answer"]
    columns["text_tokens"] = np.where(pairs, lengths - slots * (documents - 1), columns["text_tokens"])
    columns["supervised"] = np.where(pairs, supervised, columns["supervised"])
    return replace(file, columns=columns, lengths=lengths)


def _without_pair(file: Index, records: np.ndarray) -> list[Fault]:
    """Return a fault for each of these records, which are not preference pairs, for stages with `objective: dpo`."""
    faults = []
    for record in records.tolist():
        error = RecordError(
            file.location(record),
            "rejected",
            "is missing, but the stage's objective is dpo",
            "use preference pairs, or select them: kinds: [preference]",
        )
        faults.append(_fault(file, record, error.reason, error))
    return faults


def refuse_unknown_kinds(known: Iterable[str], kinds: tuple[str, ...], name: str) -> None:
    """Raise DataError that lists the kinds of the data, because no record is of the selected kinds."""
    raise DataError(
        f"{name}: no record of the kind {', '.join(kinds)}; there are {', '.join(sorted(known))}",
        "select other kinds in the recipe",
    )


def _too_long(file: Index, records: np.ndarray, tokens_per_row: int | None) -> list[Fault]:
    """Return a fault for each of these records, which are longer than a packed row and cannot be cut."""
    faults = []
    for record in records.tolist():
        error = DataError(
            f"{file.location(record)}: {file.lengths[record]} tokens do not fit a row of {tokens_per_row}",
            "raise the stage's tokens_per_row, or shorten the sample",
        )
        faults.append(_fault(file, record, "too_long", error))
    return faults


def _fault(file: Index, record: int, reason: str, error: DataError) -> Fault:
    """Return the fault of a record that is good by itself but does not fit the recipe."""
    reject = Reject(file.sample(record).id, file.location(record), reason, str(error))
    return Fault(reject, file.kinds[file.columns["kind"][record]], error, file.at(record))


def _shorten(file: Index, processor: Processor, tokens_per_row: int | None) -> Index:
    """Return the index with samples of more than `tokens_per_row` tokens cut at the end of a turn.

    Complete turns are kept from the beginning. A sample whose first turn is too long keeps its length.
    """
    long = np.flatnonzero(file.lengths > (tokens_per_row or np.inf)).tolist()
    if tokens_per_row is None or not long:
        return file
    lengths, columns = file.lengths.copy(), dict(file.columns)
    columns["supervised"], columns["text_tokens"] = columns["supervised"].copy(), columns["text_tokens"].copy()
    cut, notes = {}, {}
    for record in long:
        sample = file.sample(record)
        kept = _messages_that_fit(sample, processor, tokens_per_row)
        if not kept:
            continue
        encoded = _encode(sample, kept, processor)
        cut[record], lengths[record] = kept, len(encoded.ids)
        columns["supervised"][record] = encoded.supervised
        columns["text_tokens"][record] = len(encoded.ids) - sum(encoded.slots)
        location = file.location(record)
        detail = (
            f"{location}: {file.lengths[record]} tokens do not fit a row of {tokens_per_row}: "
            f"{kept} of {len(sample.messages)} messages are kept"
        )
        notes[record] = Reject(sample.id, location, "cut_short", detail)
    return replace(file, columns=columns, lengths=lengths, cut=cut, notes=notes)


def _messages_that_fit(sample: Sample, processor: Processor, tokens_per_row: int) -> int:
    """Return the largest number of messages that fit: complete turns with a supervised token; 0 if none fits."""
    skipped = int(sample.messages[0].role == "system")
    ends = range(skipped + 2, len(sample.messages), 2)
    # The template writes the end of an answer: turns followed by another turn are never shorter than by themselves.
    fitting = bisect_right(ends, tokens_per_row, key=lambda end: len(_encode(sample, end, processor).ids))
    return ends[fitting - 1] if fitting and _encode(sample, ends[fitting - 1], processor).supervised else 0


def _encode(sample: Sample, messages: int, processor: Processor) -> Encoded:
    return processor.encode_ids(replace(sample, messages=sample.messages[:messages]))
