"""Describe a recipe's model and stages from the backbones' configs: layers, widths, parameters by part.

Recipe -> configs -> the model on torch's meta device -> ModelFacts, StageFacts (plain values for diagrams)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vistune.recipe import Model, Recipe, Stage, source_of

if TYPE_CHECKING:
    from vistune.interop.load import ParentModel
    from vistune.model.shapes import ConfigLike, LanguageConfig, VisionConfig
    from vistune.model.vlm import VisionLanguageModel
    from vistune.types import Spec

Config = TypeVar("Config", bound="ConfigLike")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The parts of a recipe's model and their sizes.

    Attributes:
        vision_layers: (kept, all).
        patch: Side in pixels.
        side: Side of a tile in pixels.
        tower_tokens: Tokens per tile before the projector.
        projector_steps: The projector's layers in order: (in, out) of a linear layer, the name of any other layer.
        slots_per_tile: Tokens per tile after the projector.
        tiles: (least, most) tiles of an anyres image; None if an image is one tile.
        slots: (least, most) slots of an image, with the newline after each row of patches.
        most_patches: With NaFlex, the most patches of an image, which keeps its aspect ratio; else None.
        parameters: Number of parameters by part.
    """

    vision: str
    vision_type: str
    vision_layers: tuple[int, int]
    vision_width: int
    patch: int
    side: int
    class_token: bool
    joint: bool
    tower_tokens: int
    projector: str
    projector_steps: tuple[tuple[int, int] | str, ...]
    slots_per_tile: int
    tiles: tuple[int, int] | None
    slots: tuple[int, int]
    language: str
    language_type: str
    language_layers: int
    language_width: int
    vocabulary: int
    template: str
    parameters: Mapping[str, int]
    most_patches: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """The settings of a stage and the sizes of its parts.

    Attributes:
        learn: Peak learning rates by trained part.
        parameters: By part.
        quantize: Bits of the language model's weights.
    """

    name: str
    learn: Mapping[str, float]
    parameters: Mapping[str, int]
    lora_rank: int | None
    quantize: int | None
    steps: int | None
    epochs: float | None
    samples_per_step: int
    optimizer: str
    schedule: str
    template: str
    kinds: tuple[str, ...] | None


@dataclass(frozen=True)
class Structure:
    """The configs and the spec of a recipe's model.

    Attributes:
        visions: transformers' configs of the towers.
        language: transformers' config of the language model.
        names: Names of the tower and the language model.
        cut: Whether the tower already ends at the feature layer, since it was trained before.
    """

    model: Model
    spec: Spec
    visions: Sequence[VisionConfig]
    language: LanguageConfig
    names: tuple[str, str]
    cut: bool = False


def structure_of(recipe: Recipe, parent: ParentModel | None = None) -> Structure:
    """Read the structure of a recipe's model. With `from`, it is that of the given model, whose folder names the parts.

    Nothing is downloaded: the config of a hub name is read from `shapes.yaml` or the hub's cache.
    """
    from vistune.model.language import language_config
    from vistune.model.vision import vision_config
    from vistune.planner.sizes import spec_without_weights

    model = with_own_template(recipe.model) if parent is None else parent.model
    if parent is not None and parent.configs is not None and recipe.origin is not None:
        name = name_of(str(recipe.origin.model))
        return Structure(model, parent.processor.spec, *parent.configs, names=(name, name))
    towers = [name for part, name in model.backbones.items() if part != "language"]
    visions = [config_at_hand(name, "vision", vision_config) for name in towers]
    language = config_at_hand(model.language, "language", language_config)
    names = (" + ".join(map(name_of, towers)), name_of(model.language))
    if parent is not None:
        return Structure(model, parent.processor.spec, visions, language, names, cut=parent.cut)
    return Structure(model, spec_without_weights(model, visions, language), visions, language, names)


def config_at_hand(name: str, part: str, read: Callable[[str], Config]) -> Config:
    """Return transformers' config of a backbone. Raises RecipeError if it would have to be downloaded."""
    from transformers import AutoConfig

    from vistune.model.shapes import config_of

    source = source_of(name, part)
    if Path(source).is_dir():
        return read(source)
    known: Config = AutoConfig.for_model(**vars(config_of(name, part)))
    return known.get_text_config() if part == "language" else known  # type: ignore[attr-defined]


