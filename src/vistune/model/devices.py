"""Resolve `--device` and `--dtype`."""

from __future__ import annotations

import torch

from vistune.errors import RecipeError
from vistune.registry import lookup

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
