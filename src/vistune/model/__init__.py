"""Turn batches into hidden states: vision tower, projector, language model, attention, loss, adapters."""

from vistune.model.cache import KVCache, Prefill, Prefix
from vistune.model.lora import add_adapters, load_adapters, merge_adapters
from vistune.model.loss import head_loss, next_token_loss, supervised_positions, token_losses
from vistune.model.projectors import build_projector
from vistune.model.vision import load_towers
from vistune.model.vlm import VisionLanguageModel, build, read_spec

__all__ = [
    "KVCache",
    "Prefill",
    "Prefix",
    "VisionLanguageModel",
    "add_adapters",
    "build",
    "build_projector",
    "head_loss",
    "load_adapters",
    "load_towers",
    "merge_adapters",
    "next_token_loss",
    "read_spec",
    "supervised_positions",
    "token_losses",
]
