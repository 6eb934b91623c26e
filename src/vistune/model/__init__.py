"""Batch -> hidden states: vision tower, projector, language model, attention within documents, loss, adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.registry import lazy_names

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

__getattr__ = lazy_names(
    __name__,
    {
        "cache": ("Reading", "Stem", "Tails"),
        "lora": ("add_adapters", "load_adapters", "merge_adapters"),
        "loss": ("head_loss", "learnt_positions", "next_token_loss"),
        "projectors": ("PROJECTORS", "build_projector"),
        "vision": ("load_tower",),
        "vlm": ("VisionLanguageModel", "build", "read_spec"),
    },
)
