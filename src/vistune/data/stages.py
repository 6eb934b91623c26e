"""Plan all steps of all stages before training begins, so that mistakes appear in the first minute.

Recipe + data -> checked records -> PlannedStage of every stage, and rejects: the records that are not used
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from vistune.data.packing import StagePlan, epoch_size, plan_stage, rng_of, steps_of
from vistune.data.samples import SampleSequence
from vistune.data.selection import Selection
from vistune.data.shards import ShardStream, list_shards
from vistune.data.split import (
    LARGEST_SHARE,
    LEAST_IMAGES,
    choose_by_image,
    images_in,
    split_blind_check,
    split_validation,
    training_part,
    validation_part,
)
from vistune.data.stage_records import StageRecords, is_validated, read_stage
from vistune.data.stream import read_window
from vistune.errors import RecipeError
from vistune.processor import Processor
from vistune.progress import Progress
from vistune.recipe import Recipe, Shards, Stage
from vistune.records import lines_of
from vistune.types import Reject

VALIDATION_SAMPLES_PER_STEP = 32


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Samples of a stage that are only validated, and how they are packed.

    Attributes:
        samples: The samples.
        plan: Their packed rows.
        shared: For validation files, the number of images that the stage also trains on.
    """

    samples: SampleSequence
    plan: StagePlan
    shared: int = 0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Samples with images that no stage trains on, for the blind check at the end of a stage.

    Attributes:
        samples: The samples; none if there is no blind check.
        note: Message for the user: how much of the training data is held out, or why nothing is; may be "".
    """

    samples: SampleSequence
    note: str = ""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage with all its steps.

    Attributes:
        stage: The recipe's stage.
        samples: Its samples; empty for shards, whose samples are not known before they are read.
        processor: The processor with the stage's template and image mode.
        plan: Its steps.
        validation: The samples that are validated, if any.
        stream: For a stage over shards, how the shards become rows.
        remarks: Where its sources differ from the recipe, for the user.
    """

    stage: Stage
    samples: SampleSequence
    processor: Processor
    plan: StagePlan
    validation: ValidationSet | None = None
    held_out: HeldOut = HeldOut(SampleSequence([]))
    stream: ShardStream | None = None
    remarks: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all steps; for shards, the largest possible number."""
        return self.plan.tokens if self.stream is None else self.stream.tokens


def plan_stages(recipe: Recipe, processor: Processor, progress: Progress) -> tuple[list[PlannedStage], list[Reject]]:
    """Plan every stage. Return the plans and the rejected records of all stages, without repetitions.

    Raises:
        DataError: The data are bad or missing.
        TooManyRejects: More records are bad than `reject_limit` allows.
    """
    stages = [read_stage(recipe, stage, processor, progress) for stage in recipe.stages]
    rejects: dict[tuple[str, str], Reject] = {}  # stages may read the same records
    for item in stages:
        for selection in [*item.selections, *item.validation]:
            listed = [*(fault.reject for fault in selection.faults), *selection.notes]
            rejects |= {(reject.origin, reject.reason): reject for reject in listed}
    splits: list[np.ndarray] | None = None
    if recipe.validation is not None and recipe.validation.share is not None:
        # Over all stages together: no stage trains on what another one validates.
        selections = [selection for item in stages for selection in item.selections]
        splits = split_validation(selections, recipe.validation.share, recipe.seed)
    stages, held_out = _split_for_blind_check(recipe, stages, splits)
    planned = []
    for number, (item, held) in enumerate(zip(stages, held_out, strict=True)):
        own = None if splits is None else [splits.pop(0) for _ in item.selections]
        planned.append(replace(_plan(recipe, item, number, own), held_out=held))
    return planned, list(rejects.values())


def held_out_selections(recipe: Recipe, processor: Processor, progress: Progress) -> list[Selection]:
    """Return all records that a run does not train on: the `validation` records, else those for the blind check.

    A record of several stages is in the first one's selection only.

    Raises:
        DataError: The data are bad or missing.
        RecipeError: The recipe holds nothing out.
    """
    stages = [read_stage(recipe, stage, processor, progress) for stage in recipe.stages]
    read = [selection for item in stages for selection in item.selections]
    if recipe.validation is not None and recipe.validation.data is not None:
        held = [selection for item in stages for selection in item.validation]
    else:
        if recipe.validation is not None and recipe.validation.share is not None:
            parts = split_validation(read, recipe.validation.share, recipe.seed)
        else:
            counts = [recipe.blind_check] * len(stages)
            parts = split_blind_check([item.selections for item in stages], counts, recipe.seed)
        held = [validation_part(selection, part) for selection, part in zip(read, parts, strict=True)]
    taken: dict[Path, set[int]] = {}
    own: list[Selection] = []
    for selection in held:
        known = taken.setdefault(selection.index.path, set())
        is_new = np.array([record not in known for record in selection.records.tolist()], bool)
        known.update(selection.records.tolist())
        if is_new.any():
            own.append(validation_part(selection, is_new))
    if not own:
        raise RecipeError(
            "the recipe holds no record out of training",
            "train with `validation: {share: 0.1}`, or name a file of held-out samples with --data FILE",
        )
    return own


def _split_for_blind_check(
    recipe: Recipe, stages: Sequence[StageRecords], splits: Sequence[np.ndarray] | None
) -> tuple[list[StageRecords], list[HeldOut]]:
    """Choose the samples of each stage's blind check; return the stages without the records held out for it.

    A stage with validation samples measures those. Any other stage leaves some images of its data to the check.
    """
    if not recipe.blind_check:
        return list(stages), [HeldOut(SampleSequence([]))] * len(stages)
    if splits is None:
        counts = [0 if item.validation else recipe.blind_check for item in stages]
        held = split_blind_check([item.selections for item in stages], counts, recipe.seed)
    else:
        held = list(splits)
    has_files = any(item.validation for item in stages)
    seen = images_in([selection for item in stages for selection in item.selections]) if has_files else set[str]()
    training, chosen = [], []
    for item in stages:
        own = [held.pop(0) for _ in item.selections]
        parts = [validation_part(selection, part) for selection, part in zip(item.selections, own, strict=True)]
        samples = choose_by_image(
            item.validation or parts, recipe.blind_check, seen if item.validation else (), recipe.seed
        )
        chosen.append(HeldOut(samples, _note(item, parts) if splits is None else ""))
        if splits is None:
            left = [training_part(selection, part) for selection, part in zip(item.selections, own, strict=True)]
            item = replace(item, selections=left)
        training.append(item)
    return training, chosen


def _note(data: StageRecords, held: Sequence[Selection]) -> str:
    """Describe the images held out of a stage's data, or why a stage without validation has no blind check."""
    stage = f"stage {data.stage.name}"
    images = len(images_in(held))
    if images:
        records = sum(len(part.records) for part in held)
        return (
            f"{stage}: {images} images with {records} samples are not trained on, so that the blind check can use "
            "them; set blind_check: 0 to train on all"
        )
    if data.validation or not (data.stage.shards or any(selection.index.names for selection in data.selections)):
        return ""
    if data.stage.shards is not None:
        return f"{stage}: no blind check, because shards are not split; name files in validation.data"
    return (
        f"{stage}: no blind check, because the data have too few images to hold some out (at least "
        f"{round(LEAST_IMAGES / LARGEST_SHARE)} are needed); add `validation` to measure whether the model uses them"
    )


