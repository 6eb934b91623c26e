"""Count the FLOPs of training and predict its time.

model, or sizes + setup -> Work (FLOPs per tile, token, pair of tokens, supervised token) -> FLOPs of a row, a stage

A multiplication and an addition count as two FLOPs. A weight is multiplied once per token in the forward pass, once in
the backward pass if something before it is trained, and once more if it is trained itself. `work_of_model` counts the
FLOPs that a row needs, for MFU; recomputed activations do not count. `work_of_sizes` counts the FLOPs that the machine
computes, for the forecast of time: recomputed layers run forward twice, and attention computes its scores again in the
backward pass.

Time is the sum of two terms: FLOPs / rate, and bytes / bandwidth. The bytes are those that are read and written outside
of matrix multiplications. They include 36 bytes per trainable number and step, for clipping and AdamW. Rate and
bandwidth are measured on this CPU. For a GPU they are an assumption: a share of the values in its data sheet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from vistune.model import VisionLanguageModel
from vistune.model.language import last_mlp, unwrap
from vistune.model.precision import matmul_precision
from vistune.model.trial import decoder_of
from vistune.planner.memory import language_layer
from vistune.planner.sizes import (
    Load,
    ModelSizes,
    StageSetup,
    adapter_layers,
    adapter_size,
    parameters,
    tower_adapter_layers,
)
from vistune.types import Batch

ATTENTION_PASSES = 3.5  # forward, two gradients of each product, and the scores again in the backward pass
# Times that each number which a layer keeps is written or read outside of matrix products: it is made and used, so is
# its gradient, and others come and go (norms in fp32, rotated positions, sums). Fitted to benchmarks/plan_memory.py.
PASSES = 7.0
OPTIMIZER_BYTES = 36  # per trainable number: AdamW's seven passes and the two of clipping
SHARE_OF_PEAK, SHARE_OF_BANDWIDTH = 0.45, 0.6  # what a GPU reaches of its data sheet; an assumption
USABLE_MEMORY = 0.92  # of a GPU: the rest is the driver's, the allocator's and the libraries'
SMALLEST, LARGEST = 1024, 8192  # sides of the matrices by which a machine's speed is measured
MEASURING = 0.1  # seconds in which a call is repeated
LONG_ENOUGH = 0.01  # seconds of a product that is large enough
TRIES = 5

Count = TypeVar("Count", float, np.ndarray)


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of a stage, forward and backward, per unit of its rows' contents.

    Attributes:
        tower: Per image tile in the vision tower.
        projector: Per image tile in the projector.
        token: Per token of the language model, without attention and head.
        pair: Per pair of a token and one that it attends to, in all layers.
        supervised: Per supervised token: the head, and the last layer's MLP if only these tokens reach it.
        window: How many tokens a token attends to at most; None = all before it.
    """

    tower: float
    projector: float
    token: float
    pair: float
    supervised: float
    window: int | None = None

    def total(self, *, tiles: Count, tokens: Count, pairs: Count, supervised: Count, cached: bool = False) -> Count:
        """Return the FLOPs of these numbers of units; `cached`: the tower's features are read from disk."""
        return (
            tiles * (self.projector if cached else self.tower + self.projector)
            + tokens * self.token
            + pairs * self.pair
            + supervised * self.supervised
        )

    def of_batch(self, batch: Batch) -> float:
        """Return the FLOPs of one packed row; a blank row or tile needs none."""
        if not batch.ids:
            return 0.0
        lengths = np.array([end - begin for begin, end in pairwise(batch.starts.tolist())])
        return self.total(
            tiles=float(len(batch.images) if (batch.input_ids < 0).any() else 0),
            tokens=float(lengths.sum()),
            pairs=float(self._pairs(lengths).sum()),
            supervised=float(batch.supervised),
            cached=batch.images.is_floating_point(),
        )

    def of_samples(
        self, lengths: np.ndarray, supervised: np.ndarray, tiles: np.ndarray, *, cached: bool = False
    ) -> np.ndarray:
        """Return the FLOPs of each sample, by which rows are distributed to processes."""
        return self.total(tiles=tiles, tokens=lengths, pairs=self._pairs(lengths), supervised=supervised, cached=cached)

    def _pairs(self, lengths: np.ndarray) -> np.ndarray:
        reach = lengths if self.window is None else np.minimum(lengths, self.window)
        pairs: np.ndarray = reach * (reach + 1) / 2 + (lengths - reach) * reach
        return pairs


def products(*, backward: bool, trainable: bool, recomputed: bool = False) -> int:
    """Count the multiplications of a weight per token: forward, `backward` for inputs, for itself, forward again."""
    return 1 + backward + trainable + recomputed


