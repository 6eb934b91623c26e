"""Make the spec on which processor and model must agree, from the backbones' configs. No weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vistune.errors import RecipeError
from vistune.model.language import language_config
from vistune.model.projectors import slots_after
from vistune.model.shapes import VisionConfig
from vistune.model.vision import image_rules, tokens_of, vision_config, width_of
from vistune.recipe import Model, source_of
from vistune.types import Spec


def default_canvases(side: int) -> tuple[tuple[int, int], ...]:
    """Return LLaVA 1.6's five canvases, (width, height) in pixels, for tiles of `side` pixels."""
    return tuple((columns * side, rows * side) for columns, rows in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)))


def spec_of(model: Model, vision: VisionConfig, width: int, vocabulary: int, rules: Mapping[str, Any]) -> Spec:
    """Make a spec from a tower's config, image rules, and the language model's width and vocabulary.

    Raises:
        RecipeError: If they do not fit.
    """
    vision_width = width_of(vision, model.space)
    if model.projector == "identity" and vision_width != width:
        raise RecipeError(
            f"model.projector=identity: the tower's width {vision_width} is not the language model's {width}",
            "use linear or mlp2x_gelu",
        )
    anyres = model.image_mode == "anyres"
    if anyres and model.feature_tokens != "patch":
        raise RecipeError("model.image_mode=anyres needs features of patches only", "use feature_tokens=patch")
    canvases = (model.canvases or default_canvases(vision.image_size)) if anyres else ()
    for canvas in canvases:
        if any(edge % vision.image_size for edge in canvas):
            raise RecipeError(
                f"model.canvases: {canvas[0]}x{canvas[1]} is not a multiple of the tower's side {vision.image_size}",
                "write multiples of the tower's side, in pixels: [[336, 672], [672, 336]]",
            )
    return Spec(
        vision_width=vision_width,
        language_width=width,
        vocabulary=vocabulary,
        slots_per_image=slots_after(model.projector, tokens_of(vision, model.feature_tokens)),
        image_side=vision.image_size,
        projector=model.projector,
        template=model.template,
        feature_layer=model.feature_layer,
        feature_tokens=model.feature_tokens,
        space=model.space,
        image_mode=model.image_mode,
        canvases=canvases,
        tokenization=model.tokenization,
        **rules,
    )


def read_spec(model: Model) -> Spec:
    """Read the spec of a recipe's model section from the backbones' configs."""
    vision_source = source_of(model.vision, "vision")
    vision = vision_config(vision_source)
    language = language_config(source_of(model.language, "language"))
    return spec_of(model, vision, language.hidden_size, language.vocab_size, image_rules(vision_source))
