"""All steps of all stages, planned before any learns, so that mistakes show in the first minute.

Recipe + data -> samples, proved and measured -> Planned stages; what is set aside -> rejects
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from vistune.data import StagePlan, plan_stage, prove, read_samples, refuse_unknown_kinds
from vistune.errors import DataError, RecipeError, TooManyRejects
from vistune.processor import Processor
from vistune.recipe import Recipe, Stage, stage_steps
from vistune.types import Reject, Sample

Advance = Callable[..., None]
Watch = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its samples, the processor in its template, and all its steps."""

    stage: Stage
    samples: Sequence[Sample]
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
    results = [read_samples(source, kinds=stage.kinds, on_bad_sample=recipe.on_bad_sample) for source in sources]
    if stage.kinds:
        refuse_unknown_kinds(results, stage.kinds, f"stage {stage.name}")
    rejects = [reject for result in results for reject in result.rejects]
    fitted = processor.with_template(stage.template or recipe.model.template)
    fitted.check()
    samples, lengths, content = [], [], hashlib.sha256()
    with watch(f"plan {stage.name}", sum(len(result.samples) for result in results)) as advance:
        for sample in (sample for result in results for sample in result.samples):
            advance(1)
            try:
                ids = prove(sample, fitted, stage.tokens_per_row).ids
            except DataError as error:
                if recipe.on_bad_sample == "raise":
                    raise
                rejects.append(Reject(sample.id, sample.origin, "bad_tokens", str(error)))
                continue
            samples.append(sample)
            lengths.append(len(ids))
            content.update(array("q", ids).tobytes())
    _refuse_too_many(stage, rejects, sum(result.rows for result in results), recipe.reject_limit)
    plan = plan_stage(
        lengths,
        [sample.origin for sample in samples],
        samples_per_step=stage.samples_per_step,
        tokens_per_row=stage.tokens_per_row,
        steps=stage_steps(stage, len(samples)),
        seed=recipe.seed + number,
        content=content.hexdigest()[:16],
    )
    return Planned(stage, samples, fitted, plan), rejects


def _refuse_too_many(stage: Stage, rejects: Sequence[Reject], rows: int, limit: float) -> None:
    if len(rejects) > limit * rows:
        raise TooManyRejects(
            f"stage {stage.name}: {len(rejects)} of {rows} rows rejected, first: {rejects[0].detail}",
            "mend the rows (vistune check lists them all) or raise reject_limit",
        )
