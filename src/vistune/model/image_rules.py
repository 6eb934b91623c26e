"""Read a tower's image rules from its own image processor: size, crop, interpolation, mean and standard deviation.

Also decide the image mode, which depends on the tower and the projector.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, NotRequired, TypedDict

from vistune.errors import RecipeError
from vistune.model.image_proof import difference_from
from vistune.model.projectors import budget_for
from vistune.model.shapes import VisionConfig
from vistune.model.tower_class import missing_package, require_torchvision
from vistune.model.tower_inputs import takes_patches
from vistune.model.tower_shape import as_config, tower_class
from vistune.recipe import Model
from vistune.types import PatchBudget

INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers


class ImageRules(TypedDict):
    """A spec's fields that an image processor decides."""

    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    image_fit: NotRequired[str]
    image_resample: NotRequired[int]
    image_side: NotRequired[int]
    image_resize: NotRequired[int]
    patch_budget: NotRequired[PatchBudget]


def image_rules(source: str) -> ImageRules:
    """Return a spec's image fields from the image processor of a folder or hub name.

    Raises RecipeError if there is none, or it does something else than resize, crop, rescale by 1/255 and normalise.
    """
    processor = _processor(source)
    if isinstance(processor, dict):
        return _timm_rules(source, processor)
    size, side, resize, fit = processor.size, 0, 0, "stretch"
    budget: PatchBudget | None = None
    cut = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    fault = "" if processor.do_resize else "it does not resize"
    largest = getattr(processor, "max_image_size", None)
    whole = largest.get("longest_edge") if isinstance(largest, dict) else None
    if getattr(processor, "max_num_patches", None):  # SigLIP 2 of variable size; the side is that of a square image
        budget = PatchBudget(int(processor.patch_size), int(processor.max_num_patches))
        side = resize = math.isqrt(budget.most) * budget.patch
    elif whole:  # Idefics3 and SmolVLM: one of their tiles is the whole image
        side = resize = int(whole)
    elif size is None:
        fault = fault or "it names no size"
    elif size.shortest_edge:
        resize, fit = int(size.shortest_edge), "crop"
        if cut is None and hasattr(processor, "crop_pct"):  # ConvNeXt: crops below 384 pixels, stretches from there on
            side = resize
            fit = "crop" if side < 384 else "stretch"
            resize = int(side / processor.crop_pct) if side < 384 else side
    elif size.height and size.height == size.width:
        resize = int(size.height)
    else:
        fault = fault or f"its size {size} is neither a square nor a shortest edge"
    if cut is not None and (cut.height is None or cut.height != cut.width):
        fault = fault or f"its crop {cut.height} x {cut.width} is not a square"
        cut = None
    side = side or (resize if cut is None else int(cut.height))
    if side > resize:
        fault = fault or f"it crops {side} pixels out of {resize}"
    if not processor.do_rescale or abs(255 * processor.rescale_factor - 1) > 1e-6:
        fault = fault or "it does not rescale by 1/255"
    is_compared = not any(getattr(processor, name, None) for name in ("max_num_patches", "image_grid_pinpoints"))
    if not fault and is_compared:
        fault = difference_from(processor, side, resize, fit)
    if fault:
        raise RecipeError(
            f"vision tower {source}: its image processor does not resize to one square and rescale by 1/255: {fault}",
            "correct its preprocessor_config.json, or use another tower",
        )
    normalises = bool(processor.do_normalize)  # RADIO normalises inside the tower
    rules: ImageRules = {
        "image_mean": tuple(processor.image_mean) if normalises else (0.0, 0.0, 0.0),
        "image_std": tuple(processor.image_std) if normalises else (1.0, 1.0, 1.0),
        "image_fit": fit,
        "image_resample": int(processor.resample),
        "image_side": side,
        "image_resize": 0 if resize == side else resize,
    }
    return {**rules, "patch_budget": budget} if budget is not None else rules


def _processor(source: str) -> Any:
    """Load the image processor, or for a timm tower the `pretrained_cfg` in its config.json."""
    require_torchvision()
    from transformers import AutoConfig, AutoImageProcessor, ViTImageProcessorPil

    with suppress(OSError, ValueError):  # the image processor reports what is wrong
        try:
            config = AutoConfig.from_pretrained(source)
        except ImportError as error:
            raise missing_package(source, error) from None
        if config.model_type == "timm_wrapper":
            return {**config.pretrained_cfg}
    try:
        return AutoImageProcessor.from_pretrained(source, backend="pil")
    except (ImportError, OSError, ValueError) as error:
        if isinstance(error, ImportError):  # a class without a backend for Pillow; the keys are those of ViT's
            return ViTImageProcessorPil.from_pretrained(source)
        raise RecipeError(
            f"vision tower {source}: no image processor: {str(error).splitlines()[0]}",
            "put the tower's preprocessor_config.json into its folder",
        ) from None


def _timm_rules(source: str, pretrained: dict[str, Any]) -> ImageRules:
    """Return the rules of timm's evaluation transform. Raises RecipeError for one that differs."""
    known = {"crop_mode": ("center", "squash"), "interpolation": INTERPOLATIONS}
    for key, values in known.items():
        if (value := pretrained.get(key)) and value not in values:
            raise RecipeError(
                f"vision tower {source}: pretrained_cfg.{key} {value!r} in its config.json is not supported",
                f"use {', '.join(values)}",
            )
    side = int(list(pretrained["input_size"])[-1])
    edge = math.floor(side / float(pretrained.get("crop_pct") or 0.875))
    return {
        "image_mean": tuple(pretrained["mean"]),
        "image_std": tuple(pretrained["std"]),
        "image_fit": "stretch" if pretrained.get("crop_mode") == "squash" else "crop_round",
        "image_resample": INTERPOLATIONS[pretrained.get("interpolation") or "bicubic"],
        "image_side": side,
        "image_resize": 0 if edge == side else edge,
    }


def resolve_image_mode(
    model: Model, vision: VisionConfig, budget: PatchBudget | None
) -> tuple[str, PatchBudget | None]:
    """Return the image mode and, with `naflex`, the patch budget with the projector's cell.

    `auto` is `naflex` for a NaFlex tower and `square` for any other, and for two towers, which share a square tile.

    Args:
        budget: The image processor's. Default: the config's number of patches.

    Raises RecipeError if the tower or the projector cannot keep the aspect ratio.
    """
    config: Any = as_config(vision)
    is_naflex = takes_patches(tower_class(config))
    has_one_tower = isinstance(model.vision, str) or len(model.vision) == 1
    mode = model.image_mode
    if mode == "auto":
        mode = "naflex" if is_naflex and has_one_tower else "square"
    if mode != "naflex":
        return mode, None
    if not is_naflex:
        raise RecipeError(
            f"model.image_mode=naflex: {vision.model_type} takes images of one size",
            "use square, pad or anyres, or a NaFlex tower such as google/siglip2-base-patch16-naflex",
        )
    if not has_one_tower:
        raise RecipeError("model.image_mode=naflex: two fused towers share a square tile", "use square or one tower")
    patch = int(config.patch_size)
    if budget is not None and budget.patch != patch:
        raise RecipeError(
            f"vision tower: its image processor cuts patches of {budget.patch} pixels, its config says {patch}",
            "correct patch_size in its preprocessor_config.json",
        )
    return mode, budget_for(model.projector, budget or PatchBudget(patch, int(config.num_patches)))
