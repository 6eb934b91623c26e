"""Check every sample before training: form, images, tokens, labels.

data sources + Processor -> CheckReport with a location and a reason for every fault
image files -> ImageAudit of each (in threads) -> faults for unreadable ones, notes on suffixes and duplicates
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vistune.data.index import Index, folders_of, index, open_source
from vistune.data.near_duplicates import difference_hash, group_near_duplicates
from vistune.data.pair_check import check_claims
from vistune.data.record_check import TextNotes
from vistune.data.selection import EVERY_RECORD, SelectionRules, as_read, usable_records
from vistune.errors import DataError, RecipeError
from vistune.grounding.guessing import (
    AnswerPair,
    Conversation,
    GuessedAnswers,
    language_of,
    measure_guessing,
    measure_pair_guessing,
    spread,
)
from vistune.notebook import html_table
from vistune.processor import Processor
from vistune.processor.images import load_bytes, read_image
from vistune.progress import Progress, no_progress
from vistune.recipe import DataSource
from vistune.records import UnreadField
from vistune.records.image_files import DAMAGE, FORMAT_SUFFIXES
from vistune.types import Reject

WORST_FOLDERS = 5  # folders with the most missing images that are named
SHOWN_FAULTS = 20  # in a notebook
NAMED_IMAGES = 5  # images of a group that one note names

RulesOf = Callable[[DataSource], Sequence[SelectionRules]]  # the rules of the stages that read a source


@dataclass(frozen=True, slots=True, repr=False)
class CheckReport:
    """Counts of the data, and everything that is wrong with them.

    Attributes:
        rows: Number of records.
        samples: Number of good records.
        images: Number of different image files.
        kinds: Samples by kind.
        tokens: Smallest, median and largest sample, image slots included; zeros without a processor. Both sides of a
            preference pair count if a stage trains on them. If stages cut samples at several lengths, the longest.
        learnt_tokens: Number of supervised tokens.
        warnings: Counts of missing values that were filled in, and of notes by reason.
        faults: Faults that stop training, each with its location.
        notes: Possible mistakes, each with its location.
        missing: Missing images by folder, for the folders with the most.
        unread_fields: Fields of the files that are not read.
        guessing: How many answers can be guessed without the image, by type of question and language.
    """

    rows: int
    samples: int
    images: int
    kinds: dict[str, int]
    tokens: dict[str, int]
    learnt_tokens: int
    warnings: dict[str, int]
    faults: list[Reject]
    notes: list[Reject]
    missing: dict[str, int]
    unread_fields: list[UnreadField]
    guessing: list[GuessedAnswers]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `check --json` prints it; its key `pictures` is the number of images."""
        return {"pictures" if name == "images" else name: value for name, value in asdict(self).items()}

    def __repr__(self) -> str:
        counts = f"rows={self.rows}, samples={self.samples}, images={self.images}"
        return f"CheckReport({counts}, faults={len(self.faults)}, notes={len(self.notes)})"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [("records", self.rows), ("images", self.images)]
        rows += [(f"kind: {kind}", count) for kind, count in self.kinds.items()]
        rows += [(f"note: {reason}", count) for reason, count in self.warnings.items()]
        rows.append(("faults", len(self.faults)))
        rows += [(fault.reason, fault.detail) for fault in self.faults[:SHOWN_FAULTS]]
        return html_table(rows)


def every_record(source: DataSource) -> list[SelectionRules]:
    """Return the rules of a stage that reads all records of a source, of any length."""
    return [EVERY_RECORD]


