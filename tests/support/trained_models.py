"""Model folders of vistune whose parts have changed, as after a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vistune.model import add_adapters, build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Lora, Model, Recipe, Stage
from vistune.runs import checkpoint


def save_trained(
    folder: Path, trained: Sequence[str], *, seed: int, scale: float, lora: Lora | None = None, **choices: Any
) -> Path:
    """Write a model folder. Random numbers of deviation `scale` are added to the weights of the trained parts."""
    recipe = Recipe(model=Model(**choices), stages=(Stage(name="tune", learn={"projector": 1e-3}, steps=1),))
    spec = read_spec(recipe.model)
    torch.manual_seed(seed)
    model = build(recipe.model, spec, seed=1)
    if lora is not None:
        model.language = add_adapters(model.language, lora)
    with torch.no_grad():
        for part in trained:
            for _, parameter in model.parts()[part]:
                parameter.add_(scale * torch.randn_like(parameter))
    processor = Processor(load_tokenizer(recipe.model.language), spec)
    checkpoint.save(folder, model, processor, recipe=recipe, tensors=checkpoint.snapshot(model, trained))
    return folder
