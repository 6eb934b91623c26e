"""Compute the memory that one process of a stage needs at its peak, from sizes only: nothing is loaded.

ModelSizes + StageSetup + RowSize -> Memory: bytes of weights, gradients, optimizer, activations, logits, copies

Widths: d is the language model's width, i that of its MLP, q and k those of queries and keys. v is the tower's width, u
that of its MLP. A number that autograd keeps for the backward pass takes `narrow` or `wide` bytes. Numbers that linear
layers, attention and activation functions keep take `narrow` bytes: 2 under bf16 autocast, otherwise 4. All others take
`wide` bytes: 4. Per layer and token, autograd keeps the following bytes (counted tensor by tensor;
tests/planner/test_memory.py compares them with real layers):

  language, its weights trained  wide 4 d + narrow (a d + 3 q + 2 k + 4 i)        a = 2, in bf16 5
  language, adapters trained     wide 2 d + narrow (2 q + 2 k + 3 i + inputs of the adapted linear layers
                                 + rank x number of adapted linear layers)
  language, frozen               wide 2 d + narrow (2 q + 2 k + 3 i)
  tower, its weights trained     wide 2 v + narrow (b v + c u)                    b = 6, in bf16 8; c = 2, quick GELU 3
  tower, frozen                  nothing is kept; while one layer runs, about wide 2 v + narrow 4 u
  a recomputed layer             `wide` for each number of its input; in the backward pass also the lines above, for the
                                 one layer that is being recomputed
  supervised tokens              nothing is kept; during the loss, 2 x wide x vocabulary for each token
                                 of a chunk of 256

In the last layer, the MLP runs on supervised tokens only, so its part (`of_mlp`) is kept for those tokens only, unless
the layer is recomputed. Under bf16 autocast, each weight of a matrix multiplication also has a copy of 2 bytes per
number. The copies of all layers exist at once; only frozen layers that are recomputed have them one layer at a time.
Each trainable weight takes 4 bytes, its gradient 4 and AdamW's state 8. A quantized weight takes 1.0 bytes (8 bits) or
0.53 bytes (4 bits).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

from vistune.model.loss import CHUNK
from vistune.model.tower_shape import TowerShape
from vistune.planner.language_shape import LanguageShape, LinearMap
from vistune.planner.sizes import (
    HALF,
    WIDE,
    ModelSizes,
    RowSize,
    StageSetup,
    adapter_layers,
    parameters,
    tower_adapter_layers,
)
from vistune.recipe import Recipe

QUANTISED = {4: 0.5 + 1 / 64 + 4 / (64 * 256), 8: 1.0}  # bytes a weight: nf4 with twice quantised scales; int8

LONGEST_ROW = 1 << 18
PROCESS = 0.5e9  # resident memory of a process on a CPU before it loads a model: Python, libraries, tokenizer, index


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak, by use.

    Attributes:
        copies: Weights in bf16.
        gathered: Under FSDP, the complete weights of the layers that are in use.
        process: On a CPU, the process without its model.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    copies: float
    gathered: float
    process: float = 0.0

    @property
    def total(self) -> float:
        total: float = sum(asdict(self).values())
        return total


def memory(sizes: ModelSizes, setup: StageSetup, row: RowSize) -> Memory:
    """Compute one process's peak: at the end of a row's forward pass, or in the optimizer's step if that takes more."""
    counts = parameters(sizes, setup.lora)
    trainable = sum(counts[part] for part in setup.learn)
    share = setup.processes if setup.parallelism == "fsdp" else 1
    weights = WIDE * sum(counts.values()) - _saved_by_quantising(sizes.language, setup.quantize)
    weights -= (WIDE - HALF) * sum(_of_full_width(sizes, setup, part, counts[part]) for part in setup.bf16_parts)
    kept, logits = activations(sizes, setup, row), logit_bytes(sizes.language, setup, row)
    copies = bf16_copies(sizes, setup, row)
    gradients = WIDE * trainable / share
    # With several rows per step, the gradients of the first are in memory together with the activations of the last.
    # With one row, gradients come as activations go: the larger of the two counts. DDP's own copy of the gradients is
    # always in memory; the gradients of the last row are that copy.
    buckets = gradients if setup.parallelism == "ddp" else 0.0
    if row.rows == 1 and (buckets or gradients <= kept + logits + copies):
        gradients = 0.0
    elif row.rows == 1:
        kept = logits = copies = 0.0
    return Memory(
        weights=weights / share,
        gradients=gradients + buckets,
        optimizer=optimizer_bytes(sizes, setup) / share,
        activations=kept,
        logits=logits,
        copies=copies,
        gathered=_gathered(sizes, setup, counts) if setup.parallelism == "fsdp" else 0.0,
    )


def _saved_by_quantising(shape: LanguageShape, bits: int | None) -> float:
    return 0.0 if bits is None else shape.layers * shape.linear * (WIDE - QUANTISED[bits])