def _plan(recipe: Recipe, data: StageRecords, number: int, splits: list[np.ndarray] | None) -> PlannedStage:
    """Plan a stage's steps over its training part, and its validation set."""
    stage, selections = data.stage, data.selections
    if stage.shards is not None:
        return _plan_shards(recipe, stage, stage.shards, data, number)
    if splits is not None:
        selections = [training_part(selection, split) for selection, split in zip(selections, splits, strict=True)]
    mixture = [(len(selection.records), weight) for selection, weight in zip(selections, data.weights, strict=True)]
    _refuse_unused(stage, selections, mixture)
    if not epoch_size(mixture) and splits is not None and any(split.any() for split in splits):
        raise RecipeError(
            f"stage {stage.name}: validation.share leaves no record for training",
            "lower validation.share, or name validation files in validation.data",
        )
    lengths: list[int] = np.concatenate([selection.lengths for selection in selections]).tolist()
    content = hashlib.sha256()
    for selection in selections:
        content.update(selection.index.digest.encode() + selection.records.tobytes())
    sizes: dict[str, Any] = {
        "samples_per_step": stage.samples_per_step,
        "tokens_per_step": stage.tokens_per_step,
        "seed": recipe.seed + number,
        "mixture": None if set(data.weights) == {1.0} else mixture,
    }
    steps = stage.steps or steps_of(stage.epochs or 1, lengths, **sizes)
    plan = plan_stage(lengths, tokens_per_row=stage.tokens_per_row, steps=steps, **sizes)
    return PlannedStage(
        stage,
        SampleSequence([(selection.index, selection.records) for selection in selections]),
        data.processor,
        plan.of_data(content.hexdigest()[:16]),
        validation=_validation_set(recipe, data, splits),
        remarks=_remarks([*selections, *data.validation]),
    )


