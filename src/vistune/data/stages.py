"""All steps of all stages, planned before any learns, so that mistakes show in the first minute.

Recipe + data -> samples, proved and measured -> Planned stages; what is set aside -> rejects
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

from vistune.data import (
    Choice,
    Rows,
    StagePlan,
    Stream,
    choose_rows,
    epoch_size,
    held_out,
    images_in,
    known_kinds,
    listed,
    only,
    plan_stage,
    read_window,
    refuse_unknown_kinds,
    steps_of,
    without,
)
from vistune.errors import RecipeError, TooManyRejects
from vistune.processor import Processor
from vistune.progress import Progress
from vistune.recipe import DataSource, Recipe, Shards, Stage
from vistune.records import lines_of
from vistune.types import Reject

MEASURED_AT_ONCE = 32  # samples of a validation that are read together


@dataclass(frozen=True, slots=True)
class Held:
    """Rows that a stage measures and never learns from, and in which packed rows.

    `shared`: how many pictures of files of their own are learnt from all the same.
    """

    samples: Rows
    plan: StagePlan
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its samples, the processor in its template, and all its steps."""

    stage: Stage
    samples: Rows
    processor: Processor
    plan: StagePlan
    held: Held | None = None
    stream: Stream | None = None  # of a stage over shards, whose samples and rows are not known before they are read
    remarks: tuple[str, ...] = ()  # on its sources, for whoever wrote the recipe

    @property
    def tokens(self) -> int:
        """Of all steps; of shards, at most."""
        return self.plan.tokens if self.stream is None else self.stream.tokens


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A stage's rows before any is set aside."""

    stage: Stage
    processor: Processor
    choices: list[Choice]
    weights: list[float]
    measured: list[Choice]  # of files of their own


def plan_run(recipe: Recipe, processor: Processor, progress: Progress) -> tuple[list[Planned], list[Reject]]:
    """Every stage's plan, and the rejects of all, each once. Raises DataError, or TooManyRejects above the limit."""
    chosen = [_choose(recipe, stage, processor, progress) for stage in recipe.stages]
    rejects: dict[tuple[str, str], Reject] = {}  # stages may read the same rows
    for item in chosen:
        read = [*item.choices, *item.measured]
        aside = [fault.reject for choice in read for fault in choice.faults]
        notes = [note for choice in read for note in choice.notes]
        rejects |= {(reject.origin, reject.reason): reject for reject in [*aside, *notes]}
    sides: list[np.ndarray] | None = None
    if recipe.validation is not None and recipe.validation.share is not None:
        # Over all stages at once: what one measures, none learns from.
        sides = held_out([c for item in chosen for c in item.choices], recipe.validation.share, recipe.seed)
    planned = []
    for number, item in enumerate(chosen):
        own = None if sides is None else [sides.pop(0) for _ in item.choices]
        planned.append(_plan(recipe, item, number, own))
    return planned, list(rejects.values())


def processor_for(stage: Stage, processor: Processor) -> Processor:
    """The processor with a stage's template and image mode, checked. Raises RecipeError or DataError like `check`."""
    fitted = processor.with_template(stage.template or processor.spec.template)
    fitted = fitted.with_image_mode(stage.image_mode or processor.spec.image_mode)
    fitted.check()
    return fitted


def _choose(recipe: Recipe, stage: Stage, processor: Processor, progress: Progress) -> _Chosen:
    """The rows that a stage reads, proved; of shards none yet. Raises DataError, or TooManyRejects above the limit."""
    sources = stage.data if stage.data is not None else recipe.data
    if not sources and stage.shards is None:
        raise RecipeError(f"stage {stage.name}: no data", "add data=FILE, or stages.NAME.data in the recipe")
    fitted = processor_for(stage, processor)
    own = recipe.validation.data or () if recipe.validation is not None and _is_measured(recipe, stage) else ()
    measured = _proved(recipe, stage, own, fitted, progress, f"plan {stage.name}'s validation") if own else []
    if stage.shards is not None:
        return _Chosen(stage, fitted, [], [], measured)
    choices = _proved(recipe, stage, sources, fitted, progress, f"plan {stage.name}")
    return _Chosen(stage, fitted, choices, [source.weight for source in sources], measured)


def _is_measured(recipe: Recipe, stage: Stage) -> bool:
    wanted = recipe.validation
    return wanted is not None and (wanted.stages is None or stage.name in wanted.stages)


def _proved(
    recipe: Recipe, stage: Stage, sources: Sequence[DataSource], processor: Processor, progress: Progress, label: str
) -> list[Choice]:
    choices = [
        choose_rows(
            source,
            processor,
            stage.kinds,
            stage.tokens_per_row,
            progress=progress,
            label=label,
            seed=recipe.seed,
            cut=stage.too_long == "cut",
        )
        for source in sources
    ]
    if stage.kinds and not any(choice.found for choice in choices):
        known = {kind for choice in choices for kind in known_kinds(choice.index)}
        refuse_unknown_kinds(known, stage.kinds, f"stage {stage.name}")
    faults = [fault for choice in choices for fault in choice.faults]
    if faults and recipe.on_bad_sample == "raise":
        raise faults[0].error
    rejects = [fault.reject for fault in faults]
    _refuse_too_many(stage, rejects, sum(len(choice.rows) for choice in choices) + len(rejects), recipe.reject_limit)
    return choices


