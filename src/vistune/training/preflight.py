"""Check without weights everything that a run would refuse before its first step.

Recipe + Spec (+ the model of `from`) -> a model on torch's meta device, taken through every stage -> error or None
Conditions that can change are not checked: free memory, free disk, another process on the same folder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vistune.data.stages import PlannedStage, plan_stages, processor_for, with_first_shard
from vistune.errors import RecipeError
from vistune.files import scratch_folder, user_cache
from vistune.interop.load import ParentModel, recipe_processor
from vistune.model import VisionLanguageModel, add_adapters, build
from vistune.model.devices import resolve_device
from vistune.model.language import quantization
from vistune.planner.precision import products_in
from vistune.processor import Processor
from vistune.progress import Progress, no_progress
from vistune.recipe import Recipe, Stage
from vistune.training.distributed.parallel import World
from vistune.training.distributed.sharding import refuse_slices, way_of
from vistune.training.features import refuse_features
from vistune.training.optim import make_optimizer
from vistune.training.tracking import refuse_missing
from vistune.types import Spec


def check_recipe(recipe: Recipe, parent: ParentModel | None = None) -> Processor:
    """Raise the errors of `train` about model, templates and stages; return the model's processor.

    The data are not checked and no weights are loaded. Errors that depend on the machine are not raised.
    """
    refuse_adapted(recipe, parent)
    processor = recipe_processor(recipe, parent)
    for stage in recipe.stages:
        processor_for(stage, processor)
    refuse_untrainable(recipe, processor.spec, parent, None)
    return processor


def dry_run(
    recipe: Recipe, parent: ParentModel | None = None, *, progress: Progress = no_progress
) -> list[dict[str, Any]]:
    """Read, encode and plan like a run, of shards only the first one, and raise the same errors; train nothing.

    A stage's `remarks` say where its sources differ from the recipe.
    """
    refuse_adapted(recipe, parent)
    processor = recipe_processor(recipe, parent)
    refuse_missing(recipe.track)
    planned, _ = plan_stages(recipe, processor, progress)
    refuse_untrainable(recipe, processor.spec, parent, World(device=resolve_device("auto")))
    return [
        {
            "stage": item.stage.name,
            **_counts(item),
            **({"held": len(item.validation.samples)} if item.validation is not None else {}),
            "learn": dict(item.stage.learn),
            **({"remarks": list(item.remarks)} if item.remarks else {}),
        }
        for item in planned
    ]


def _counts(item: PlannedStage) -> dict[str, Any]:
    """Samples, steps and packed rows of a planned stage."""
    if (stream := item.stream) is None:
        steps = item.plan.steps
        return {"samples": len(item.samples), "steps": len(steps), "rows": sum(map(len, steps))}
    with scratch_folder(user_cache() / "shards") as folder:
        first = with_first_shard(item, folder)
    return {
        "shards": len(stream.shards),
        "samples_of_first_shard": len(first.samples),
        "steps": stream.steps,
        "rows": stream.steps * stream.lanes,
    }


def refuse_adapted(recipe: Recipe, parent: ParentModel | None) -> None:
    """Raise RecipeError if a stage quantises a language model whose adapters must be merged first."""
    if parent is not None and parent.adapted and any(stage.quantize is not None for stage in recipe.stages):
        raise RecipeError(
            "quantize: the model of `from` has adapters, which merge into full weights only",
            "vistune export it --merge first, or leave quantize out",
        )


def refuse_untrainable(recipe: Recipe, spec: Spec, parent: ParentModel | None, world: World | None) -> None:
    """Raise the errors that a run of the recipe would raise about its backbones or stages, before any training step.

    Only names and shapes of stored weights are read. `world`: the processes and device of the run; None = not known, so
    errors that depend on the machine are not raised.
    """
    model = _begin(recipe, spec, parent, machine=world is not None)
    for stage in recipe.stages:
        _prepare(model, stage, machine=world is not None)
        model.set_trainable(stage.learn)
        model.set_recompute(stage.recompute)
        if world is None:
            refuse_slices(recipe, stage)
        else:
            way_of(recipe, stage, model, world)
        refuse_features(stage)
        make_optimizer(model.parts(), stage)
        if world is not None:
            with products_in(stage.precision, world.device):
                pass


def _begin(recipe: Recipe, spec: Spec, parent: ParentModel | None, *, machine: bool) -> VisionLanguageModel:
    if parent is not None:
        return parent.build_empty()
    quantize = recipe.stages[0].quantize if machine else None
    return build(recipe.model, spec, seed=recipe.seed, quantize=quantize, meta=True)


def _prepare(model: VisionLanguageModel, stage: Stage, *, machine: bool) -> None:
    """Like `Run.prepare`, but adapters are dropped instead of merged: there are no weights to merge into."""
    if model.adapted:
        plain: nn.Module = model.language.unload()  # type: ignore[operator]
        model.language = plain
    if machine and stage.quantize is not None:
        quantization(stage.quantize, torch.float32)  # the weights themselves are known to fit
    if stage.lora is not None:
        model.language = add_adapters(model.language, stage.lora)
