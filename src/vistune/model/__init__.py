"""Batch -> hidden states: tower, projector, language model, attention inside documents, loss, adapters.

What a name needs is imported when it is first used: sizes need no attention, which brings torch's compiler in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistune.model.cache import Reading, Stem, Tails
    from vistune.model.lora import add_adapters, load_adapters, merge_adapters
    from vistune.model.loss import head_loss, learnt_positions, next_token_loss
    from vistune.model.projectors import PROJECTORS, build_projector
    from vistune.model.vision import load_tower
    from vistune.model.vlm import VisionLanguageModel, build, read_spec

__all__ = [
    "PROJECTORS",
    "Reading",
    "Stem",
    "Tails",
    "VisionLanguageModel",
    "add_adapters",
    "build",
    "build_projector",
    "head_loss",
    "learnt_positions",
    "load_adapters",
    "load_tower",
    "merge_adapters",
    "next_token_loss",
    "read_spec",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from vistune.model import cache, lora, loss, projectors, vision, vlm

        return next(getattr(room, name) for room in (cache, lora, loss, projectors, vision, vlm) if hasattr(room, name))
    raise AttributeError(f"module 'vistune.model' has no attribute {name!r}")
