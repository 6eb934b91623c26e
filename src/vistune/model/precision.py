"""Choose the device and the precision of a loaded model, and the precision of a stage and of its frozen weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from vistune.errors import RecipeError
from vistune.recipe import Stage
from vistune.registry import lookup

if TYPE_CHECKING:
    from vistune.model.vlm import VisionLanguageModel

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> str:
    """Return the torch device for a `--device` value. Raises RecipeError if this machine does not have it."""
    kind, _, number = name.partition(":")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (kind == "cuda" and (number.isdigit() or name == "cuda")):
        raise RecipeError(f"--device {name!r} is not known", "use auto, cpu, cuda, or one GPU such as cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise RecipeError(f"--device {name}: torch {torch.__version__} sees no such GPU", "use --device auto")
    return name


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """Return the precision for a `--dtype` value; `auto` is bf16 on a GPU and fp32 on a CPU."""
    return named_dtype(name) or (torch.float32 if device == "cpu" else torch.bfloat16)


def named_dtype(name: str) -> torch.dtype | None:
    """Return the precision that a `--dtype` value names, or None for `auto`."""
    return lookup(name, DTYPES, "--dtype")


def uses_bf16(precision: str, device: str) -> bool:
    """Return whether a stage multiplies in bf16.

    A run replaces `auto` before it trains (training/precision.py). Elsewhere, `auto` is bf16 if the GPU supports
    it, or if the CPU has AMX.
    """
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
    """List the parts that were not trained before this recipe and that none of its stages trains.

    Adapters become part of the weights that they adapt if another stage follows.
    """
    ever = set(trained).union(*(stage.learn for stage in stages))
    ever.update(part for stage in stages[:-1] if stage.lora is not None for part in stage.lora.parts)
    return [part for part in ("vision", "projector", "language") if part not in ever]


def store_in_bf16(model: VisionLanguageModel, parts: Collection[str]) -> None:
    """Store the frozen weights of these parts in bf16, in which they are multiplied anyway."""
    for part in parts:
        for _, parameter in model.parts()[part]:
            if not parameter.requires_grad and parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(torch.bfloat16)
