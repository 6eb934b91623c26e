"""Time layers of a stage's sizes on this CPU, in fp32 and under bf16 autocast.

sizes + setup + load -> parts of the stage (a layer of each stack, the head) -> seconds of one pass of each

A pass has the matrix multiplications, attention, norms, activation functions and casts of training, forward and
backward, on random weights. Matrix multiplications only would not be enough: in narrow models, norms and casts take as
long. The seconds are CPU time of one thread, so other work on the machine hardly changes them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, rms_norm, scaled_dot_product_attention, silu

from vistune.model.attention import packed_attention
from vistune.model.head import Head
from vistune.model.loss import CHUNK, head_loss
from vistune.model.tower_shape import TowerShape
from vistune.planner.language_shape import LanguageShape
from vistune.planner.sizes import Load, ModelSizes, StageSetup

TRIES = 3
FLOPS = 4e9  # of one pass, about: 0.04 s on a fast core
LEAST_TOKENS = 256
WIDEST = 768  # wider layers run as fast per FLOP
LARGEST_VOCABULARY = 4096
SHORTEST_DOCUMENT = 64
EMULATED = 3.0  # times as long as in fp32: this CPU has no instructions for bf16


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A layer as it is timed.

    Attributes:
        heads: Attention heads; each group of `heads / key_heads` shares keys.
        gated: Whether the MLP is gated, with three linear maps.
        trained: Whether its weights are trained.
        rank: Rank of adapters on all linear maps; 0 = none.
        backward: Whether gradients pass through it.
        tokens: Number in the row.
        document: Number in a document; attention stays within it.
    """

    width: int
    heads: int
    key_heads: int
    head_width: int
    inner: int
    gated: bool
    causal: bool
    trained: bool
    rank: int
    backward: bool
    tokens: int
    document: int

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """Width of the output and of the input of each linear map."""
        query, key = self.heads * self.head_width, self.key_heads * self.head_width
        maps = {"query": (query, self.width), "key": (key, self.width), "value": (key, self.width)}
        maps |= {"out": (self.width, query), "up": (self.inner, self.width), "down": (self.width, self.inner)}
        return {**maps, "gate": (self.inner, self.width)} if self.gated else maps

    @property
    def flops_per_token(self) -> float:
        """FLOPs of its matrix multiplications per token."""
        sides = self.maps.values()
        base = sum(outside * inside for outside, inside in sides) * (1 + self.backward + self.trained)
        return 2.0 * (base + 3 * sum(self.rank * (outside + inside) for outside, inside in sides))


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The head and the loss of a chunk of supervised tokens."""

    width: int
    vocabulary: int
    trained: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A shape to time, and the number of its passes that equals the stage's work."""

    shape: LayerShape | HeadShape
    passes: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Median seconds of a pass."""

    fp32: float
    bf16: float


def parts_of(sizes: ModelSizes, setup: StageSetup, load: Load, tokens_per_row: int) -> tuple[Part, ...]:
    """Split a stage's work into passes of a language layer, of the head, and of a layer of each tower."""
    language = _language_layer(sizes.language, setup)
    mean = round(max(load.tokens / max(load.samples, 1), SHORTEST_DOCUMENT))
    document = min(2 ** (mean.bit_length() - 1), tokens_per_row)  # a power of two: like data share a measurement
    work = load.tokens * sizes.language.layers * (sizes.language.width / language.width) ** 2
    parts = [_part(language, work, document, tokens_per_row)]
    vocabulary = min(sizes.language.vocabulary, LARGEST_VOCABULARY)
    chunks = load.supervised / CHUNK * sizes.language.embedding / (vocabulary * language.width)
    parts.append(Part(HeadShape(language.width, vocabulary, language.trained), chunks))
    for tower in sizes.towers:
        layer = _tower_layer(tower, setup)
        work = load.tiles * tower.tokens * tower.kept * (tower.hidden / layer.width) ** 2
        parts.append(_part(layer, work, tower.tokens, math.inf))
    return tuple(parts)


