"""Turn batches into hidden states: vision tower, projector, language model, attention, loss, adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.registry import lazy_names

if TYPE_CHECKING:
    from vistune.model.cache import KVCache, Prefill, Prefix
    from vistune.model.lora import add_adapters, load_adapters, merge_adapters
    from vistune.model.loss import head_loss, next_token_loss, supervised_positions
    from vistune.model.projectors import PROJECTORS, build_projector
    from vistune.model.spec import read_spec
    from vistune.model.vision import load_tower
    from vistune.model.vlm import VisionLanguageModel, build

__all__ = [
    "PROJECTORS",
    "KVCache",
    "Prefill",
    "Prefix",
    "VisionLanguageModel",
    "add_adapters",
    "build",
    "build_projector",
    "head_loss",
    "load_adapters",
    "load_tower",
    "merge_adapters",
    "next_token_loss",
    "read_spec",
    "supervised_positions",
]

__getattr__ = lazy_names(
    __name__,
    {
        "cache": ("Prefill", "Prefix", "KVCache"),
        "lora": ("add_adapters", "load_adapters", "merge_adapters"),
        "loss": ("head_loss", "supervised_positions", "next_token_loss"),
        "projectors": ("PROJECTORS", "build_projector"),
        "vision": ("load_tower",),
        "spec": ("read_spec",),
        "vlm": ("VisionLanguageModel", "build"),
    },
)
