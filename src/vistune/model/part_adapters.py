"""Low-rank adapters of all parts: a PeftModel around the language model, inner adapters in tower and projector.

For inner adapters, PEFT replaces linear layers inside a module, so the code that calls the tower or the projector does
not change. An inner adapter has the name of its layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import CheckpointError, RecipeError
from vistune.model.lora import add_adapters, chosen_layers, has_adapters, linear_layers, merge_adapters
from vistune.model.vlm import VisionLanguageModel
from vistune.recipe import TOWERS, Lora

PROJECTOR = "projector"
MARK, BASE = "lora_", ".base_layer."


def inner_modules(model: VisionLanguageModel) -> dict[str, nn.Module]:
    """Return the modules that may get inner adapters: each tower, and the projector."""
    towers = {part: tower.tower for part, tower in zip(TOWERS, model.vision.towers, strict=False)}
    return {**towers, PROJECTOR: model.projector}


def part_of(module: str) -> str:
    """Return the part of a recipe's `learn` to which a module of `inner_modules` belongs."""
    return PROJECTOR if module == PROJECTOR else "vision"


def put_adapters(model: VisionLanguageModel, lora: Lora) -> None:
    """Add new adapters to the parts that `lora` names; the weights of these parts are frozen.

    Raises RecipeError if a part has no linear layer that `lora.targets` names.
    """
    if "language" in lora.parts:
        model.language = add_adapters(model.language, lora)
    if "vision" in lora.parts:
        towers = [tower.tower for tower in model.vision.towers]
        layers = [linear_layers(tower) for tower in towers]
        for tower, chosen in zip(towers, tower_targets(layers, lora), strict=True):
            inject(tower, lora_settings(lora, chosen))
    if "projector" in lora.parts:
        every = list(linear_layers(model.projector))
        if not every:
            raise RecipeError("lora.parts: the projector has no linear layer", "remove projector")
        inject(model.projector, lora_settings(lora, every))


def tower_targets(towers: Sequence[Mapping[str, bool]], lora: Lora) -> list[list[str]]:
    """Return the names of each tower's layers that get adapters. `towers`: `linear_layers` of each.

    Raises RecipeError if a tower gets none, or if a pattern of `lora.targets` matches no layer of any tower. If the
    language model gets adapters too, `add_adapters` checks each pattern there instead.
    """
    if "language" not in lora.parts:
        chosen_layers(
            {name: inside for tower in towers for name, inside in tower.items()}, lora.targets, "vision tower"
        )
    return [chosen_layers(tower, lora.targets, "vision tower", each=False) for tower in towers]


def lora_settings(lora: Lora, targets: list[str]) -> dict[str, Any]:
    """Return the settings of PEFT's config, as a checkpoint stores them."""
    return {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_dora": lora.dora,
        "use_rslora": lora.rslora,
        "target_modules": targets,
    }


def inject(module: nn.Module, settings: Mapping[str, Any]) -> None:
    """Replace linear layers of a module by PEFT's layers with new adapters."""
    from peft import LoraConfig, inject_adapter_in_model

    exact = "|".join(name.replace(".", r"\.") for name in settings["target_modules"])
    inject_adapter_in_model(LoraConfig(**{**settings, "target_modules": f"({exact})"}), module)
    module.vistune_lora = dict(settings)  # type: ignore[assignment]


def settings_of(model: VisionLanguageModel) -> dict[str, Mapping[str, Any]]:
    """Return the settings of the inner adapters, by module."""
    return {name: module.vistune_lora for name, module in inner_modules(model).items() if is_adapted(module)}  # type: ignore[misc]


def is_adapted(module: nn.Module) -> bool:
    """Return whether a tower or a projector has adapters."""
    return getattr(module, "vistune_lora", None) is not None


def adapted_parts(model: VisionLanguageModel) -> set[str]:
    """Return the parts that have adapters, some of `language`, `vision` and `projector`."""
    inner = {part_of(name) for name in settings_of(model)}
    return inner | ({"language"} if has_adapters(model.language) else set())


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a module's state without its adapters, under the names that they have without adapters."""
    return {name.replace(BASE, "."): tensor for name, tensor in state.items() if MARK not in name}


def inner_adapters(model: VisionLanguageModel) -> dict[str, Tensor]:
    """Return the parameters of the inner adapters, by module and name."""
    return {
        f"{module}.{name}": parameter
        for module, inner in inner_modules(model).items()
        if is_adapted(inner)
        for name, parameter in inner.named_parameters()
        if MARK in name
    }


def load_inner(model: VisionLanguageModel, settings: Mapping[str, Mapping[str, Any]], state: Mapping[str, Tensor],
               location: str) -> None:  # fmt: skip
    """Put stored adapters on towers and projector. Raises CheckpointError if their tensors do not fit."""
    modules = inner_modules(model)
    for name, own in settings.items():
        dtype = next(modules[name].parameters()).dtype
        inject(modules[name], own)
        for _, parameter in _adapters_in(modules[name]):
            parameter.data = parameter.data.to(dtype)
    expected = inner_adapters(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if shapes != {name: tuple(parameter.shape) for name, parameter in expected.items()}:
        raise CheckpointError(f"{location}: adapters of other layers than parts.json says", "use another checkpoint")
    with torch.no_grad():
        for name, adapter in expected.items():
            adapter.copy_(state[name])


def _adapters_in(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if MARK in name)


def merge_parts(model: VisionLanguageModel) -> set[str]:
    """Merge all adapters into the weights; return the parts whose weights changed.

    Raises CheckpointError if a layer computes something else afterwards.
    """
    merged = adapted_parts(model)
    model.language = merge_adapters(model.language)
    for name, module in inner_modules(model).items():
        if is_adapted(module):
            _restore(module, merge=True, location=part_of(name))
    return merged


def drop_adapters(model: VisionLanguageModel) -> None:
    """Remove all adapters without merging them, as from a model without weights."""
    if has_adapters(model.language):
        model.language = model.language.unload()  # type: ignore[operator]
    for name, module in inner_modules(model).items():
        if is_adapted(module):
            _restore(module, merge=False, location=part_of(name))


@torch.no_grad()
def _restore(module: nn.Module, *, merge: bool, location: str) -> None:
    """Replace the layers of PEFT by the original ones."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in layers:
        base = layer.get_base_layer()
        if merge:
            _merge(layer, base, f"{location} {name}")
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, base)
    for key in ("vistune_lora", "peft_config"):
        if hasattr(module, key):
            delattr(module, key)


def _merge(layer: Any, base: nn.Module, location: str) -> None:
    """Merge a layer's adapters, and compare its output on random inputs before and after."""
    was_training = layer.training
    layer.eval()
    weight = base.weight
    assert isinstance(weight, Tensor)
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, weight.shape[1], generator=rng).to(weight.device, weight.dtype)
    before = layer(inputs).float()
    layer.merge(safe_merge=True)
    after = base(inputs).float()
    difference = float((after - before).abs().max() / before.abs().max())
    allowed = torch.finfo(weight.dtype).eps ** 0.5
    if not difference <= allowed:  # written so that nan is refused too
        raise CheckpointError(
            f"merging changes the {location}: outputs differ by {difference:.2g} of their largest value; at most "
            f"{allowed:.2g} is allowed",
            "merge in fp32",
        )
    base.train(was_training)
