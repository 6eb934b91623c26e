"""Select and check the records that each stage of a recipe reads.

stage + recipe -> its data sources and processor -> StageRecords: selections for training and for validation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vistune.data.selection import Selection, SelectionRules, known_kinds, refuse_unknown_kinds, select_records
from vistune.errors import RecipeError, TooManyRejects
from vistune.processor import Processor
from vistune.progress import Progress
from vistune.recipe import DataSource, Recipe, Stage


@dataclass(frozen=True, slots=True)
class StageRecords:
    """A stage's records before the validation split."""

    stage: Stage
    processor: Processor
    selections: list[Selection]
    weights: list[float]
    validation: list[Selection]  # of validation files


def processor_for(stage: Stage, processor: Processor) -> Processor:
    """Return the processor with a stage's template and image mode, checked. Raises RecipeError or DataError."""
    fitted = processor.with_template(stage.template or processor.spec.template)
    fitted = fitted.with_image_mode(stage.image_mode or processor.spec.image_mode)
    fitted.check()
    return fitted


def rules_for(recipe: Recipe, source: DataSource) -> list[SelectionRules]:
    """Return the rules of the stages that read a source's file, those with the longest rows first.

    A file that the recipe does not name is treated like the recipe's `data`: it is read by the stages that name no data
    themselves, or by all stages if each names some.
    """
    rules = [
        replace(SelectionRules.of(stage, recipe.seed), kinds=named.kinds or stage.kinds)
        for stage in recipe.stages
        for named in (*_training_sources(recipe, stage), *_validation_sources(recipe, stage))
        if named.file.absolute() == source.file.absolute()
    ]
    if not rules:
        stages = [stage for stage in recipe.stages if stage.data is None and stage.shards is None] or recipe.stages
        rules = [SelectionRules.of(stage, recipe.seed) for stage in stages]
    return sorted(dict.fromkeys(rules), key=lambda each: -(each.tokens_per_row or 0))


def _training_sources(recipe: Recipe, stage: Stage) -> Sequence[DataSource]:
    """Return the files that a stage trains on; none if it reads shards."""
    if stage.shards is not None:
        return ()
    return stage.data if stage.data is not None else recipe.data


def _validation_sources(recipe: Recipe, stage: Stage) -> Sequence[DataSource]:
    """Return the files of `validation.data`, if the stage is validated."""
    return recipe.validation.data or () if recipe.validation is not None and is_validated(recipe, stage) else ()


def read_stage(recipe: Recipe, stage: Stage, processor: Processor, progress: Progress) -> StageRecords:
    """Select and check a stage's records; shards are not read yet."""
    sources = _training_sources(recipe, stage)
    if not sources and stage.shards is None:
        raise RecipeError(f"stage {stage.name}: no data", "add data=FILE, or stages.NAME.data in the recipe")
    fitted = processor_for(stage, processor)
    files = _validation_sources(recipe, stage)
    validation = _select(recipe, stage, files, fitted, progress, f"plan {stage.name}'s validation") if files else []
    if stage.shards is not None:
        return StageRecords(stage, fitted, [], [], validation)
    selections = _select(recipe, stage, sources, fitted, progress, f"plan {stage.name}")
    return StageRecords(stage, fitted, selections, [source.weight for source in sources], validation)


def is_validated(recipe: Recipe, stage: Stage) -> bool:
    validation = recipe.validation
    return validation is not None and (validation.stages is None or stage.name in validation.stages)


def _select(
    recipe: Recipe, stage: Stage, sources: Sequence[DataSource], processor: Processor, progress: Progress, label: str
) -> list[Selection]:
    rules = SelectionRules.of(stage, recipe.seed)
    selections = [select_records(source, processor, rules, progress=progress, label=label) for source in sources]
    if stage.kinds and all(selection.is_empty for selection in selections):
        known = {kind for selection in selections for kind in known_kinds(selection.index)}
        refuse_unknown_kinds(known, stage.kinds, f"stage {stage.name}")
    faults = [fault for selection in selections for fault in selection.faults]
    if faults and recipe.on_bad_sample == "raise":
        raise faults[0].error
    records = sum(len(selection.records) for selection in selections) + len(faults)
    if len(faults) > recipe.reject_limit * records:
        raise TooManyRejects(
            f"stage {stage.name}: {len(faults)} of {records} records rejected, first: {faults[0].reject.detail}",
            "correct the records (vistune check lists all faults) or raise reject_limit",
        )
    return selections