def _of_full_width(sizes: ModelSizes, setup: StageSetup, part: str, count: int) -> float:
    """Return how many numbers of a part are not quantised."""
    packed = part == "language" and setup.quantize is not None
    return count - sizes.language.layers * sizes.language.linear if packed else count


def optimizer_bytes(sizes: ModelSizes, setup: StageSetup) -> float:
    """Count the optimizer's state: two numbers per trainable one in AdamW, one per number of a matrix in Muon."""
    counts = parameters(sizes, setup.lora)
    total = 0.0
    for part in setup.learn:
        in_layers = {
            "language": sizes.language.layers * sizes.language.layer,
            "vision": sum(tower.kept * tower.layer for tower in sizes.towers),
        }
        matrices = in_layers.get(part, 0) if setup.optimizer == "muon" else 0
        total += 2 * WIDE * (counts[part] - matrices) + WIDE * matrices
    return total


def activations(sizes: ModelSizes, setup: StageSetup, row: RowSize) -> float:
    """Compute the bytes kept for a row's backward pass, and the temporary bytes at the peak."""
    d, tiles = sizes.language.width, row.tiles
    features = WIDE * tiles * sizes.slots * (sizes.vision_width + d * (2 * sizes.projector_layers - 1))
    pixels = tiles * 3 * max(tower.side for tower in sizes.towers) ** 2 * (1 + (WIDE if setup.reaches("vision") else 0))
    language = _stack(
        language_layer(sizes.language, setup), WIDE * d, sizes.language.layers, "language" in setup.recompute
    )
    ends = WIDE * 3 * d  # the embedded row, and the last norm's input and output
    recomputed = "vision" in setup.recompute
    tower = tiles * sum(
        each.tokens * _stack(tower_layer(each, setup), WIDE * each.hidden, each.kept, recomputed)
        for each in sizes.towers
        if setup.reaches("vision")
    )
    tower += tiles * inner_adapter_numbers(sizes, setup)
    inner = setup.narrow * 2 * sizes.language.inner  # gradients inside an MLP
    not_kept: float = 0.0
    transient: float = row.tokens * inner
    if "language" not in setup.recompute:
        # The peak is in the last MLP, or in the one before it after the last layer's activations are freed.
        not_kept = max(0, row.tokens - row.supervised) * of_mlp(sizes.language, setup)
        last = row.tokens * language_layer(sizes.language, setup) - not_kept
        transient = max(row.supervised * inner, row.tokens * inner - last)
    kept = row.tokens * (language + ends) - not_kept + features + pixels + tower
    frozen = (
        0.0
        if setup.reaches("vision")
        else tiles
        * max(each.tokens * (WIDE * 2 * each.hidden + setup.narrow * 4 * each.inner) for each in sizes.towers)
    )
    return max(kept + transient, frozen)


def _stack(layer: float, inputs: float, layers: int, recomputed: bool) -> float:
    return layers * inputs + layer if recomputed else layers * layer


def language_layer(shape: LanguageShape, setup: StageSetup) -> float:
    """Compute the bytes that one layer keeps per token."""
    d, i, q, k, narrow = shape.width, shape.inner, shape.query_width, shape.key_width, setup.narrow
    norms = WIDE * 2 + WIDE * shape.heads  # two inverse deviations; the attention's sums
    attention, mlp = 2 * q + 2 * k, 3 * i
    if "language" in setup.learn:
        return norms + WIDE * 4 * d + narrow * ((5 if setup.bf16 else 2) * d + attention + q + mlp + i)
    if setup.lora is None or "language" not in setup.lora.parts:
        return norms + WIDE * 2 * d + narrow * (attention + mlp)
    adapted = adapter_layers(shape, setup.lora)
    inputs = _kept_inputs(adapted, setup)
    ranks = setup.lora.rank * sum(linear.count for linear in adapted)
    masks = inputs * setup.mask_bytes if setup.lora.dropout > 0 else 0
    return norms + WIDE * 2 * d + narrow * (inputs + attention + mlp + ranks) + masks


# Maps with the same input, in the names of most models.
SHARING = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "gate_proj": "mlp", "up_proj": "mlp"}


def _kept_inputs(adapted: Sequence[LinearMap], setup: StageSetup) -> float:
    """Count the numbers that adapters keep of their inputs, per token.

    Maps that share an input keep it once in fp32; bf16 and dropout make a copy for each.
    """
    copied = setup.bf16 or (setup.lora is not None and setup.lora.dropout > 0)
    total, seen = 0.0, set()
    for linear in adapted:
        shared = SHARING.get(linear.name)
        if copied or shared is None or shared not in seen:
            total += linear.inside * linear.count
        seen.add(shared)
    return total


def of_mlp(shape: LanguageShape, setup: StageSetup) -> float:
    """Compute the bytes of `language_layer` that the last layer keeps per supervised token only."""
    d, i = shape.width, shape.inner
    if "language" in setup.learn:
        return setup.narrow * ((2 if setup.bf16 else 1) * d + 4 * i)
    if setup.lora is None or "language" not in setup.lora.parts:
        return setup.narrow * 3 * i
    adapted = [linear for linear in adapter_layers(shape, setup.lora) if not linear.attention]
    inputs = _kept_inputs(adapted, setup)
    ranks = setup.lora.rank * sum(linear.count for linear in adapted)
    masks = inputs * setup.mask_bytes if setup.lora.dropout > 0 else 0
    return setup.narrow * (inputs + 3 * i + ranks) + masks