def with_own_template(model: Model) -> Model:
    """Return a recipe's `model` section with the template that a run would use, as far as it is known here."""
    from vistune.interop.load import with_template
    from vistune.processor import default_template, load_tokenizer

    source = source_of(model.language, "language")
    if model.template or not Path(source).is_dir():
        return model
    return with_template(model, default_template(load_tokenizer(source)))


def without_weights(structure: Structure) -> VisionLanguageModel:
    """Build the model on torch's meta device: every layer and shape, without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from vistune.model.projectors import build_projector
    from vistune.model.tower_shape import tower_class
    from vistune.model.vision import FusedTowers, VisionTower, specs_of_towers
    from vistune.model.vlm import VisionLanguageModel

    spec, visions = structure.spec, deepcopy(structure.visions)
    with torch.device("meta"):
        towers = [
            VisionTower(tower_class(vision, own.space)(vision), own, cut=structure.cut)
            for vision, own in zip(visions, specs_of_towers(spec), strict=True)
        ]
        tower = FusedTowers(towers) if spec.towers else towers[0]
        projector = build_projector(spec, seed=0)
        return VisionLanguageModel(tower, projector, AutoModelForCausalLM.from_config(structure.language), spec)


def model_facts(structure: Structure, model: VisionLanguageModel) -> ModelFacts:
    """Return the values of the model's diagram."""
    from torch import nn

    from vistune.model.vision import slots_of_tile
    from vistune.processor.tiles import anyres_slots

    spec, tower = structure.spec, model.vision.towers[0].shape
    budget = spec.patch_budget
    leaves = [module for module in model.projector.modules() if not list(module.children())]
    tiles = [width * height // spec.image_side**2 for width, height in spec.canvases]
    # An image in the shape of a canvas fills it; one in a shape between two canvases' takes fewer rows or columns.
    slots = [len(anyres_slots(canvas, spec)) for canvas in spec.canvases] or [spec.slots_per_image]
    slots += [1] if budget is not None else []
    return ModelFacts(
        vision=structure.names[0],
        vision_type=" + ".join(each.shape.kind for each in model.vision.towers),
        vision_layers=(tower.kept, tower.depth),
        vision_width=spec.vision_width,
        patch=tower.side // tower.columns if budget is None else budget.patch,
        side=spec.image_side,
        class_token=spec.feature_tokens == "cls_patch",
        joint=spec.space == "joint",
        tower_tokens=slots_of_tile(tower, spec.feature_tokens),
        projector=spec.projector,
        projector_steps=tuple(
            (leaf.in_features, leaf.out_features) if isinstance(leaf, nn.Linear) else type(leaf).__name__
            for leaf in leaves
            if not isinstance(leaf, nn.Identity)
        ),
        slots_per_tile=spec.slots_per_image,
        tiles=(min(tiles), max(tiles)) if tiles else None,
        slots=(min(slots), max(slots)),
        language=structure.names[1],
        language_type=structure.language.model_type,
        language_layers=structure.language.num_hidden_layers,
        language_width=spec.language_width,
        vocabulary=spec.vocabulary,
        template=spec.template,
        parameters=parameters_of(model),
        most_patches=None if budget is None else budget.most,
    )


def stage_facts(stage: Stage, structure: Structure, model: VisionLanguageModel) -> StageFacts:
    """Return the values of a stage's diagram. Raises RecipeError if the stage trains a part that the model lacks."""
    from vistune.model.part_adapters import put_adapters

    if stage.lora is not None:  # adapters change the layers themselves, so they get a model of their own
        model = without_weights(structure)
        put_adapters(model, stage.lora)
    model.set_trainable(stage.learn)
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
        template=stage.template or structure.spec.template,
        kinds=stage.kinds,
    )


def parameters_of(model: VisionLanguageModel) -> dict[str, int]:
    """Count parameters by part; adapters only if there are any."""
    counts = {part: sum(p.numel() for _, p in parameters) for part, parameters in model.parts().items()}
    return {part: count for part, count in counts.items() if count or part != "adapters"}


def name_of(source: str) -> str:
    """Return a backbone's name: a folder's last part, or a hub name."""
    return Path(source).resolve().name if Path(source).is_dir() else source
