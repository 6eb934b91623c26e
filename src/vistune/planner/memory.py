"""What one process of a stage holds at its peak, computed from sizes alone: nothing is loaded.

Sizes + How + Row -> Memory: weights, gradients, optimizer, activations, logits, copies, gathered (bytes)

d is the language model's width, i its MLP's, q and k the widths of queries and of keys, v and u the tower's width and
its MLP's. A kept number takes `wide` = 4 bytes; what a linear layer, an attention or an activation function keeps takes
`narrow` = 2 bytes under bf16 autocast, else 4. What autograd keeps of a layer, a token (counted tensor by tensor, and
held to the real ones by tests/training/test_memory.py):

  language, its weights learn   wide 4 d + narrow ((2 or, in bf16, 5) d + 3 q + 2 k + 4 i)
  language, adapters learn      wide 2 d + narrow (inputs of adapted layers + 2 q + 2 k + 3 i + 7 ranks, less those of
                                merged ones)
  language, frozen              wide 2 d + narrow (2 q + 2 k + 3 i)
  tower, its weights learn      wide 2 v + narrow ((6 or, in bf16, 8) v + (3 of CLIP, 2 of SigLIP) u)
  tower, frozen                 nothing; for a moment some 2 v + 4 u of one layer
  a layer that is recomputed    wide 1 width, and one whole layer at a time
  supervised tokens alone       nothing; for a moment wide 2 vocabularies for each of a chunk of 256 of them

The last layer keeps its MLP's part (`of_mlp`) of supervised tokens alone, unless it is recomputed.
Merged adapters (model/merged.py) take their layers' weights once more.
A weight that takes part in a product under bf16 has a copy of 2 bytes while its layer is kept. AdamW holds 8 bytes for
each number that learns, its gradient takes 4, the number itself 4 (1.0 or 0.53 in 8 or 4 bits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vistune.model.loss import CHUNK
from vistune.model.shapes import LanguageShape, TowerShape, merging_pays
from vistune.recipe import Lora, Stage

WIDE = 4
HALF = 2  # bytes of a number in bf16
QUANTISED = {4: 0.5 + 1 / 64 + 4 / (64 * 256), 8: 1.0}  # bytes a weight: nf4 with twice quantised scales; int8
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

Way = Literal["alone", "ddp", "fsdp"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model: its backbones, and its projector's parameters. `vision_width`: of the features; `slots`: of a tile."""

    tower: TowerShape
    language: LanguageShape
    projector: int
    projector_layers: int
    vision_width: int
    slots: int


@dataclass(frozen=True, slots=True)
class Row:
    """The packed row that takes most: tokens, tiles and supervised tokens in it; `rows` of a process in a step."""

    tokens: int
    tiles: int
    supervised: int
    rows: int = 1


@dataclass(frozen=True, slots=True)
class How:
    """What a stage learns and how; `processes` keep the model `way`. `halved`: parts whose weights lie in bf16."""

    learn: tuple[str, ...]
    lora: Lora | None = None
    quantize: int | None = None
    recompute: tuple[str, ...] = ()
    optimizer: str = "adamw"
    bf16: bool = False
    way: Way = "alone"
    processes: int = 1
    halved: tuple[str, ...] = ()
    tf32: bool = False
    on_gpu: bool = False

    @property
    def narrow(self) -> int:
        return HALF if self.bf16 else WIDE

    @property
    def mask_bytes(self) -> int:
        """Of what dropout keeps of a number: a byte by CUDA's own kernel, a factor elsewhere."""
        return 1 if self.on_gpu else WIDE

    @property
    def merges(self) -> bool:
        """Whether adapters may be merged while they learn (model/merged.py)."""
        lora = self.lora
        plain = lora is not None and lora.dropout == 0 and not lora.dora and self.quantize is None
        return plain and not self.bf16 and not self.tf32 and self.way != "fsdp"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak, by what takes them.

    `copies`: weights in bf16 · `gathered`: under fsdp, layers made whole for the moment of their use.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    copies: float
    gathered: float

    @property
    def total(self) -> float:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.copies
            + self.gathered
        )


def how_of(
    stage: Stage,
    *,
    bf16: bool,
    way: Way = "alone",
    processes: int = 1,
    halved: Sequence[str] = (),
    on_gpu: bool = False,
) -> How:
    return How(
        learn=tuple(stage.learn),
        lora=stage.lora,
        quantize=stage.quantize,
        recompute=stage.recompute,
        optimizer=stage.optimizer,
        bf16=bf16,
        way=way,
        processes=processes,
        halved=tuple(halved),
        tf32=stage.precision == "tf32",
        on_gpu=on_gpu,
    )


