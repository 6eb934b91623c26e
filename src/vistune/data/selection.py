"""Select the records of a data source that a stage trains on, and read them as samples.

source + the stage's kinds and row length -> Selection (records of an index, and faults) -> SampleSequence
A sample is read when a step needs it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from vistune.data.index import Index, folders_of, index, open_source
from vistune.data.packing import rng_of
from vistune.data.record_check import Fault
from vistune.errors import DataError
from vistune.processor import Processor
from vistune.processor.tokens import Encoded
from vistune.progress import Progress, no_progress
from vistune.recipe import DataSource, Stage, Take
from vistune.records import DataFile, ImageFolders, RecordError
from vistune.types import Reject, Sample


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """Which records of its sources a stage trains on.

    Attributes:
        kinds: Kinds of the records, for sources without `kinds`. None: all.
        tokens_per_row: Longest sample; None: any length.
        cut: Cut samples longer than `tokens_per_row` at the end of a turn. Otherwise, or if no turn fits, they are
            faults.
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
        remark: Where the selection differs from the recipe; "" if it does not.
    """

    index: Index
    records: np.ndarray
    lengths: np.ndarray
    faults: tuple[Fault, ...]
    remark: str = ""

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
    if rules.pair_documents:
        file = as_pairs(file, rules.pair_documents)
    elif rules.cut:
        file = shorten(file, processor, rules.tokens_per_row)
    records = file.of_kind(selected_kinds)
    faults = [fault for fault in file.faults if not selected_kinds or not fault.kind or fault.kind in selected_kinds]
    if selected_kinds:
        faults += without_kind(file, selected_kinds)
    if rules.pair_documents:
        faults += without_pair(file, records)
        records = records[file.columns["rejected_answer"][records] > 0]
    faults += [fault for fault in too_long(file, rules.tokens_per_row) if fault.kind in (selected_kinds or file.kinds)]
    records = records[file.lengths[records] <= (rules.tokens_per_row or np.inf)]
    remark = ""
    if source.take is not None and len(records) >= source.take.rows:
        records, faults = _take(source.take, file, records, faults, rules.seed)
    elif source.take is not None:
        take = f"{source.take.which} {source.take.rows:,}"
        remark = f"{data.name}: `take: {take}` asks for more records than there are; all {len(records):,} are used"
    pairs = 0 if rules.pair_documents else int((file.columns["rejected_answer"][records] > 0).sum())
    if pairs:
        used = f"{data.name}: {pairs:,} preference pairs: only their chosen answers are trained on"
        remark = f"{remark}; {used}" if remark else used
    faults.sort(key=lambda fault: fault.at)
    if source.kinds and not len(records) and not faults:
        refuse_unknown_kinds(known_kinds(file), source.kinds, data.name)
    return Selection(file, records, file.lengths[records], tuple(faults), remark)


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


def without_kind(file: Index, selected_kinds: Sequence[str]) -> list[Fault]:
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


def as_pairs(file: Index, documents: int) -> Index:
    """Return the index with the lengths of pairs: the chosen side, the rejected one, and with 3 documents the chosen
    one again after a damaged image. The slots of the second document count as text: it shows the same tiles.
    """
    columns = dict(file.columns)
    slots = file.lengths - columns["text_tokens"]
    lengths = file.lengths * (documents - 1) + columns["rejected_text"] + slots
    columns["text_tokens"] = lengths - slots * (documents - 1)
    columns["supervised"] = columns["chosen_answer"] * (documents - 1) + columns["rejected_answer"]
    return replace(file, columns=columns, lengths=lengths)


def without_pair(file: Index, records: np.ndarray) -> list[Fault]:
    """Return a fault for each record that is not a preference pair, for stages with `objective: dpo`."""
    faults = []
    for record in records[file.columns["rejected_answer"][records] == 0].tolist():
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


def too_long(file: Index, tokens_per_row: int | None) -> list[Fault]:
    """Return a fault for every sample that is longer than a packed row and cannot be cut."""
    faults = []
    for record in np.flatnonzero(file.lengths > (tokens_per_row or np.inf)).tolist():
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


def shorten(file: Index, processor: Processor, tokens_per_row: int | None) -> Index:
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


class SampleSequence(Sequence[Sample]):
    """Selected records of one or several files, as samples that are read when asked for.

    Attributes:
        parts: (index, selected records) of each file.
        sources: Where the samples come from: each file's kinds, such as `data/a.json detail`.
    """

    def __init__(self, parts: Sequence[tuple[Index, np.ndarray]]) -> None:
        self.parts = [(file, records) for file, records in parts if len(records)]
        self.ends = list(accumulate(len(records) for _, records in self.parts))
        kinds = [(file, code) for file, records in self.parts for code in np.unique(file.columns["kind"][records])]
        paths = {file.path for file, _ in self.parts}
        names = [f"{_short(file.path, paths)} {file.kinds[code]}".strip() for file, code in kinds]
        self.sources = tuple(dict.fromkeys(names))
        self._source = {
            (file.path, code): self.sources.index(name) for (file, code), name in zip(kinds, names, strict=True)
        }

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        file, record = self._find(index)
        return file.sample(record)

    def images_of(self, indices: np.ndarray) -> tuple[int, list[tuple[ImageFolders, str]]]:
        """Return the number of images in these samples, and the folders and name of each distinct image.

        The distinct images are in the order of their first sample. No record is read, so if a sample is cut short, the
        images of the removed turns count too.
        """
        part_of = np.searchsorted(np.array(self.ends), indices, side="right")
        orders: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        names: list[tuple[ImageFolders, str]] = []
        begin = 0
        for number, (file, selected) in enumerate(self.parts):
            own = np.flatnonzero(part_of == number)
            records = selected[indices[own] - begin]
            codes.append(len(names) + file.images_of(records))
            orders.append(np.repeat(own, file.columns["images"][records]))
            names += [(file.folders, name) for name in file.names]
            begin = self.ends[number]
        if not codes:
            return 0, []
        listed = np.concatenate(codes)[np.argsort(np.concatenate(orders), kind="stable")]
        _, first = np.unique(listed, return_index=True)
        images = (names[code] for code in listed[np.sort(first)].tolist())
        different = {(folders.key, name): (folders, name) for folders, name in images}  # files may share images
        return len(listed), list(different.values())

    def location(self, index: int) -> str:
        """Return the location of a sample in the user's file, without reading it."""
        file, record = self._find(index)
        return file.location(record)

    def source(self, index: int) -> int:
        """Return which of `sources` a sample comes from, without reading it."""
        file, record = self._find(index)
        return self._source[file.path, file.columns["kind"][record]]

    def _find(self, index: int) -> tuple[Index, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self.ends, index)
        file, records = self.parts[part]
        return file, int(records[index - (self.ends[part] - len(records))])


def _short(path: Path, others: Collection[Path]) -> str:
    """Return folder and file name, or the complete path if another file has the same two."""
    same = [other for other in others if (other.name, other.parent.name) == (path.name, path.parent.name)]
    return str(Path(*path.parts[-2:])) if len(same) == 1 else str(path)


def all_samples(source: DataSource, *, find_images: bool = True) -> SampleSequence:
    """Return all samples of a source. Raises the error of the first bad record.

    Without `find_images`, images are not looked for and may be missing.
    """
    data = open_source(source.file)
    file = index(data, folders_of(data, source.images) if find_images else None, None)
    if file.faults:
        raise file.faults[0].error
    return SampleSequence([(file, file.of_kind(None))])


def image_files_of(source: DataSource) -> dict[str, Path | None]:
    """Return every image that a source's good records name, with its file; None if the file is missing."""
    data = open_source(source.file)
    folders = ImageFolders(folders_of(data, source.images))
    files: dict[str, Path | None] = {}
    for name in index(data, None, None).names:
        try:
            files[name] = Path(str(folders.find(name, data.name, "image").source))
        except RecordError:
            files[name] = None
    return files
