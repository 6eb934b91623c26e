"""Every sample proved before anything is trained: form, pictures, tokens, what is learnt.

data sources + Processor -> CheckReport with a place and a reason for every fault
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vistune.data.image_audit import look_at_all, shown_images
from vistune.data.index import Index, index
from vistune.data.readers import folders_of, open_source
from vistune.data.selection import kindless, too_long
from vistune.data.survey import Survey
from vistune.data.truncation import shortened
from vistune.errors import DataError, RecipeError
from vistune.processor import Processor
from vistune.progress import Progress, no_progress
from vistune.recipe import DataSource
from vistune.records import UnreadField
from vistune.types import Reject

WORST_FOLDERS = 5  # named of those from which pictures are missing


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is in the data and what is wrong with it; lengths in tokens with image slots expanded.

    `faults` stop a training, `notes` do not; both have a location. `warnings`: counts of values filled in while
    reading, and of notes, by reason. `missing`: the folders from which most records' images are missing.
    `unread_fields`: fields of the files that are not read.
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

    def as_json(self) -> dict[str, Any]:
        """Return the report as `check --json` prints it; `pictures` is the number of images."""
        return {"pictures" if name == "images" else name: value for name, value in asdict(self).items()}


def check(
    sources: Sequence[DataSource],
    processor: Processor | None,
    *,
    images: bool = True,
    tokens_per_row: int | None = None,
    cut: bool = True,
    kinds: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> CheckReport:
    """Read all rows, encode them (with a processor), open each picture once; faults are gathered, not raised.

    Without `images` they are neither looked for nor opened, which anyres cannot do without: RecipeError. Samples
    longer than `tokens_per_row` are cut where a turn ends; without `cut`, or of a first turn too long, they are faults.
    `kinds`: those that some stage selects, if every stage selects by kind; a record without a kind is a fault then.
    """
    if processor is not None and processor.spec.image_mode == "anyres" and not images:
        raise RecipeError("an anyres model's tokens follow from the pictures' sizes", "check with the pictures")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    faults: list[Reject] = []
    skipped = Counter[str]()
    files: list[Index] = []
    survey = Survey(processor.tokenizer.all_special_tokens if processor is not None else ())
    for source in sources:
        try:
            data = open_source(source.file)
            folders = folders_of(data, source.images) if images else None
            made = index(data, folders, processor, progress=progress, processes=cores)
            survey.read(data)
        except DataError as error:  # the file as a whole: not there, no list, broken off
            faults.append(Reject("", str(source.file), "bad_file", str(error)))
            continue
        faults += [fault.reject for fault in made.faults]
        if selected := source.kinds or kinds:
            faults += [fault.reject for fault in kindless(made, selected)]
            others = {kind: len(made.of_kind([kind])) for kind in made.kinds if kind and kind not in selected}
            skipped += Counter({f"of kind {kind!r}, which no stage selects": count for kind, count in others.items()})
        if processor is not None:
            made = shortened(made, processor, tokens_per_row) if cut else made
            faults += [fault.reject for fault in too_long(made, tokens_per_row)]
        files.append(made)
    notes = [*survey.notes, *(note for made in files for note in made.notes.values())]
    used = shown_images(files)
    if images:
        with progress("open pictures", len(used)) as advance:
            bad, seen = look_at_all(used, advance)
        faults, notes = faults + bad, notes + seen
    mended = sum((Counter(made.warnings) for made in files), Counter[str]())
    noted = Counter(note.reason for note in notes) | survey.counts
    missing = sum((made.folders.missing for made in files), Counter[str]())
    return CheckReport(
        rows=sum(len(made) + len(made.faults) for made in files),
        samples=sum(map(len, files)),
        images=len(used),
        kinds=dict(sum((_kinds(made) for made in files), Counter[str]())),
        tokens=_spread([made.lengths for made in files] if processor is not None else []),
        learnt_tokens=sum(int(made.columns["learnt"].sum()) for made in files),
        warnings=dict(mended + noted + skipped),
        faults=faults,
        notes=notes,
        missing=dict(missing.most_common(WORST_FOLDERS)),
        unread_fields=[field for made in files for field in made.unread_fields],
    )


def _spread(lengths: Sequence[np.ndarray]) -> dict[str, int]:
    found = np.concatenate(lengths) if any(map(len, lengths)) else np.zeros(1, np.int64)
    return {"min": int(found.min()), "median": int(np.median(found)), "max": int(found.max())}


def _kinds(made: Index) -> Counter[str]:
    counts = np.bincount(made.columns["kind"], minlength=len(made.kinds))
    return Counter({kind or "none": int(count) for kind, count in zip(made.kinds, counts, strict=True)})