def linear_maps(shape: LanguageShape) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear maps of one layer, by name."""
    d, i, q, k = shape.width, shape.inner, shape.query_width, shape.key_width
    return {"q_proj": (d, q), "k_proj": (d, k), "v_proj": (d, k), "o_proj": (q, d), "gate_proj": (d, i),
            "up_proj": (d, i), "down_proj": (i, d)}  # fmt: skip


def adapter_layers(shape: LanguageShape, lora: Lora) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear maps of one layer that get adapters, by name."""
    sizes = linear_maps(shape)
    wishes = set(lora.targets or ("all-linear",))
    chosen = {wish.rsplit(".", 1)[-1] for wish in wishes}
    if "all-linear" in wishes:
        return sizes
    return {
        name: size for name, size in sizes.items() if name in chosen or ("attention" in wishes and name in ATTENTION)
    }


def merged_layers(shape: LanguageShape, how: How) -> dict[str, tuple[int, int]]:
    """Of `adapter_layers` those whose adapters are merged while they learn."""
    if how.lora is None or not how.merges:
        return {}
    found = adapter_layers(shape, how.lora)
    return {name: sides for name, sides in found.items() if merging_pays(*sides, how.lora.rank)}


def parameters(sizes: Sizes, lora: Lora | None = None) -> dict[str, int]:
    """Numbers of each part that a recipe's `learn` can name."""
    adapters = 0
    if lora is not None:
        for inside, outside in adapter_layers(sizes.language, lora).values():
            adapters += sizes.language.layers * (lora.rank * (inside + outside) + (outside if lora.dora else 0))
    found = {
        "vision": sizes.tower.parameters,
        "projector": sizes.projector,
        "language": sizes.language.parameters,
        "adapters": adapters,
    }
    return {part: count for part, count in found.items() if count or part != "adapters"}


def memory(sizes: Sizes, how: How, row: Row) -> Memory:
    """One process's peak: at the end of a row's forward pass, or in the optimizer's step where that takes more."""
    counts = parameters(sizes, how.lora)
    learning = sum(counts[part] for part in how.learn)
    share = how.processes if how.way == "fsdp" else 1
    weights = WIDE * sum(counts.values()) - _saved_by_quantising(sizes.language, how.quantize)
    sums = sum(inside * outside for inside, outside in merged_layers(sizes.language, how).values())
    weights += WIDE * sizes.language.layers * sums
    weights -= (WIDE - HALF) * sum(_of_full_width(sizes, how, part, counts[part]) for part in how.halved)
    kept, logits = activations(sizes, how, row), logit_bytes(sizes.language, how, row)
    copies = bf16_copies(sizes, how, row)
    gradients = WIDE * learning / share
    # Of several rows in a step, the first one's gradients are there while the last one's activations are; of one row,
    # gradients come as activations go: the larger of the two counts.
    # DDP's own copy of them is there all the time; the last row's are that copy.
    buckets = gradients if how.way == "ddp" else 0.0
    if row.rows == 1 and (buckets or gradients <= kept + logits + copies):
        gradients = 0.0
    elif row.rows == 1:
        kept = logits = copies = 0.0
    return Memory(
        weights=weights / share,
        gradients=gradients + buckets,
        optimizer=optimizer_bytes(sizes, how) / share,
        activations=kept,
        logits=logits,
        copies=copies,
        gathered=_gathered(sizes, how, counts) if how.way == "fsdp" else 0.0,
    )


def _saved_by_quantising(shape: LanguageShape, bits: int | None) -> float:
    return 0.0 if bits is None else shape.layers * shape.linear * (WIDE - QUANTISED[bits])


def _of_full_width(sizes: Sizes, how: How, part: str, count: int) -> int:
    """Numbers of a part that are not quantised."""
    packed = part == "language" and how.quantize is not None
    return count - sizes.language.layers * sizes.language.linear if packed else count


def optimizer_bytes(sizes: Sizes, how: How) -> float:
    """AdamW: two numbers for each that learns; Muon: one for those of the backbones' matrices."""
    counts = parameters(sizes, how.lora)
    found = 0.0
    for part in how.learn:
        shape = sizes.language if part == "language" else sizes.tower if part == "vision" else None
        matrices = shape.layers * shape.layer if how.optimizer == "muon" and shape is not None else 0
        found += 2 * WIDE * (counts[part] - matrices) + WIDE * matrices
    return found


def activations(sizes: Sizes, how: How, row: Row) -> float:
    """Bytes that a row's backward pass needs, and what passes through beside them at the peak."""
    d, tiles = sizes.language.width, row.tiles
    patches = tiles * sizes.tower.tokens
    features = WIDE * tiles * sizes.slots * (sizes.vision_width + d * (2 * sizes.projector_layers - 1))
    pixels = tiles * 3 * sizes.tower.side**2 * (1 + (WIDE if "vision" in how.learn else 0))
    language = _stack(language_layer(sizes.language, how), WIDE * d, sizes.language.layers, "language" in how.recompute)
    ends = WIDE * 3 * d  # the embedded row, and the last norm's input and output
    tower = 0.0
    if "vision" in how.learn:
        tower = patches * _stack(
            tower_layer(sizes.tower, how), WIDE * sizes.tower.width, sizes.tower.layers, "vision" in how.recompute
        )
    inner = how.narrow * 2 * sizes.language.inner  # gradients inside an MLP
    spared: float = 0.0
    passing: float = row.tokens * inner
    if "language" not in how.recompute:
        # In the last MLP, or in the one before it, when the last layer's own part is gone.
        spared = max(0, row.tokens - row.supervised) * of_mlp(sizes.language, how)
        last = row.tokens * language_layer(sizes.language, how) - spared
        passing = max(row.supervised * inner, row.tokens * inner - last)
    held = row.tokens * (language + ends) - spared + features + pixels + tower
    frozen = (
        0.0 if "vision" in how.learn else patches * (WIDE * 2 * sizes.tower.width + how.narrow * 4 * sizes.tower.inner)
    )
    return max(held + passing, frozen)


