"""How much work a row needs, and how fast this machine multiplies: together the share of its speed that is used (MFU).

model + Batch -> FLOPs that must be done: no weight gradient of what is frozen, no gradient into what nothing below
learns, the causal half of attention within documents, logits and the last layer's MLP of supervised positions alone;
of merged adapters no product forward. A multiplication and an addition count as two. What is computed beyond that
(activations again, say) earns nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from vistune.model import VisionLanguageModel
from vistune.model.language import unwrap
from vistune.model.last_layer import last_mlp
from vistune.planner.precision import products_in
from vistune.types import Batch

SMALLEST, LARGEST = 1024, 8192  # sides of the matrices by which a machine's speed is measured
LONG = 0.01  # seconds of a product that is large enough
TRIES = 5


@dataclass(frozen=True, slots=True)
class Needed:
    """FLOPs of a stage's rows: of a tile, of its features in the projector, of a token, of a pair, of a logit row."""

    tile: float
    features: float
    token: float
    pair: float  # a token that looks at one other, in all layers
    supervised: float
    window: int | None

    def of(self, batch: Batch) -> float:
        """Of one row, forward and backward. A blank tile is no work that was needed, features need no tower."""
        tiles = len(batch.images) if batch.ids and (batch.input_ids < 0).any() else 0
        tower = 0.0 if batch.images.is_floating_point() else self.tile
        lengths = [int(end - begin) for begin, end in pairwise(batch.starts.tolist())] if batch.ids else []
        pairs = sum(_pairs(length, self.window) for length in lengths)
        return (
            tiles * (tower + self.features)
            + sum(lengths) * self.token
            + pairs * self.pair
            + batch.supervised * self.supervised
        )

    def of_samples(
        self, lengths: np.ndarray, supervised: np.ndarray, tiles: np.ndarray, *, seen: bool = True
    ) -> np.ndarray:
        """Of each sample by itself: what rows weigh where they are dealt to several processes.

        `seen`: by the tower; kept features need none.
        """
        reach = lengths if self.window is None else np.minimum(lengths, self.window)
        pairs = reach * (reach + 1) / 2 + (lengths - reach) * reach
        work: np.ndarray = (
            tiles * (seen * self.tile + self.features)
            + lengths * self.token
            + pairs * self.pair
            + supervised * self.supervised
        )
        return work


def _pairs(length: int, window: int | None) -> float:
    """How many tokens are looked at: each sees itself and those before it, as far as the window reaches."""
    seen = length if window is None else min(length, window)
    return seen * (seen + 1) / 2 + (length - seen) * seen


def needed_by(model: VisionLanguageModel) -> Needed:
    """Of a model whose learning parts are set."""
    tower, language = model.vision, unwrap(model.language)
    vision_learns = any(p.requires_grad for p in tower.parameters())
    body = tower.tower.vision_model if tower.joint else tower.tower
    patches = (body.config.image_size // body.config.patch_size) ** 2
    looks = 4 * patches**2 * body.config.hidden_size * body.config.num_hidden_layers * (3 if vision_learns else 1)
    tile = patches * _work(tower, into=vision_learns) + looks
    slots = model.spec.slots_per_image
    head = language.get_output_embeddings()
    config = language.config
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    mlp = last_mlp(language.get_decoder())
    visited = _visited(language)
    last = _work(mlp, into=True, visited=visited) if mlp is not None else 0.0
    return Needed(
        tile=tile,
        features=slots * _work(model.projector, into=vision_learns),
        token=_work(model.language, into=True, without=head, visited=visited) - last,
        pair=3 * 4 * width * config.num_hidden_layers,
        supervised=2.0 * model.head.numel() * (3 if model.head.requires_grad else 2) + last,
        window=getattr(config, "sliding_window", None),
    )


def _work(module: nn.Module, *, into: bool, without: nn.Module | None = None, visited: int = 1) -> float:
    """FLOPs of a token in a module's products: forward, `into` its inputs, and of weights that learn.

    `visited`: experts of a layer that a token comes to.
    """
    total = 0.0
    for found in module.modules():
        if found is without:
            continue
        total -= 2 * getattr(found, "numbers_merged", 0)  # of model/merged.py: no product forward
        if isinstance(found, nn.Linear | nn.Conv2d):
            # By its sides: a quantised weight is packed.
            size = found.in_features * found.out_features if isinstance(found, nn.Linear) else found.weight.numel()
            total += 2 * size * (1 + into + found.weight.requires_grad)
            continue
        for parameter in found.parameters(recurse=False):
            if parameter.ndim == 3:  # experts in one piece, of which a token visits some
                total += 2 * parameter[0].numel() * visited * (1 + into + parameter.requires_grad)
            elif parameter.ndim == 2 and not isinstance(found, nn.Embedding):  # what chooses them
                total += 2 * parameter.numel() * (1 + into + parameter.requires_grad)
    return total


def _visited(language: nn.Module) -> int:
    return int(getattr(language.config, "num_experts_per_tok", None) or 1)


_fastest: dict[tuple[str, torch.dtype, str], float] = {}  # FLOP/s that this process has met


def matmul_peak(device: str, dtype: torch.dtype, precision: str = "fp32") -> float:
    """FLOP/s of a large product on this device, the best of several tries; sides double until one takes a while.

    Each call measures again, and the fastest so far counts: other work may hold a core for one call's moment.
    `precision`: a stage's; under tf32 a product of fp32 is several times as fast.
    """
    kind = device.split(":")[0]
    wait: Callable[[], Any] = torch.cuda.synchronize if kind == "cuda" else lambda: None
    best, side, took = _fastest.get((device, dtype, precision), 0.0), SMALLEST, 0.0
    while side <= LARGEST and took < LONG:
        one = torch.ones(side, side, device=device, dtype=dtype)
        with torch.no_grad(), products_in(precision, device):
            # The fastest of several: while another process holds a core, one may take many times as long.
            took = min(_seconds_of_square(one, wait) for _ in range(TRIES))
        best = max(best, 2.0 * side**3 / took)
        side *= 2
    _fastest[device, dtype, precision] = best
    return best


def _seconds_of_square(one: torch.Tensor, wait: Callable[[], Any]) -> float:
    began = time.perf_counter()
    one @ one
    wait()
    return time.perf_counter() - began