def _refuse_unused(stage: Stage, selections: Sequence[Selection], mixture: Sequence[tuple[int, float]]) -> None:
    """Raise RecipeError for a file whose records no epoch uses, if it uses records of other files."""
    for selection, (size, weight) in zip(selections, mixture, strict=True):
        if size and not epoch_size([(size, weight)]) and epoch_size(mixture):
            raise RecipeError(
                f"stage {stage.name}: {selection.index.path}: weight {weight:g} selects 0 of "
                f"{len(selection.records)} records per epoch",
                "increase `weight` or remove the file",
            )


def _remarks(selections: Sequence[Selection]) -> tuple[str, ...]:
    """Return differences from the recipe, and unread fields of the files."""
    unread = [field for selection in selections for field in selection.index.unread_fields]
    return (*(remark for selection in selections for remark in selection.remarks), *lines_of(unread))


def _plan_shards(recipe: Recipe, stage: Stage, shards: Shards, data: StageRecords, number: int) -> PlannedStage:
    """Plan a stage over shards: their names, and how they become rows."""
    if is_validated(recipe, stage) and not data.validation:
        raise RecipeError(f"stage {stage.name}: validation.share cannot split shards", "name files in validation.data")
    assert stage.steps is not None
    assert stage.tokens_per_step is not None  # the recipe checks both
    stream = ShardStream(
        list_shards(shards.files),
        lanes=stage.tokens_per_step // stage.tokens_per_row,
        window=shards.window,
        steps=stage.steps,
        tokens_per_row=stage.tokens_per_row,
        seed=recipe.seed + number,
        kinds=stage.kinds,
        cut=stage.too_long == "cut",
        rejects=recipe.on_bad_sample == "reject",
        reject_limit=recipe.reject_limit,
    )
    return PlannedStage(
        stage,
        SampleSequence([]),
        data.processor,
        stream.plan(),
        validation=_validation_set(recipe, data, None),
        stream=stream,
        remarks=_remarks(data.validation),
    )


def with_first_shard(planned: PlannedStage, folder: Path, over: Event | None = None) -> PlannedStage:
    """Return a stage over shards as one epoch over the shard that it reads first; any other stage unchanged.

    Raises:
        DataError: The shard is bad.
        Interrupted: `over` was set.
    """
    stream = planned.stream
    if stream is None:
        return planned
    window, _, _ = read_window(replace(stream, window=1), 0, 0, planned.processor, folder, over)
    lengths = [int(length) for index, records in window.samples.parts for length in index.lengths[records]]
    rows = iter(window.rows)
    steps = tuple(iter(lambda: tuple(islice(rows, stream.lanes)), ()))
    return replace(planned, samples=window.samples, plan=StagePlan(steps, planned.plan.made_from, lengths), stream=None)


def _validation_set(recipe: Recipe, data: StageRecords, splits: list[np.ndarray] | None) -> ValidationSet | None:
    """Return the samples that a stage validates. Raises RecipeError if there are none."""
    validation, stage, selections = recipe.validation, data.stage, data.validation
    if validation is None or not is_validated(recipe, stage):
        return None
    if validation.data is None:
        assert splits is not None
        selections = [validation_part(part, split) for part, split in zip(data.selections, splits, strict=True)]
    chosen = [(number, record) for number, part in enumerate(selections) for record in part.records.tolist()]
    if not chosen:
        raise RecipeError(
            f"stage {stage.name}: validation has no record", "raise validation.share, or name files in its `data`"
        )
    if len(chosen) > validation.rows:
        chosen = [chosen[k] for k in sorted(rng_of(recipe.seed).permutation(len(chosen))[: validation.rows].tolist())]
    parts = [
        (selection.index, np.array([record for k, record in chosen if k == number], np.int64))
        for number, selection in enumerate(selections)
    ]
    lengths = [int(selections[number].index.lengths[record]) for number, record in chosen]
    steps = steps_of(1, lengths, samples_per_step=VALIDATION_SAMPLES_PER_STEP, seed=0)
    shared = len(images_in(selections) & images_in(data.selections)) if validation.data is not None else 0
    plan = plan_stage(
        lengths,
        samples_per_step=VALIDATION_SAMPLES_PER_STEP,
        tokens_per_row=stage.tokens_per_row,
        steps=steps,
        seed=0,
    )
    return ValidationSet(SampleSequence(parts), plan, shared)