def _plan(recipe: Recipe, chosen: _Chosen, number: int, aside: list[np.ndarray] | None) -> Planned:
    """The stage's steps over what is not set aside, and what it measures."""
    stage, choices = chosen.stage, chosen.choices
    if stage.shards is not None:
        return _streamed(recipe, stage, stage.shards, chosen, number)
    if aside is not None:
        choices = [without(choice, rows) for choice, rows in zip(choices, aside, strict=True)]
    mixture = [(len(choice.rows), weight) for choice, weight in zip(choices, chosen.weights, strict=True)]
    unseen = [choice for choice, (size, weight) in zip(choices, mixture, strict=True)
              if size and not epoch_size([(size, weight)])]  # fmt: skip
    if unseen and epoch_size(mixture):
        raise RecipeError(f"stage {stage.name}: {unseen[0].index.path}: its weight shows none of its "
                          f"{len(unseen[0].rows)} rows, in no epoch", "raise it, or leave the file out")  # fmt: skip
    lengths = _lengths(choices)
    content = hashlib.sha256()
    for choice in choices:
        content.update(choice.index.digest.encode() + choice.rows.tobytes())
    if not epoch_size(mixture) and aside is not None and any(rows.any() for rows in aside):
        raise RecipeError(f"stage {stage.name}: validation.share takes all its rows", "lower it, or name files")
    sizes: dict[str, Any] = {
        "samples_per_step": stage.samples_per_step,
        "tokens_per_step": stage.tokens_per_step,
        "seed": recipe.seed + number,
        "mixture": None if set(chosen.weights) == {1.0} else mixture,
    }
    steps = stage.steps or steps_of(stage.epochs or 1, lengths, **sizes)
    plan = plan_stage(
        lengths, tokens_per_row=stage.tokens_per_row, steps=steps, content=content.hexdigest()[:16], **sizes
    )
    held = _held(recipe, chosen, aside)
    rows = Rows([(choice.index, choice.rows) for choice in choices])
    return Planned(stage, rows, chosen.processor, plan, held, remarks=_remarks([*choices, *chosen.measured]))


def _remarks(choices: Sequence[Choice]) -> tuple[str, ...]:
    """Remarks: deviations from the recipe, and unread fields of the files."""
    unread = [field for choice in choices for field in choice.index.unread_fields]
    return (*(choice.remark for choice in choices if choice.remark), *lines_of(unread))


def _streamed(recipe: Recipe, stage: Stage, shards: Shards, chosen: _Chosen, number: int) -> Planned:
    """A stage over shards: their names, and how they become rows."""
    if _is_measured(recipe, stage) and not chosen.measured:
        raise RecipeError(
            f"stage {stage.name}: validation.share cannot set rows of shards aside", "name files in validation.data"
        )
    assert stage.steps is not None
    assert stage.tokens_per_step is not None  # the recipe holds both
    stream = Stream(
        listed(shards.files),
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
    held, remarks = _held(recipe, chosen, None), _remarks(chosen.measured)
    return Planned(stage, Rows([]), chosen.processor, stream.plan(), held, stream, remarks)


def sampled(planned: Planned, folder: Path, over: Event | None = None) -> Planned:
    """A stage over shards as one over the shard that it reads first, brought into the folder; any other as it is.

    Its steps are those of one epoch of that shard. Raises DataError where that shard is bad, Interrupted when it is
    `over`.
    """
    stream = planned.stream
    if stream is None:
        return planned
    window, _, _ = read_window(replace(stream, window=1), 0, 0, planned.processor, folder, over)
    lengths = [int(length) for index, rows in window.samples.parts for length in index.lengths[rows]]
    rows = iter(window.rows)
    steps = tuple(iter(lambda: tuple(islice(rows, stream.lanes)), ()))
    return replace(planned, samples=window.samples, plan=StagePlan(steps, planned.plan.made_from, lengths), stream=None)


def _held(recipe: Recipe, chosen: _Chosen, aside: list[np.ndarray] | None) -> Held | None:
    """What the stage measures. Raises RecipeError where that would be nothing."""
    wanted, stage, choices = recipe.validation, chosen.stage, chosen.measured
    if wanted is None or not _is_measured(recipe, stage):
        return None
    if wanted.data is None:
        assert aside is not None
        choices = [only(choice, rows) for choice, rows in zip(chosen.choices, aside, strict=True)]
    places = [(number, row) for number, choice in enumerate(choices) for row in choice.rows.tolist()]
    if not places:
        raise RecipeError(
            f"stage {stage.name}: validation sets no row aside", "raise validation.share, or name files in its `data`"
        )
    if len(places) > wanted.rows:
        chance = np.random.Generator(np.random.PCG64(recipe.seed))
        places = [places[k] for k in sorted(chance.permutation(len(places))[: wanted.rows].tolist())]
    parts = [
        (choice.index, np.array([row for k, row in places if k == number], np.int64))
        for number, choice in enumerate(choices)
    ]
    lengths = [int(choices[number].index.lengths[row]) for number, row in places]
    steps = steps_of(1, lengths, samples_per_step=MEASURED_AT_ONCE, seed=0)
    shared = len(images_in(choices) & images_in(chosen.choices)) if wanted.data is not None else 0
    plan = plan_stage(
        lengths, samples_per_step=MEASURED_AT_ONCE, tokens_per_row=stage.tokens_per_row, steps=steps, seed=0
    )
    return Held(Rows(parts), plan, shared)


def _lengths(choices: Sequence[Choice]) -> list[int]:
    found: list[int] = np.concatenate([choice.lengths for choice in choices]).tolist()
    return found


def _refuse_too_many(stage: Stage, rejects: Sequence[Reject], rows: int, limit: float) -> None:
    if len(rejects) > limit * rows:
        raise TooManyRejects(
            f"stage {stage.name}: {len(rejects)} of {rows} rows rejected, first: {rejects[0].detail}",
            "mend the rows (vistune check lists them all) or raise reject_limit",
        )
