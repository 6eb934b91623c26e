"""In which precision a stage multiplies: what `auto` means, and fp32 products in tf32 where that is asked for.

Where bf16 is faster than fp32 is a property of the hardware alone, so one machine always decides alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vistune.errors import RecipeError


def uses_bf16(precision: str, device: str) -> bool:
    """`auto`: where the hardware multiplies bf16 faster than fp32: on a GPU that has it, on a CPU with AMX."""
    if precision != "auto":
        return precision == "bf16"
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def products_in(precision: str, device: str) -> Iterator[None]:
    """While the block lasts, fp32 products are in tf32 where `precision` says so.

    Raises RecipeError on a device that has none.
    """
    if precision != "tf32":
        yield
        return
    if not device.startswith("cuda"):
        raise RecipeError(f"precision: tf32 is of CUDA devices, this run is on {device}", "use auto, fp32 or bf16")
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
