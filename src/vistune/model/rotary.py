"""Rotate each document of a row by its own length, if a model's RoPE depends on the length of the text.

LongRoPE and dynamic RoPE choose their frequencies by the largest position of a call. So a long document would change
the other documents in a packed row, or in a batch of answers. A hook on the rotary modules computes the rotation once
for all documents up to the limit (`rope_limit`), and once for each greater length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from vistune.model.shapes import LanguageConfig

DYNAMIC = ("longrope", "dynamic")
_lengths: ContextVar[Tensor | None] = ContextVar("lengths", default=None)


def _ropes(config: LanguageConfig) -> list[dict[str, Any]]:
    """Return the config's RoPE settings: one, or one per type of layer."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, Mapping):
        return []
    if "rope_type" in rope:
        return [rope]  # type: ignore[list-item]
    return [part for part in rope.values() if isinstance(part, dict) and "rope_type" in part]


def rope_limit(config: LanguageConfig) -> int | None:
    """Return the length up to which all documents are rotated alike; None if RoPE does not depend on the length."""
    limits = [
        int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
        for rope in _ropes(config)
        if rope["rope_type"] in DYNAMIC
    ]
    return min(limits, default=None)


def with_plain_rope(config: LanguageConfig) -> LanguageConfig:
    """Return a copy whose RoPE does not depend on the length, so that its model runs without data."""
    plain = deepcopy(config)
    for rope in _ropes(plain):
        if rope["rope_type"] in DYNAMIC:
            rope["rope_type"] = "default"
    return plain


def rotary_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules whose rotation depends on the length of the text."""

    def is_dynamic(kind: object) -> bool:
        return any(is_dynamic(part) for part in kind.values()) if isinstance(kind, Mapping) else kind in DYNAMIC

    return [module for module in model.modules() if is_dynamic(getattr(module, "rope_type", None))]


def rotate_by_document(model: nn.Module) -> None:
    """Let the model's rotary modules rotate each document by its own length, as given by `document_lengths`."""
    for module in rotary_modules(model):
        if not any(hook is _rotate for hook in module._forward_hooks.values()):
            module.register_forward_hook(_rotate, with_kwargs=True)


@contextmanager
def document_lengths(lengths: Sequence[int] | Tensor) -> Iterator[None]:
    """While the block lasts, token k of a row belongs to a document of `lengths[k]` tokens."""
    token = _lengths.set(torch.as_tensor(lengths, device="cpu"))
    try:
        yield
    finally:
        _lengths.reset(token)


def lengths_of(starts: Sequence[int] | Tensor) -> Tensor:
    """Return the length of each token's document."""
    starts = torch.as_tensor(starts, device="cpu").long()
    return starts.diff().repeat_interleave(starts.diff())


def _rotate(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Replace a rotary module's output for a row. Each group of lengths is rotated as in a row without the others."""
    lengths = _lengths.get()
    limit = rope_limit(module.config)
    positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
    if lengths is None or limit is None or positions is None or positions.shape[-1] != len(lengths):
        return output
    rest = {name: value for name, value in kwargs.items() if name not in ("x", "position_ids")}
    states = kwargs.get("x", args[0] if args else None)
    lengths = lengths.clamp(min=limit)
    whole: tuple[Tensor, ...] | None = None
    for length in lengths.unique().tolist():
        chosen = (lengths == length).to(positions.device)
        # Dynamic RoPE keeps the frequencies of the longest text so far; a call of one position resets them.
        module.forward(states, torch.zeros_like(positions), **rest)
        rotation = module.forward(states, positions.where(chosen, 0), **rest)
        parts = rotation if isinstance(rotation, tuple) else (rotation,)
        mask = chosen.reshape(1, -1, *[1] * (parts[0].ndim - 2))
        whole = parts if whole is None else tuple(new.where(mask, old) for new, old in zip(parts, whole, strict=True))
    assert whole is not None
    return whole if isinstance(output, tuple) else whole[0]