def work_of_model(model: VisionLanguageModel) -> Work:
    """Count the FLOPs that rows need on a model whose trainable parts are set."""
    language = unwrap(model.language)
    tower_is_trained = any(p.requires_grad for p in model.vision.parameters())
    config = language.config
    heads = config.num_attention_heads
    query_width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    experts = int(getattr(config, "num_experts_per_tok", None) or 1)
    mlp = last_mlp(decoder_of(language))
    last = _of_weights(mlp, backward=True, experts=experts) if mlp is not None else 0.0
    head = language.get_output_embeddings()
    return Work(
        tower=sum(
            tower.shape.tokens * _of_weights(tower, backward=tower_is_trained)
            + 4 * tower.shape.tokens**2 * tower.shape.hidden * tower.shape.kept * (3 if tower_is_trained else 1)
            for tower in model.vision.towers
        ),
        projector=model.spec.slots_per_image * _of_weights(model.projector, backward=tower_is_trained),
        token=_of_weights(model.language, backward=True, without=head, experts=experts) - last,
        pair=3 * 4 * query_width * config.num_hidden_layers,
        supervised=2.0 * model.head.weight.numel() * products(backward=True, trainable=model.head.weight.requires_grad)
        + last,
        window=getattr(config, "sliding_window", None),
    )


def _of_weights(module: nn.Module, *, backward: bool, without: nn.Module | None = None, experts: int = 1) -> float:
    """Return the FLOPs per token of a module's matrices; `experts`: how many of a layer's experts a token visits."""
    total = 0.0
    for part in module.modules():
        if part is without:
            continue
        if isinstance(part, nn.Linear | nn.Conv2d):
            # By its sides: a quantised weight is packed.
            size = part.in_features * part.out_features if isinstance(part, nn.Linear) else part.weight.numel()
            total += 2 * size * products(backward=backward, trainable=part.weight.requires_grad)
            continue
        for weight in part.parameters(recurse=False):
            if weight.ndim == 3:  # all experts of a layer in one tensor
                size = weight[0].numel() * experts
            elif weight.ndim == 2 and not isinstance(part, nn.Embedding):  # the router
                size = weight.numel()
            else:
                continue
            total += 2 * size * products(backward=backward, trainable=weight.requires_grad)
    return total


def work_of_sizes(sizes: ModelSizes, setup: StageSetup) -> Work:
    """Count the FLOPs that a stage's rows cost on a model known by its sizes, recomputed layers included."""
    shape = sizes.language
    language, vision = "language" in setup.learn, "vision" in setup.learn
    recomputed = "language" in setup.recompute
    passes = products(backward=True, trainable=language, recomputed=recomputed)
    works = [(linear.attention, 2 * linear.active * linear.size * passes) for linear in shape.maps]
    if setup.lora is not None:
        adapter_passes = products(backward=True, trainable=True, recomputed=recomputed)
        works += [
            (linear.attention, 2 * linear.count * setup.lora.rank * (linear.inside + linear.outside) * adapter_passes)
            for linear in adapter_layers(shape, setup.lora)
        ]
    last = 0.0 if recomputed else sum(work for is_attention, work in works if not is_attention)
    reached = setup.reaches("vision")
    tower_passes = products(backward=reached, trainable=vision, recomputed=reached and "vision" in setup.recompute)
    projector_passes = products(backward=reached, trainable="projector" in setup.learn)
    tower_flops = sum(
        2 * 3 * tower.side**2 * tower.hidden
        + tower.kept * (2 * tower.tokens * tower.layer + 4 * tower.tokens**2 * tower.hidden)
        for tower in sizes.towers
    )
    tower_adapters = projector_adapters = 0.0
    if setup.lora is not None:
        passes = 3 + ("vision" in setup.recompute)  # forward, gradients of inputs and of weights
        tower_adapters = sum(
            2.0 * tower.tokens * adapter_size(layer, setup.lora) * passes
            for tower, layers in zip(sizes.towers, tower_adapter_layers(sizes, setup.lora), strict=True)
            for layer in layers
        )
        linears = sizes.projector_linears if "projector" in setup.lora.parts else ()
        projector_adapters = sum(2.0 * sizes.slots * adapter_size(layer, setup.lora) * 3 for layer in linears)
    return Work(
        tower=tower_flops * tower_passes + tower_adapters,
        projector=2 * sizes.slots * sizes.projector * projector_passes + projector_adapters,
        token=shape.layers * sum(work for _, work in works) - last,
        pair=4 * shape.query_width * shape.layers * (ATTENTION_PASSES + recomputed),
        supervised=2 * shape.embedding * products(backward=True, trainable=language) + last,
    )


def flops_of(sizes: ModelSizes, setup: StageSetup, load: Load) -> float:
    """Return the FLOPs of all the stage's rows and updates."""
    rows = work_of_sizes(sizes, setup).total(
        tiles=load.tiles, tokens=load.tokens, pairs=load.pairs, supervised=load.supervised
    )
    return rows + (load.steps or 1) * _muon_flops(sizes, setup) if setup.optimizer == "muon" else rows


