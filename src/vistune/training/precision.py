"""Where bf16 is faster than fp32: a property of the hardware alone, so one machine always decides alike."""

from __future__ import annotations

import torch


def uses_bf16(precision: str, device: str) -> bool:
    """`auto`: where the hardware multiplies bf16 faster than fp32: on a GPU that has it, on a CPU with AMX."""
    if precision != "auto":
        return precision == "bf16"
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported())