def tower_layer(shape: TowerShape, setup: StageSetup) -> float:
    """Compute the bytes that one trained layer of the tower keeps per patch."""
    v, u = shape.hidden, shape.inner
    inner = (2 if shape.gelu else 3) * u
    sums = WIDE * 4 + WIDE * shape.heads
    return sums + WIDE * 2 * v + setup.narrow * ((8 if setup.bf16 else 6) * v + inner)


def inner_adapter_numbers(sizes: ModelSizes, setup: StageSetup) -> float:
    """Compute the bytes that adapters of towers and projector keep per tile: their inner states, and dropout's masks.

    Their inputs are counted with the layers.
    """
    lora = setup.lora
    if lora is None:
        return 0.0
    masks = setup.mask_bytes if lora.dropout > 0 else 0
    towers = sum(
        tower.tokens * (setup.narrow * lora.rank + masks * layer.inside)
        for tower, layers in zip(sizes.towers, tower_adapter_layers(sizes, lora), strict=True)
        for layer in layers
    )
    projector = sizes.projector_linears if "projector" in lora.parts else ()
    return towers + sizes.slots * sum(setup.narrow * lora.rank + masks * layer.inside for layer in projector)


def bf16_copies(sizes: ModelSizes, setup: StageSetup, row: RowSize) -> float:
    """Compute the bytes of the bf16 copies of weights. Recomputed frozen layers have them one layer at a time."""
    if not setup.bf16:
        return 0.0
    shape = sizes.language
    in_bf16 = "language" in setup.bf16_parts  # multiplied as stored: no copy
    head = 0.0 if in_bf16 else HALF * shape.embedding
    adapters = parameters(sizes, setup.lora).get("adapters", 0)
    linear = 0 if setup.quantize is not None or in_bf16 else shape.linear
    all_layers = (
        "language" not in setup.recompute or "language" in setup.learn
    )  # autocast keeps copies of trained weights
    language = HALF * (linear * (shape.layers if all_layers else 1) + adapters)
    tower = HALF * sum(each.layer * each.kept for each in sizes.towers) if setup.reaches("vision") else 0
    return head + language + tower + HALF * sizes.projector


def logit_bytes(shape: LanguageShape, setup: StageSetup, row: RowSize) -> float:
    """Compute the logits and log-probabilities of a chunk of supervised tokens, and the gradient of a trained head."""
    transient = 2 * WIDE * shape.vocabulary * min(row.supervised, CHUNK)
    return transient + (WIDE * shape.embedding if "language" in setup.learn else 0)


def _gathered(sizes: ModelSizes, setup: StageSetup, counts: dict[str, int]) -> float:
    """Under FSDP: two whole layers (in use, and next), the gradients of one, and the parameters outside of layers."""
    share = 1 - 1 / setup.processes
    largest = max(sizes.language.layer, *(tower.layer for tower in sizes.towers))
    in_layers = sizes.language.layers * sizes.language.layer
    in_layers += sum(tower.kept * tower.layer for tower in sizes.towers)
    outside = sum(counts.values()) - in_layers
    return share * WIDE * (3 * largest + outside)


def longest_row(sizes: ModelSizes, setup: StageSetup, row: RowSize, room: float) -> int:
    """Find the longest packed row that fits into `room` bytes, in steps of 256 tokens; 0 if none fits.

    Image tiles and supervised tokens grow in proportion.
    """

    def fits(tokens: int) -> bool:
        grown = replace(
            row,
            tokens=tokens,
            tiles=max(1, round(row.tiles * tokens / row.tokens)),
            supervised=round(row.supervised * tokens / row.tokens),
        )
        return memory(sizes, setup, grown).total <= room

    low, high = 0, LONGEST_ROW // 256
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(256 * middle) else (low, middle - 1)
    return 256 * low


def checkpoint_bytes(
    sizes: ModelSizes, recipe: Recipe, number: int, before: Collection[str] = ()
) -> tuple[float, float]:
    """Return the bytes of a checkpoint at the end of a stage and of one during it: all parts trained so far.

    A checkpoint within a stage contains AdamW's state too. Adapters become part of the language model when the next
    stage begins. `before`: parts that were trained before this recipe.
    """
    stage, earlier = recipe.stages[number], {part for each in recipe.stages[:number] for part in each.learn}
    merged = {part for each in recipe.stages[:number] if each.lora is not None for part in each.lora.parts}
    trained = (earlier - {"adapters"}) | merged | {"projector", *before, *stage.learn}
    counts = parameters(sizes, stage.lora)
    whole = 4.0 * sum(counts[part] for part in trained)
    return whole, whole + 8.0 * sum(counts[part] for part in stage.learn)