def _muon_flops(sizes: ModelSizes, setup: StageSetup) -> float:
    """Return the FLOPs of an update.

    For each m x n matrix (m <= n), these are five rounds of x x', its square, and their product with x.
    """

    def of(m: int, n: int) -> float:
        return 5 * (4 * m * m * n + 2 * m**3)

    shape, total = sizes.language, 0.0
    if "language" in setup.learn:
        sides = [(m.count, m.inside, m.outside) for m in shape.maps]
        total += shape.layers * sum(count * of(min(pair), max(pair)) for count, *pair in sides)
    if "vision" in setup.learn:
        for tower in sizes.towers:
            total += tower.kept * (4 * of(tower.hidden, tower.hidden) + 2 * of(tower.hidden, tower.inner))
    return total


@dataclass(frozen=True, slots=True)
class Device:
    """Where a stage would run.

    Attributes:
        memory: In bytes.
        flops: FLOP/s that matrix products reach.
        bandwidth: Bytes per second that everything else reaches.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float


GPUS: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("24 GB (RTX 4090)", 24e9, SHARE_OF_PEAK * 165e12, SHARE_OF_BANDWIDTH * 1.0e12),
        Device("40 GB (A100)", 40e9, SHARE_OF_PEAK * 312e12, SHARE_OF_BANDWIDTH * 1.55e12),
        Device("80 GB (H100)", 80e9, SHARE_OF_PEAK * 989e12, SHARE_OF_BANDWIDTH * 3.35e12),
        Device("141 GB (H200)", 141e9, SHARE_OF_PEAK * 989e12, SHARE_OF_BANDWIDTH * 4.8e12),
    )
}


def seconds(sizes: ModelSizes, setup: StageSetup, load: Load, device: Device) -> float:
    """Predict the seconds of a whole stage."""
    return flops_of(sizes, setup, load) / device.flops + traffic(sizes, setup, load) / device.bandwidth


def traffic(sizes: ModelSizes, setup: StageSetup, load: Load) -> float:
    """Return the bytes that a stage reads and writes outside of matrix products, the optimizer's included."""
    all_trainable = replace(setup, learn=("language",), lora=None)
    language = load.tokens * sizes.language.layers * language_layer(sizes.language, all_trainable)
    tower = load.tiles * sum(each.tokens * each.kept * (8 * each.hidden + 4 * each.inner) for each in sizes.towers)
    tower *= setup.narrow * (3 if setup.reaches("vision") else 1)
    if setup.lora is not None:  # each adapter's output is scaled and added to its layer's, forward and backward
        outputs = sum(m.count * m.outside for m in adapter_layers(sizes.language, setup.lora))
        language += load.tokens * sizes.language.layers * setup.narrow * 2 * outputs
    language *= 4 / 3 if "language" in setup.recompute else 1
    logits = load.supervised * sizes.language.vocabulary * 4 * 2
    trainable = sum(parameters(sizes, setup.lora)[part] for part in setup.learn)
    return PASSES * (language + logits) + tower + OPTIMIZER_BYTES * trainable * (load.steps or 1)


def this_cpu(sizes: ModelSizes, *, bf16: bool) -> Device:
    """Measure this CPU: a matrix multiplication about as wide as the model's, and a pass over 16 MB."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    width, inner = min(sizes.language.width, 1024), min(sizes.language.inner, 3072)
    left, right = torch.ones(256, width, dtype=dtype), torch.ones(width, inner, dtype=dtype)
    block = torch.ones(4 * 2**20)
    with torch.no_grad():
        product_seconds = _fastest_call(lambda: left @ right)
        pass_seconds = _fastest_call(lambda: nn.functional.silu(block))
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Device("this CPU", memory, 512.0 * width * inner / product_seconds, 8.0 * block.numel() / pass_seconds)


def _fastest_call(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest call within MEASURING seconds."""
    call()
    best, end = float("inf"), time.perf_counter() + MEASURING
    while (start := time.perf_counter()) < end:
        call()
        best = min(best, time.perf_counter() - start)
    return best


_fastest: dict[tuple[str, torch.dtype, str], float] = {}  # FLOP/s that this process has measured


def matmul_peak(device: str, dtype: torch.dtype, precision: str = "fp32") -> float:
    """Measure the FLOP/s of a large product on this device: the fastest so far, as other work may hold a core.

    The sides double until a product takes long enough. `precision`: the stage's, because tf32 multiplies fp32 several
    times as fast.
    """
    kind = device.split(":")[0]
    wait: Callable[[], object] = torch.cuda.synchronize if kind == "cuda" else lambda: None
    best, side, took = _fastest.get((device, dtype, precision), 0.0), SMALLEST, 0.0
    while side <= LARGEST and took < LONG_ENOUGH:
        square = torch.ones(side, side, device=device, dtype=dtype)
        with torch.no_grad(), matmul_precision(precision, device):
            took = min(_seconds_of_square(square, wait) for _ in range(TRIES))
        best = max(best, 2.0 * side**3 / took)
        side *= 2
    _fastest[device, dtype, precision] = best
    return best


def _seconds_of_square(square: torch.Tensor, wait: Callable[[], object]) -> float:
    began = time.perf_counter()
    square @ square
    wait()
    return time.perf_counter() - began
