"""What processor and model must agree on, from the backbones' sizes alone.

recipe's model + the tower's config + the language model's width and vocabulary -> Spec
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vistune.errors import RecipeError
from vistune.model.projectors import slots_behind
from vistune.model.vision import tokens_of, width_of
from vistune.recipe import Model
from vistune.types import Spec


def default_canvases(side: int) -> tuple[tuple[int, int], ...]:
    """LLaVA 1.6's five canvases, (width, height) in pixels for tiles of `side`."""
    return tuple((columns * side, rows * side) for columns, rows in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)))


def spec_of(model: Model, vision: Any, width: int, vocabulary: int, rules: Mapping[str, Any]) -> Spec:
    """The spec of a tower's config under a language model of that width. Raises RecipeError where they do not fit."""
    vision_width = width_of(vision, model.space)
    if model.projector == "identity" and vision_width != width:
        raise RecipeError(
            f"model.projector=identity: the tower's width {vision_width} is not the language model's {width}",
            "use linear or mlp2x_gelu",
        )
    anyres = model.image_mode == "anyres"
    if anyres and model.feature_tokens != "patch":
        raise RecipeError("model.image_mode=anyres: tiles are joined patch by patch", "use feature_tokens=patch")
    canvases = (model.canvases or default_canvases(vision.image_size)) if anyres else ()
    for canvas in canvases:
        if any(edge % vision.image_size for edge in canvas):
            raise RecipeError(
                f"model.canvases: {canvas[0]}x{canvas[1]} is not made of tiles of {vision.image_size}",
                "write multiples of the tower's side, in pixels: [[336, 672], [672, 336]]",
            )
    return Spec(
        vision_width=vision_width,
        language_width=width,
        vocabulary=vocabulary,
        slots_per_image=slots_behind(model.projector, tokens_of(vision, model.feature_tokens)),
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