def check(
    sources: Sequence[DataSource],
    processor: Processor | None,
    rules_of: RulesOf = every_record,
    *,
    images: bool = True,
    progress: Progress = no_progress,
) -> CheckReport:
    """Read all records, encode them (with a processor) and open each image once; collect faults instead of raising.

    Args:
        rules_of: The rules of the stages that read a source, those with the longest rows first; see `rules_for`.
        images: Whether images are looked for and opened.

    Raises:
        RecipeError: `images` is false, but the number of tokens of an image depends on its size (anyres, naflex).
    """
    if processor is not None and processor.spec.slots_vary and not images:
        raise RecipeError(
            f"the tokens of a model with image_mode={processor.spec.image_mode} depend on the sizes of the images",
            "check with the images, without --no-images",
        )
    faults: list[Reject] = []
    skipped = Counter[str]()
    files: list[Index] = []
    texts = TextNotes(processor.tokenizer.all_special_tokens if processor is not None else ())
    for source in sources:
        try:
            data = open_source(source.file)
            folders = folders_of(data, source.images) if images else None
            file = index(data, folders, processor, progress=progress, processes=_cores())
            texts.read(data)
            may_have_pairs = file.columns["rejected_answer"].any() or file.faults
            bad_claims, unchecked = check_claims(data) if may_have_pairs else ([], [])
        except DataError as error:  # the file as a whole: missing, not a list, truncated
            faults.append(Reject("", str(source.file), "bad_file", str(error)))
            continue
        stages = [replace(rules, kinds=source.kinds or rules.kinds) for rules in rules_of(source)]
        file, unusable = _read_by_stages(file, processor, stages)
        faults += [*(fault.reject for fault in file.faults), *unusable, *bad_claims]
        texts.notes += unchecked
        if all(rules.kinds for rules in stages):
            skipped += _unselected(file, {kind for rules in stages for kind in rules.kinds or ()})
        files.append(file)
    image_files = shown_images(files)
    bad_images, image_notes = audit_images(image_files, progress) if images else ([], [])
    faults += bad_images
    notes = [*texts.notes, *(note for file in files for note in file.notes.values()), *image_notes]
    noted = Counter(note.reason for note in notes) | texts.counts
    return CheckReport(
        rows=sum(len(file) + len(file.faults) for file in files),
        samples=sum(map(len, files)),
        images=len(image_files),
        kinds={kind or "none": count for kind, count in _total(map(_kinds, files)).items()},
        tokens=_min_median_max([file.lengths for file in files] if processor is not None else []),
        learnt_tokens=sum(int(file.columns["supervised"].sum()) for file in files),
        warnings=dict(_total(Counter(file.warnings) for file in files) + noted + skipped),
        faults=faults,
        notes=notes,
        missing=dict(_total(file.folders.missing for file in files).most_common(WORST_FOLDERS)),
        unread_fields=[field for file in files for field in file.unread_fields],
        guessing=_measure_guessing(files),
    )


def _measure_guessing(files: Sequence[Index]) -> list[GuessedAnswers]:
    """Measure the guessers on the conversations and pairs of at most MOST_RECORDS records."""
    records = [(file, number) for file in files for number in range(len(file))]
    conversations: list[Conversation] = []
    pairs: list[AnswerPair] = []
    for index_file, number in spread(records):
        sample = index_file.sample(number)
        turns = [
            (question.text, answer.text)
            for question, answer in pairwise(sample.messages)
            if (question.role, answer.role) == ("user", "assistant")
        ]
        image = str(sample.images[0].source) if sample.images else ""
        if sample.rejected is not None:
            pairs.append(AnswerPair(image, *turns[-1], sample.rejected.text))
        elif image:
            conversations.append(Conversation(image, language_of(turns), turns))
    return [*measure_guessing(conversations), *measure_pair_guessing(pairs)]


def _read_by_stages(
    file: Index, processor: Processor | None, stages: Sequence[SelectionRules]
) -> tuple[Index, list[Reject]]:
    """Return the index with the greatest length at which a stage reads each sample, and the faults of all stages.

    If several stages have the same fault or note on a record, the last stage's is kept.
    """
    faults: dict[tuple[str, str], Reject] = {}
    notes: dict[int, Reject] = {}
    lengths, supervised = np.zeros_like(file.lengths), np.zeros_like(file.columns["supervised"])
    for rules in stages:
        read = as_read(file, processor, rules)
        records, unusable = usable_records(read, rules, rules.kinds)
        faults |= {(fault.reject.origin, fault.reject.reason): fault.reject for fault in unusable}
        notes |= {record: read.notes[record] for record in records.tolist() if record in read.notes}
        lengths = np.maximum(lengths, read.lengths)
        supervised = np.maximum(supervised, read.columns["supervised"])
    columns = {**file.columns, "supervised": supervised}
    return replace(file, columns=columns, lengths=lengths, notes=notes), list(faults.values())


def _unselected(file: Index, selected: Collection[str]) -> Counter[str]:
    """Count the samples of kinds that no stage selects, by a text for the report."""
    others = {kind: count for kind, count in _kinds(file).items() if kind and kind not in selected}
    return Counter({f"of kind {kind!r}, which no stage selects": count for kind, count in others.items()})


