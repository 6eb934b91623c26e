"""Check without weights everything that a run would refuse before its first step.

Recipe + Spec (+ the model of `from`) -> a model on torch's meta device, taken through every stage -> error or None
Conditions that can change are not checked: free memory, free disk, another process on the same folder.
"""

from __future__ import annotations

import torch
from torch import nn

from vistune.errors import RecipeError
from vistune.model import VisionLanguageModel, add_adapters, build
from vistune.model.language import quantization
from vistune.recipe import Recipe, Stage
from vistune.training.features import refuse_features
from vistune.training.optim import make_optimizer
from vistune.training.origin import Base
from vistune.training.parallel import World
from vistune.training.precision import products_in
from vistune.training.sharding import refuse_slices, way_of
from vistune.types import Spec


def refuse_adapted(recipe: Recipe, base: Base | None) -> None:
    """Raise RecipeError if a stage quantises a language model whose adapters must be merged first."""
    if base is not None and base.adapted and any(stage.quantize is not None for stage in recipe.stages):
        raise RecipeError(
            "quantize: the model of `from` has adapters, which merge into full weights only",
            "vistune export it --merge first, or leave quantize out",
        )


def refuse_untrainable(recipe: Recipe, spec: Spec, base: Base | None, world: World | None) -> None:
    """Raise the errors that a run of the recipe would raise about its backbones or stages, before any training step.

    Only names and shapes of stored weights are read. `world`: the processes and device of the run; None = not known, so
    errors that depend on the machine are not raised.
    """
    model = _begin(recipe, spec, base, machine=world is not None)
    for stage in recipe.stages:
        _prepare(model, stage, machine=world is not None)
        model.set_learning(stage.learn)
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


def _begin(recipe: Recipe, spec: Spec, base: Base | None, *, machine: bool) -> VisionLanguageModel:
    if base is not None:
        return base.empty()
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
