"""Find transformers' model class for a tower's config, and refuse a class that does not take square images."""

from __future__ import annotations

import inspect
import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vistune.errors import RecipeError, reason_of
from vistune.model.tower_inputs import takes_patches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NO_CLASS = "transformers has no model class for this config"


def not_a_tower(kind: str, why: str) -> RecipeError:
    return RecipeError(f"vision tower: {kind!r} is not supported: {why}", "use a tower with a grid of patches")


def class_of(config: Any) -> type[PreTrainedModel]:
    """Return transformers' class for a tower: `AutoModel`'s, else the one of its module that names this config.

    Raises RecipeError if there is none, if a package that it needs is missing, or if it does not take square images.
    """
    name = config.model_type
    try:
        kind = _class_of(config)
        parameters = inspect.signature(kind.forward).parameters  # the class is a placeholder if a package is missing
    except (ImportError, RuntimeError) as error:
        raise missing_package(name, error) from None
    named = [parameter for key, parameter in parameters.items() if key != "self"]
    named = [one for one in named if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    required = [one.name for one in named if one.default is one.empty and one.name != "pixel_values"]
    if {"input_ids", "pixel_values"} <= set(parameters):
        raise not_a_tower(name, f"{kind.__name__} reads text (input_ids) together with the image")
    if "pixel_values" not in parameters:
        taken = " and ".join(required or [one.name for one in named[:1]]) or "no named arguments"
        raise not_a_tower(name, f"{kind.__name__} takes {taken}, not square images (pixel_values)")
    if required and not takes_patches(kind):
        raise not_a_tower(name, f"{kind.__name__} needs {' and '.join(required)} in addition to pixel_values")
    return kind


def _class_of(config: Any) -> type[PreTrainedModel]:
    from transformers import MODEL_MAPPING, PreTrainedModel

    if type(config) in MODEL_MAPPING:
        kind: Any = MODEL_MAPPING[type(config)]
        return kind[0] if isinstance(kind, tuple) else kind  # type: ignore[no-any-return]
    path = type(config).__module__.replace(".configuration_", ".modeling_")
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            raise not_a_tower(config.model_type, NO_CLASS) from None
        raise
    usual: type[PreTrainedModel] | None = getattr(module, f"{type(config).__name__.removesuffix('Config')}Model", None)
    if usual is not None:
        return usual
    candidates: list[Any] = list(vars(module).values())
    classes: list[type[PreTrainedModel]] = [
        one
        for one in candidates
        if inspect.isclass(one)
        and issubclass(one, PreTrainedModel)
        and one.__module__ == path
        and getattr(one, "config_class", None) is type(config)
        and "forward" in vars(one)
    ]
    if len(classes) > 1:  # such as VitPose's backbone and the encoder in it
        of_pixels = [one for one in classes if "pixel_values" in inspect.signature(vars(one)["forward"]).parameters]
        classes = of_pixels or classes
    if len(classes) != 1:
        names = ", ".join(sorted(one.__name__ for one in classes))
        raise not_a_tower(config.model_type, f"transformers has several classes for it: {names}" if names else NO_CLASS)
    return classes[0]


def missing_package(name: str, error: Exception) -> RecipeError:
    """Return the error for a class that needs a package which is missing or cannot be imported."""
    reason = reason_of(error)
    needed = re.search(r"requires the (\w+) library", reason)
    if needed and needed[1] != "timm":
        return RecipeError(f"vision tower: {name!r} needs {needed[1]}", f"pip install {needed[1]}")
    if name != "timm_wrapper" and not needed:
        return not_a_tower(name, f"transformers cannot import its class: {reason}")
    if find_spec("timm") is None:
        return RecipeError(f"vision tower: {name!r} needs timm", "pip install 'vistune[timm]'")
    try:
        import_module("timm")
    except Exception as fault:  # such as a torchvision that was built for another torch
        reason = f"timm cannot be imported: {reason_of(fault)}"
    return RecipeError(
        f"vision tower: {name!r}: {reason}",
        "upgrade timm, and install the build of torchvision that matches torch",
    )


@cache
def require_torchvision() -> None:
    """Raise RecipeError if torchvision is installed and cannot be imported: no model of transformers could be built."""
    if find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except Exception as error:  # such as an operator of a build for another torch
        raise RecipeError(
            f"torchvision cannot be imported, and transformers needs it if it is installed: {reason_of(error)}",
            "install the build of torchvision that matches torch, or remove it with pip uninstall torchvision",
        ) from None