def _language_layer(shape: LanguageShape, setup: StageSetup) -> LayerShape:
    heads = shape.heads or 1  # without attention, all maps are timed as one head's
    head_width = (shape.query_width or shape.width) // heads
    return _narrowed(
        LayerShape(
            width=shape.width,
            heads=heads,
            key_heads=max(1, shape.key_width // head_width),
            head_width=head_width,
            inner=shape.inner,
            gated=True,
            causal=True,
            trained="language" in setup.learn,
            rank=setup.lora.rank if setup.lora is not None and "language" in setup.lora.parts else 0,
            backward=True,
            tokens=0,
            document=0,
        )
    )


def _tower_layer(shape: TowerShape, setup: StageSetup) -> LayerShape:
    heads, trained = shape.heads or 1, "vision" in setup.learn
    return _narrowed(
        LayerShape(
            width=shape.hidden,
            heads=heads,
            key_heads=heads,
            head_width=shape.hidden // heads,
            inner=shape.inner,
            gated=False,
            causal=False,
            trained=trained,
            rank=setup.lora.rank if setup.lora is not None and "vision" in setup.lora.parts else 0,
            backward=setup.reaches("vision"),
            tokens=0,
            document=0,
        )
    )


def _narrowed(shape: LayerShape) -> LayerShape:
    """Return the shape with a width of at most WIDEST; heads keep their width and share keys as before."""
    share = min(1.0, WIDEST / shape.width)
    group = max(1, shape.heads // shape.key_heads)
    key_heads = max(1, round(shape.key_heads * share))
    return replace(
        shape,
        width=round(shape.width * share),
        inner=max(1, round(shape.inner * share)),
        key_heads=key_heads,
        heads=key_heads * group,
    )


def _part(shape: LayerShape, work: float, document: int, most_tokens: float) -> Part:
    """Choose the tokens of a pass: whole documents, or one that is cut.

    Args:
        work: Tokens of the stage, times layers.
        most_tokens: Most that a row has.
    """
    row = round(min(most_tokens, max(LEAST_TOKENS, FLOPS / shape.flops_per_token)))
    document = min(document, row)
    timed = replace(shape, tokens=row // document * document, document=document)
    return Part(timed, work / timed.tokens)


def measure(shapes: Sequence[LayerShape | HeadShape]) -> list[Timing]:
    """Time a pass of each shape in both precisions, in turns.

    If a multiplication in bf16 takes EMULATED times as long as in fp32, its times are returned for every shape: passes
    would take minutes.
    """
    width = max(shape.width for shape in shapes)
    with _one_thread():
        matmul = _timing(*(_matmul(width, dtype) for dtype in (torch.float32, torch.bfloat16)))
        if matmul.bf16 > EMULATED * matmul.fp32:
            return [matmul] * len(shapes)
        return [_timing(*(_pass(shape, bf16=bf16) for bf16 in (False, True))) for shape in shapes]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timing(in_fp32: Callable[[], object], in_bf16: Callable[[], object]) -> Timing:
    seconds: tuple[list[float], list[float]] = ([], [])
    for call in (in_fp32, in_bf16):  # the first call sets up kernels and memory
        call()
    for _ in range(TRIES):
        for call, durations in zip((in_fp32, in_bf16), seconds, strict=True):
            began = time.thread_time()
            call()
            durations.append(time.thread_time() - began)
    return Timing(*(statistics.median(durations) for durations in seconds))


def _matmul(width: int, dtype: torch.dtype) -> Callable[[], object]:
    left, right = torch.ones(64, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    return lambda: left @ right


def _pass(shape: LayerShape | HeadShape, *, bf16: bool) -> Callable[[], object]:
    rng = torch.Generator().manual_seed(0)  # not the global one, which training uses
    run = _head_pass(shape, rng, bf16) if isinstance(shape, HeadShape) else _layer_pass(shape, rng, bf16)

    def timed() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            run()

    return timed


def _head_pass(shape: HeadShape, rng: torch.Generator, bf16: bool) -> Callable[[], None]:
    states = torch.randn(CHUNK, shape.width, generator=rng).requires_grad_()
    head = Head(_weight(shape.vocabulary, shape.width, rng, trained=shape.trained, bf16=bf16))
    targets = torch.randint(shape.vocabulary, (CHUNK,), generator=rng)
    return lambda: head_loss(states, head, targets).sum.backward()


def _layer_pass(shape: LayerShape, rng: torch.Generator, bf16: bool) -> Callable[[], None]:
    layer = _Layer(shape, rng, bf16)
    row = torch.randn(shape.tokens, shape.width, generator=rng).requires_grad_(shape.backward)
    gradient = torch.randn(shape.tokens, shape.width, generator=rng)

    def run() -> None:
        with torch.set_grad_enabled(shape.backward):
            out = layer(row)
        if shape.backward:
            out.backward(gradient)

    return run


def _weight(outside: int, inside: int, rng: torch.Generator, *, trained: bool, bf16: bool = False) -> nn.Parameter:
    """Make a weight as training stores it: trained ones in fp32."""
    values = torch.randn(outside, inside, generator=rng) * inside**-0.5
    return nn.Parameter(values.to(torch.bfloat16) if bf16 and not trained else values, requires_grad=trained)


class _Layer(nn.Module):
    """A transformer layer with norms, optional adapters, and attention within each document."""

    def __init__(self, shape: LayerShape, rng: torch.Generator, bf16: bool) -> None:
        super().__init__()
        self.shape = shape
        self.weights = {
            name: _weight(*sides, rng, trained=shape.trained, bf16=bf16) for name, sides in shape.maps.items()
        }
        self.adapters = {
            name: (_weight(shape.rank, inside, rng, trained=True), _weight(outside, shape.rank, rng, trained=True))
            for name, (outside, inside) in shape.maps.items()
            if shape.rank
        }
        self.norm = torch.ones(shape.width)

    def forward(self, row: Tensor) -> Tensor:
        """Run the layer on a row (tokens, width)."""
        row = row + self._map("out", self._attend(rms_norm(row, (self.shape.width,), self.norm)))
        states = rms_norm(row, (self.shape.width,), self.norm)
        up = self._map("up", states)
        return row + self._map("down", silu(self._map("gate", states)) * up if self.shape.gated else gelu(up))

    def _map(self, name: str, states: Tensor) -> Tensor:
        out = linear(states, self.weights[name])
        if name in self.adapters:
            down, up = self.adapters[name]
            out = out + linear(linear(states, down), up)
        return out

    def _attend(self, states: Tensor) -> Tensor:
        shape, batch = self.shape, 1 if self.shape.causal else self.shape.tokens // self.shape.document
        query, key, value = (
            self._map(name, states).view(batch, -1, heads, shape.head_width).transpose(1, 2)
            for name, heads in (("query", shape.heads), ("key", shape.key_heads), ("value", shape.key_heads))
        )
        if shape.causal:
            starts = range(0, shape.tokens + 1, shape.document)
            out = packed_attention(query, key, value, starts, shape.head_width**-0.5, None)
        else:
            out = scaled_dot_product_attention(query, key, value)
        return out.transpose(1, 2).reshape(shape.tokens, -1)
