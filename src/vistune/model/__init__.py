"""Batch -> hidden states: tower, projector, language model, attention inside documents, loss, adapters."""

from vistune.model.cache import Reading, Stem, Tails
from vistune.model.lora import add_adapters, load_adapters, merge_adapters
from vistune.model.loss import next_token_loss
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
    "load_adapters",
    "load_tower",
    "merge_adapters",
    "next_token_loss",
    "read_spec",
]
