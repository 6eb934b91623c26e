"""Refuse a model that the layout of another tool cannot represent, with the reason and a way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vistune.errors import RecipeError
from vistune.interop.original import CLASSES
from vistune.model.head import PLAIN
from vistune.model.language import CausalLM
from vistune.model.shapes import VisionConfig
from vistune.model.tower_inputs import takes_patches
from vistune.model.tower_shape import TowerShape, tower_class
from vistune.model.trial import language_traits

if TYPE_CHECKING:
    from vistune.interop.writers import ExportedModel

ORIGINAL_PROJECTORS = re.compile(r"linear|identity|mlp\dx_gelu")
PROJECTOR = "train with model.projector=mlp2x_gelu"


@dataclass(frozen=True, slots=True)
class Misfit:
    """The reason why a layout cannot represent a model, and the training with which it could."""

    reason: str
    training: str


def refuse_layout(exported: ExportedModel, layout: str) -> None:
    """Raise RecipeError if a layout cannot represent the model; the hint names another layout only if that one can."""
    if misfit := misfit_of(exported, "llava-hf" if layout == "peft" else layout):
        raise RecipeError(f"--layout {layout}: {misfit.reason}", instead(exported, misfit.training))


def instead(exported: ExportedModel, training: str) -> str:
    """Return the hint of a refusal: train in another way, or export a layout that can represent the model."""
    fitting = [layout for layout in MISFITS if misfit_of(exported, layout) is None]
    return f"{training}, or export --layout {fitting[0]}" if fitting else training


def misfit_of(exported: ExportedModel, layout: str) -> Misfit | None:
    """Return why a layout cannot represent the model; None if it can."""
    if exported.spec.image_mode == "naflex":
        return Misfit(
            "LLaVA takes square images, and this model's images have different grids of patches",
            "train with another tower",
        )
    return MISFITS[layout](exported)


def hf_misfit(exported: ExportedModel) -> Misfit | None:
    """Return why transformers' LLaVA cannot represent the model; None if it can."""
    spec = exported.spec
    if spec.projector != "mlp2x_gelu":
        return Misfit(f"transformers' LLaVA has a projector of two layers, this model has {spec.projector}", PROJECTOR)
    if spec.space != "hidden":
        return Misfit("transformers' LLaVA has no joint space", "train with model.space=hidden")
    if spec.feature_norm != "off":
        return Misfit(
            "transformers' LLaVA has no norm between tower and projector, this model has "
            f"feature_norm={spec.feature_norm}",
            "train with model.feature_norm=off",
        )
    if reason := tower_misfit(exported.tower_config, exported.tower_shape):
        return Misfit(
            f"transformers' LLaVA cannot use the tower {exported.tower_shape.kind}: {reason}",
            "train with another tower",
        )
    if spec.image_mode == "pad" and spec.image_fit == "stretch":
        return Misfit("no image processor of transformers pads and stretches", "train with image_mode=square")
    if reason := language_misfit(exported.language):
        kind = exported.language.config.model_type
        return Misfit(
            f"transformers' LLaVA cannot use the language model {kind}: {reason}", "train with another language model"
        )
    return None


def language_misfit(language: CausalLM) -> str:
    """Return why transformers' LLaVA would compute other logits with a language model; "" if it would not."""
    traits = language_traits(language.config)
    if getattr(language.get_output_embeddings(), "bias", None) is not None:
        return "its head has a bias, and LLaVA's has none"
    if traits.rule != PLAIN:
        return "it scales or caps its logits, and LLaVA does not"
    if traits.embedding_scale != 1:
        return "it scales the embeddings of tokens itself, and LLaVA gives it embeddings"
    return ""


def tower_misfit(config: VisionConfig, shape: TowerShape) -> str:
    """Return why transformers' LLaVA cannot use a tower; "" if it can."""
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        return "AutoModel does not build it"
    if shape.prefix > 1:
        return f"it has {shape.prefix} tokens before the patches, and LLaVA drops one"
    if shape.suffix:
        return f"it has {shape.suffix} tokens after the patches, and LLaVA uses them as patches"
    if not shape.cuts:
        return "its hidden states are not sequences of tokens"
    if takes_patches(tower_class(config)):
        return "it takes patches, and LLaVA gives it pixels"
    return ""


def original_misfit(exported: ExportedModel) -> Misfit | None:
    """Return why the original LLaVA's code cannot represent the model; None if it can."""
    spec, tower = exported.spec, exported.tower_config.model_type
    kind = exported.language.config.model_type
    kinds = sorted(CLASSES.values())
    if kind not in kinds:
        return Misfit(f"the original LLaVA has no class for {kind!r}", f"train with one of {', '.join(kinds)}")
    limits = (
        (not ORIGINAL_PROJECTORS.fullmatch(spec.projector), f"the projector {spec.projector}",
         "model.projector=mlp2x_gelu"),
        (spec.space != "hidden", f"features of the space {spec.space}", "model.space=hidden"),
        (tower != "clip_vision_model", f"a vision tower of the kind {tower}", "a CLIP tower"),
        (not isinstance(spec.feature_layer, int), "features of several layers", "one feature layer"),
        (spec.feature_norm != "off", "a norm between tower and projector", "model.feature_norm=off"),
    )  # fmt: skip
    if beyond := [(setting, change) for applies, setting, change in limits if applies]:
        return Misfit(
            f"the original LLaVA cannot represent {', '.join(setting for setting, _ in beyond)}",
            f"train with {', '.join(change for _, change in beyond)}",
        )
    return None


MISFITS: dict[str, Callable[[ExportedModel], Misfit | None]] = {
    "llava-hf": hf_misfit,
    "llava-original": original_misfit,
}
