"""Decide in which precision a stage multiplies and in which its frozen weights are stored.

Whether bf16 is faster than fp32 depends on the hardware only, so one machine always decides alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from vistune.errors import RecipeError
from vistune.recipe import Stage

if TYPE_CHECKING:
    from vistune.model.vlm import VisionLanguageModel


def uses_bf16(precision: str, device: str) -> bool:
    """Tell whether a stage multiplies in bf16; `auto` does if the GPU supports it, or the CPU has AMX."""
    if precision != "auto":
        return precision == "bf16"
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def matmul_precision(precision: str, device: str) -> Iterator[None]:
    """While the block lasts, multiply fp32 in tf32 if `precision` says so. Raises RecipeError if the device cannot."""
    if precision != "tf32":
        yield
        return
    if not device.startswith("cuda"):
        raise RecipeError(f"precision: tf32 needs a CUDA device, this run is on {device}", "use auto, fp32 or bf16")
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def parts_in_bf16(stages: Sequence[Stage], trained: Collection[str], device: str) -> list[str]:
    """List the parts to store in bf16 on this device: no stage trains them, and none multiplies them in fp32.

    `trained`: parts that were trained before this recipe.
    """
    if not all(uses_bf16(stage.precision, device) for stage in stages):
        return []
    return never_trained(stages, trained)


def never_trained(stages: Sequence[Stage], trained: Collection[str]) -> list[str]:
    """List the parts that no stage of the recipe trains, nor anybody before it.

    Adapters become part of the language model if another stage follows.
    """
    ever = set(trained).union(*(stage.learn for stage in stages))
    if any("adapters" in stage.learn for stage in stages[:-1]):
        ever.add("language")
    return [part for part in ("vision", "projector", "language") if part not in ever]


def store_in_bf16(model: VisionLanguageModel, parts: Collection[str]) -> None:
    """Store the frozen weights of these parts in bf16, in which they are multiplied anyway."""
    for part in parts:
        for _, parameter in model.parts()[part]:
            if not parameter.requires_grad and parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(torch.bfloat16)
