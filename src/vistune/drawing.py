"""The verb `draw`: a recipe's model and stages as pictures, from the backbones' configs alone.

Recipe -> configs -> the model without weights (torch's meta device) -> plain values -> model.svg/.png, stages.svg/.png
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vistune.errors import RecipeError
from vistune.recipe import Model, Recipe, Stage, source_of

if TYPE_CHECKING:
    from vistune.model.vlm import VisionLanguageModel
    from vistune.report import ModelFacts, StageFacts
    from vistune.types import Spec


def draw(recipe: Recipe, out: Path, *, language: str = "en") -> list[Path]:
    """Picture the model and the stages into the folder `out`; `language` of the words: en or ko."""
    from vistune.model import read_spec
    from vistune.report import draw_diagrams

    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: is a file, a folder is wanted", "give another folder")
    if recipe.origin is not None:
        raise RecipeError(f"{recipe.name}: goes on `from` a model: its picture is not drawn", "name its backbones")
    spec = read_spec(recipe.model)
    model = without_weights(recipe.model, spec)
    facts = model_facts(recipe.model, spec, model)
    stages = [stage_facts(recipe, stage, spec, model) for stage in recipe.stages]
    return draw_diagrams(recipe.name, facts, stages, out, language=language)


def without_weights(model: Model, spec: Spec) -> VisionLanguageModel:
    """The model of a recipe on torch's meta device: every layer and shape, no number."""
    import torch
    from transformers import AutoModelForCausalLM

    from vistune.model.language import language_config
    from vistune.model.projectors import build_projector
    from vistune.model.vision import VisionTower, tower_class, vision_config
    from vistune.model.vlm import VisionLanguageModel

    vision = vision_config(source_of(model.vision, "vision"))
    language = language_config(source_of(model.language, "language"))
    with torch.device("meta"):
        tower = VisionTower(tower_class(vision, spec.space)(vision), spec)
        projector = build_projector(spec, seed=0)
        return VisionLanguageModel(tower, projector, AutoModelForCausalLM.from_config(language), spec)


def model_facts(recipe: Model, spec: Spec, model: VisionLanguageModel) -> ModelFacts:
    """What the model's picture shows, as plain values."""
    from torch import nn

    from vistune.model.language import language_config
    from vistune.model.vision import tokens_of, vision_config
    from vistune.processor.tiles import anyres_slots
    from vistune.report import ModelFacts

    vision = vision_config(source_of(recipe.vision, "vision"))
    language = language_config(source_of(recipe.language, "language"))
    leaves = [module for module in model.projector.modules() if not list(module.children())]
    tiles = [width * height // spec.image_side**2 for width, height in spec.canvases]
    # A picture in the shape of a canvas fills it; one in a shape between two canvases' takes fewer rows or columns.
    slots = [len(anyres_slots(canvas, spec)) for canvas in spec.canvases] or [spec.slots_per_image]
    return ModelFacts(
        vision=name_of(recipe.vision),
        vision_type=vision.model_type,
        vision_layers=(model.vision.tower.config.num_hidden_layers, vision.num_hidden_layers),
        vision_width=spec.vision_width,
        patch=vision.patch_size,
        side=spec.image_side,
        class_token=spec.feature_tokens == "cls_patch",
        joint=spec.space == "joint",
        tower_tokens=tokens_of(vision, spec.feature_tokens),
        projector=spec.projector,
        projector_steps=tuple(
            (leaf.in_features, leaf.out_features) if isinstance(leaf, nn.Linear) else type(leaf).__name__
            for leaf in leaves
            if not isinstance(leaf, nn.Identity)
        ),
        slots_per_tile=spec.slots_per_image,
        tiles=(min(tiles), max(tiles)) if tiles else None,
        slots=(min(slots), max(slots)),
        language=name_of(recipe.language),
        language_type=language.model_type,
        language_layers=language.num_hidden_layers,
        language_width=spec.language_width,
        vocabulary=spec.vocabulary,
        template=spec.template,
        parameters=parameters_of(model),
    )


def stage_facts(recipe: Recipe, stage: Stage, spec: Spec, model: VisionLanguageModel) -> StageFacts:
    """What a stage's card shows. Raises RecipeError where a stage would learn a part that the model lacks."""
    from vistune.model import add_adapters
    from vistune.report import StageFacts

    if stage.lora is not None:  # adapters go into the layers themselves: another model, so that this one stays plain
        model = without_weights(recipe.model, spec)
        model.language = add_adapters(model.language, stage.lora)
    model.set_learning(stage.learn)
    return StageFacts(
        name=stage.name,
        learn={str(part): rate for part, rate in stage.learn.items()},
        parameters=parameters_of(model),
        lora_rank=stage.lora.rank if stage.lora is not None else None,
        quantize=stage.quantize,
        steps=stage.steps,
        epochs=stage.epochs,
        samples_per_step=stage.samples_per_step,
        optimizer=stage.optimizer,
        schedule=stage.schedule,
        template=stage.template or recipe.model.template,
        kinds=stage.kinds,
    )


def parameters_of(model: VisionLanguageModel) -> dict[str, int]:
    """Parameters by part; adapters only where there are any."""
    counts = {part: sum(p.numel() for _, p in parameters) for part, parameters in model.parts().items()}
    return {part: count for part, count in counts.items() if count or part != "adapters"}


def name_of(source: str) -> str:
    """A backbone's name: a folder's last part, a hub name as it stands."""
    return Path(source).resolve().name if Path(source).is_dir() else source