def _stack(layer: float, inputs: float, layers: int, recomputed: bool) -> float:
    return layers * inputs + layer if recomputed else layers * layer


def language_layer(shape: LanguageShape, how: How) -> float:
    """Bytes that one layer keeps of a token."""
    d, i, q, k, narrow = shape.width, shape.inner, shape.query_width, shape.key_width, how.narrow
    norms = WIDE * 2 + WIDE * shape.heads  # two inverse deviations; the attention's sums
    attention, mlp = 2 * q + 2 * k, 3 * i
    if "language" in how.learn:
        return norms + WIDE * 4 * d + narrow * ((5 if how.bf16 else 2) * d + attention + q + mlp + i)
    if how.lora is None:
        return norms + WIDE * 2 * d + narrow * (attention + mlp)
    adapted = adapter_layers(shape, how.lora)
    # Maps that share an input keep it once in fp32; bf16 and dropout make one of it for each.
    apart = how.bf16 or how.lora.dropout > 0
    groups = [[name for name in names if name in adapted] for names in (ATTENTION[:3], MLP[:2])]
    inputs = sum(d * (len(group) if apart else min(1, len(group))) for group in groups)
    inputs += q * ("o_proj" in adapted) + i * ("down_proj" in adapted)
    masks = inputs * how.mask_bytes if how.lora.dropout > 0 else 0
    ranks = how.lora.rank * (len(adapted) - len(merged_layers(shape, how)))
    return norms + WIDE * 2 * d + narrow * (inputs + attention + mlp + ranks) + masks


def of_mlp(shape: LanguageShape, how: How) -> float:
    """Bytes of `language_layer` that the last layer keeps only of tokens whose states are wanted."""
    d, i = shape.width, shape.inner
    if "language" in how.learn:
        return how.narrow * ((2 if how.bf16 else 1) * d + 4 * i)
    if how.lora is None:
        return how.narrow * 3 * i
    adapted = adapter_layers(shape, how.lora)
    above = len({"gate_proj", "up_proj"}.intersection(adapted))
    inputs = d * (above if how.bf16 or how.lora.dropout > 0 else min(1, above)) + i * ("down_proj" in adapted)
    ranks = how.lora.rank * len(set(adapted).intersection(MLP) - set(merged_layers(shape, how)))
    masks = inputs * how.mask_bytes if how.lora.dropout > 0 else 0
    return how.narrow * (inputs + 3 * i + ranks) + masks


def tower_layer(shape: TowerShape, how: How) -> float:
    """Bytes that one learning layer keeps of a patch."""
    v, u = shape.width, shape.inner
    inner = (3 if shape.class_token else 2) * u
    sums = WIDE * 4 + WIDE * shape.heads
    return sums + WIDE * 2 * v + how.narrow * ((8 if how.bf16 else 6) * v + inner)


def bf16_copies(sizes: Sizes, how: How, row: Row) -> float:
    """Copies of weights that products under bf16 keep; recomputed layers of frozen weights keep one layer's."""
    if not how.bf16:
        return 0.0
    shape = sizes.language
    halved = "language" in how.halved  # they are multiplied as they lie
    head = 0.0 if halved else HALF * shape.embedding
    adapters = parameters(sizes, how.lora).get("adapters", 0)
    linear = 0 if how.quantize is not None or halved else shape.linear
    all_layers = "language" not in how.recompute or "language" in how.learn  # of what learns, autocast keeps them
    language = HALF * (linear * (shape.layers if all_layers else 1) + adapters)
    tower = HALF * sizes.tower.layer * sizes.tower.layers if "vision" in how.learn else 0
    return head + language + tower + HALF * sizes.projector


def logit_bytes(shape: LanguageShape, how: How, row: Row) -> float:
    """Of a chunk of supervised tokens, logits and the logarithms of their shares; and a learning head's gradient."""
    passing = 2 * WIDE * shape.vocabulary * min(row.supervised, CHUNK)
    return passing + (WIDE * shape.embedding if "language" in how.learn else 0)


def _gathered(sizes: Sizes, how: How, counts: dict[str, int]) -> float:
    """Under fsdp: two layers whole, the one in use and the next, and what is in no layer; gradients of the former."""
    share = 1 - 1 / how.processes
    largest = max(sizes.language.layer, sizes.tower.layer)
    outside = (
        sum(counts.values()) - sizes.language.layers * sizes.language.layer - sizes.tower.layers * sizes.tower.layer
    )
    return share * WIDE * (3 * largest + outside)
