"""All steps of all stages, planned before any learns, so that mistakes show in the first minute.

Recipe + data -> samples, proved and measured -> Planned stages; what is set aside -> rejects
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vistune.data import Rows, StagePlan, Watch, choose_rows, epoch_size, known_kinds, plan_stage, refuse_unknown_kinds
from vistune.errors import RecipeError, TooManyRejects
from vistune.processor import Processor
from vistune.recipe import Recipe, Stage, stage_steps
from vistune.types import Reject


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its samples, the processor in its template, and all its steps."""

    stage: Stage
    samples: Rows
    processor: Processor
    plan: StagePlan


def plan_run(recipe: Recipe, processor: Processor, watch: Watch) -> tuple[list[Planned], list[Reject]]:
    """Every stage's plan, and the rejects of all, each once. Raises DataError, or TooManyRejects above the limit."""
    planned = []
    rejects: dict[tuple[str, str], Reject] = {}  # stages may read the same rows
    for number, stage in enumerate(recipe.stages):
        stage_plan, aside = _plan(recipe, stage, number, processor, watch)
        planned.append(stage_plan)
        rejects |= {(reject.origin, reject.reason): reject for reject in aside}
    return planned, list(rejects.values())


def _plan(
    recipe: Recipe, stage: Stage, number: int, processor: Processor, watch: Watch
) -> tuple[Planned, list[Reject]]:
    sources = stage.data if stage.data is not None else recipe.data
    if not sources:
        raise RecipeError(f"stage {stage.name}: no data", "add data=FILE, or stages.NAME.data in the recipe")
    fitted = processor.with_template(stage.template or processor.spec.template)
    fitted = fitted.with_image_mode(stage.image_mode or processor.spec.image_mode)
    fitted.check()
    label = f"plan {stage.name}"
    chosen = [
        choose_rows(source, fitted, stage.kinds, stage.tokens_per_row, watch=watch, label=label, seed=recipe.seed)
        for source in sources
    ]
    if stage.kinds and not any(choice.found for choice in chosen):
        known = {kind for choice in chosen for kind in known_kinds(choice.index)}
        refuse_unknown_kinds(known, stage.kinds, f"stage {stage.name}")
    faults = [fault for choice in chosen for fault in choice.faults]
    if faults and recipe.on_bad_sample == "raise":
        raise faults[0].error
    rejects = [fault.reject for fault in faults]
    rows = Rows([(choice.index, choice.rows) for choice in chosen])
    _refuse_too_many(stage, rejects, len(rows) + len(rejects), recipe.reject_limit)
    weights = [source.weight for source in sources]
    mixture = [(len(choice.rows), weight) for choice, weight in zip(chosen, weights, strict=True)]
    content = hashlib.sha256()
    for choice in chosen:
        content.update(choice.index.digest.encode() + choice.rows.tobytes())
    plan = plan_stage(
        np.concatenate([choice.lengths for choice in chosen]).tolist(),
        samples_per_step=stage.samples_per_step,
        tokens_per_row=stage.tokens_per_row,
        steps=stage_steps(stage, epoch_size(mixture)),
        mixture=None if set(weights) == {1.0} else mixture,
        seed=recipe.seed + number,
        content=content.hexdigest()[:16],
    )
    return Planned(stage, rows, fitted, plan), rejects


def _refuse_too_many(stage: Stage, rejects: Sequence[Reject], rows: int, limit: float) -> None:
    if len(rejects) > limit * rows:
        raise TooManyRejects(
            f"stage {stage.name}: {len(rejects)} of {rows} rows rejected, first: {rejects[0].detail}",
            "mend the rows (vistune check lists them all) or raise reject_limit",
        )