def _min_median_max(lengths: Sequence[np.ndarray]) -> dict[str, int]:
    values = np.concatenate(lengths) if any(map(len, lengths)) else np.zeros(1, np.int64)
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def _kinds(file: Index) -> Counter[str]:
    """Count the samples of each kind; the kind of samples without one is empty."""
    counts = np.bincount(file.columns["kind"], minlength=len(file.kinds))
    return Counter({kind: int(count) for kind, count in zip(file.kinds, counts, strict=True)})


def _total(counts: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counts, Counter[str]())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@dataclass(slots=True)
class ShownImage:
    """An image file: its name in the data, the first record that shows it, and how often it is shown."""

    name: str
    index: Index
    record: int
    uses: int = 0

    def reject(self, reason: str, problem: str) -> Reject:
        location = self.index.location(self.record)
        return Reject(self.index.sample(self.record).id, location, reason, f"{location}:image: {problem}")


@dataclass(frozen=True, slots=True)
class ImageAudit:
    """The result of reading one image file.

    Attributes:
        format: Pillow's name of the format.
        digest: SHA-256 of the file's bytes.
        hash: 128-bit difference hash, similar for near duplicates; None for an image of one tone.
        fault: Why the file cannot be used.
    """

    format: str = ""
    digest: bytes = b""
    hash: int | None = None
    fault: DataError | None = None


def shown_images(files: Sequence[Index]) -> dict[Path, ShownImage]:
    """Return every image file that good records show, in the order of the records."""
    images: dict[Path, ShownImage] = {}
    for file in files:
        paths = [Path(file.image_path(name)) for name in file.names]
        records = np.repeat(np.arange(len(file)), file.columns["images"])
        for record, name_index in zip(records.tolist(), file.shown.tolist(), strict=True):
            image = images.setdefault(paths[name_index], ShownImage(file.names[name_index], file, record))
            image.uses += 1
    return images


def audit_image(path: Path) -> ImageAudit:
    """Read and decode one image completely: a header does not show that the rest of the file is missing."""
    try:
        data = read_image(path)
        image = load_bytes(data, str(path))
        fingerprint = difference_hash(image)
    except DataError as error:
        return ImageAudit(fault=error)
    except DAMAGE as error:
        return ImageAudit(fault=DataError(f"{path}: the image is damaged ({error})", "replace it"))
    return ImageAudit(image.format or "", hashlib.sha256(data).digest(), fingerprint)


def audit_images(images: Mapping[Path, ShownImage], progress: Progress) -> tuple[list[Reject], list[Reject]]:
    """Return (faults, notes), each at the first record that shows the image. Images are decoded in threads."""
    faults: list[Reject] = []
    notes: list[Reject] = []
    same_bytes: dict[bytes, list[Path]] = defaultdict(list)
    hashes: dict[str, int] = {}
    with ThreadPoolExecutor() as pool, progress("open images", len(images)) as advance:
        for (path, image), audit in zip(images.items(), pool.map(audit_image, images), strict=True):
            advance(1)
            if audit.fault is not None:
                others = f" ({image.uses - 1} more uses)" if image.uses > 1 else ""
                faults.append(image.reject("bad_picture", f"{audit.fault}{others}"))
                continue
            if path.suffix.lower() not in FORMAT_SUFFIXES.get(audit.format, ()):
                problem = f"{image.name!r} is a {audit.format} file and is read as one"
                notes.append(image.reject("wrong_suffix", problem))
            same_bytes[audit.digest].append(path)
            if audit.hash is not None and len(same_bytes[audit.digest]) == 1:
                hashes[str(path)] = audit.hash
    notes += _repeated(images, same_bytes.values(), "same_picture", "are the same file")
    groups = ([Path(name) for name in group] for group in group_near_duplicates(hashes))
    return faults, notes + list(_repeated(images, groups, "near_picture", "are near duplicates"))


def _repeated(
    images: Mapping[Path, ShownImage], groups: Iterable[list[Path]], reason: str, problem: str
) -> Iterator[Reject]:
    for group in groups:
        if len(group) > 1:
            names = ", ".join(repr(images[path].name) for path in group[:NAMED_IMAGES])
            more = f" and {len(group) - NAMED_IMAGES} more" if len(group) > NAMED_IMAGES else ""
            yield images[group[0]].reject(reason, f"{names}{more} {problem}")
