"""Sizes of a model, of a stage's set-up, and of the rows that a stage reads.

configs -> ModelSizes; a recipe's stage -> StageSetup; planned stage -> Load (assumed if the data is not on this
machine)
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from vistune.model.language import unwrap
from vistune.model.lora import chosen_layers, linear_layers
from vistune.model.part_adapters import tower_targets
from vistune.model.projectors import projector_named
from vistune.model.shapes import (
    LanguageConfig,
    VisionConfig,
    config_of,
)
from vistune.model.tower_shape import TowerShape, as_config, describe_tower, layers_in, tower_class
from vistune.model.vision import specs_of_towers
from vistune.model.vlm import fused_spec, rules_at_hand, spec_of, tower_sources
from vistune.planner.language_shape import LanguageShape, LinearMap, language_shape, transformers_config
from vistune.recipe import Lora, Model, Recipe, Stage
from vistune.types import Spec

if TYPE_CHECKING:
    from vistune.data.stages import PlannedStage
    from vistune.model import VisionLanguageModel

WIDE = 4
HALF = 2  # bytes of a number in bf16
SAMPLE_TEXT, SAMPLE_SUPERVISED = 200, 100  # text tokens of an assumed sample, and the supervised ones of them

Parallelism = Literal["single", "ddp", "fsdp"]


class LinearLayer(NamedTuple):
    """A linear layer: its full name, the widths of its input and output, and whether it is inside attention."""

    name: str
    inside: int
    outside: int
    attention: bool


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """A model known by its sizes.

    Attributes:
        projector: Number of the projector's parameters.
        projector_linears: Its linear layers.
        tower_linears: Linear layers of each tower.
        vision_width: Width of the tower's features.
        slots: Image slots per tile.
    """

    towers: tuple[TowerShape, ...]
    language: LanguageShape
    projector: int
    projector_linears: tuple[LinearLayer, ...]
    vision_width: int
    slots: int
    tower_linears: tuple[tuple[LinearLayer, ...], ...]

    @property
    def projector_layers(self) -> int:
        """Number of the projector's linear layers."""
        return len(self.projector_linears)


@dataclass(frozen=True, slots=True)
class RowSize:
    """The size of a packed row; `rows`: how many rows a process has in a step."""

    tokens: int
    tiles: int
    supervised: int
    rows: int = 1


@dataclass(frozen=True, slots=True)
class StageSetup:
    """The settings of a stage that decide its memory and time.

    Attributes:
        learn: The trained parts.
        bf16: Whether it multiplies in bf16.
        processes: Number of processes. `parallelism` says whether each keeps the whole model or a share.
        bf16_parts: Parts whose frozen weights are stored in bf16.
        on_gpu: Whether it runs on a GPU.
    """

    learn: tuple[str, ...]
    lora: Lora | None = None
    quantize: int | None = None
    recompute: tuple[str, ...] = ()
    optimizer: str = "adamw"
    bf16: bool = False
    parallelism: Parallelism = "single"
    processes: int = 1
    bf16_parts: tuple[str, ...] = ()
    on_gpu: bool = False

    def reaches(self, part: str) -> bool:
        """Return whether weights or adapters of a part are trained, so that gradients pass through it."""
        return part in self.learn or (self.lora is not None and part in self.lora.parts)

    @property
    def narrow(self) -> int:
        """Bytes per number that a linear layer, an attention or an activation function keeps."""
        return HALF if self.bf16 else WIDE

    @property
    def mask_bytes(self) -> int:
        """Bytes that dropout keeps per number: 1 on CUDA (a mask), elsewhere the bytes of a stored factor."""
        return 1 if self.on_gpu else WIDE


def setup_of(stage: Stage, *, bf16: bool, on_gpu: bool = False) -> StageSetup:
    """Take the settings of a recipe's stage that decide its memory and time, for a single process."""
    return StageSetup(
        learn=tuple(stage.learn),
        lora=stage.lora,
        quantize=stage.quantize,
        recompute=stage.recompute,
        optimizer=stage.optimizer,
        bf16=bf16,
        on_gpu=on_gpu,
    )


def sizes_of(
    model: Model,
    configs: tuple[Sequence[VisionConfig], LanguageConfig] | None = None,
    *,
    cut: bool = False,
    spec: Spec | None = None,
) -> tuple[ModelSizes, Spec]:
    """Compute a recipe's model sizes from configs only. Raises RecipeError if a config is not on this machine.

    Args:
        configs: The towers' and the language model's, if they are not in separate folders.
        cut: Whether the tower already ends at the feature layer.
        spec: The model's spec if it is known. Default: read from the backbones' files.
    """
    names = [name for part, name in model.backbones.items() if part != "language"]
    visions, text = configs or (
        [config_of(name, "vision") for name in names],
        transformers_config(config_of(model.language, "language")),
    )
    language = language_shape(text)
    spec = spec or spec_without_weights(model, visions, text, cut=cut)
    towers = tuple(tower_of(vision, own, cut=cut) for vision, own in zip(visions, specs_of_towers(spec), strict=True))
    with torch.device("meta"):
        projector = projector_named(model.projector).build(spec.vision_width, language.width)
    count = sum(p.numel() for p in projector.parameters()) + (language.width if model.image_mode == "anyres" else 0)
    linears = tuple(
        _linears_of_tower(vision, own, cut=cut) for vision, own in zip(visions, specs_of_towers(spec), strict=True)
    )
    sizes = ModelSizes(towers, language, count, _linears(projector), spec.vision_width, spec.slots_per_image, linears)
    return sizes, spec


def _linears(module: nn.Module) -> tuple[LinearLayer, ...]:
    layers = [(name, cast(nn.Linear, module.get_submodule(name)), a) for name, a in linear_layers(module).items()]
    return tuple(LinearLayer(name, layer.in_features, layer.out_features, a) for name, layer, a in layers)


def _linears_of_tower(vision: VisionConfig, spec: Spec, *, cut: bool) -> tuple[LinearLayer, ...]:
    """Return the linear layers of a tower that ends at its feature layer."""
    from vistune.model.vision import VisionTower

    config = deepcopy(as_config(vision))  # building the tower changes it
    with torch.device("meta"):
        return _linears(VisionTower(tower_class(config, spec.space)(config), spec, cut=cut).tower)


def sizes_of_loaded(model: Model, loaded: VisionLanguageModel) -> tuple[ModelSizes, Spec]:
    """Compute the sizes of a model in memory. Raises RecipeError if it cannot be planned."""
    towers = [tower.tower.config for tower in loaded.vision.towers]
    return sizes_of(model, (towers, unwrap(loaded.language).config), cut=True, spec=loaded.spec)


def tower_of(vision: VisionConfig, spec: Spec, *, cut: bool = False) -> TowerShape:
    """Describe the tower that a spec needs, with its final norm and its projection if they are used."""
    tower = describe_tower(vision, layers_in(vision, spec.feature_layer, spec.image_side, cut=cut), spec.image_side)
    norm = tower.norm_parameters if spec.space == "joint" or spec.feature_norm == "tower" else 0
    projection = spec.vision_width * tower.hidden if spec.space == "joint" else 0
    return replace(tower.padded_to(spec.patch_budget), parameters=tower.parameters + norm + projection)


def spec_without_weights(
    model: Model, visions: Sequence[VisionConfig], language: LanguageConfig | SimpleNamespace, *, cut: bool = False
) -> Spec:
    """Return the spec of a model from the files on this machine; nothing is downloaded.

    Without an image processor, images have the size of the tower's config. `cut`: see `sizes_of`.
    """
    specs = []
    for vision, source in zip(visions, tower_sources(model), strict=True):
        rules = rules_at_hand(source)
        layers = layers_in(vision, model.feature_layer, rules.get("image_side"), cut=cut)
        here = model.model_copy(update={"feature_layer": layers})
        specs.append(spec_of(here, vision, language.hidden_size, language.vocab_size, rules))
    return replace(fused_spec(model, specs), feature_layer=model.feature_layer)


def adapter_layers(shape: LanguageShape, lora: Lora) -> list[LinearMap]:
    """Return the linear maps of the language model's layers that get adapters.

    A longer end of a name, such as `layers.0.self_attn.q_proj`, counts as the layer of this name in each layer. Raises
    RecipeError if a pattern of `lora.targets` matches no linear map.
    """
    if "language" not in lora.parts:
        return []
    patterns = None if lora.targets is None else tuple(target.rsplit(".", 1)[-1] for target in lora.targets)
    numbered = {f"{k}.{linear.name}": linear for k, linear in enumerate(shape.maps) if linear.adaptable}
    names = chosen_layers({name: linear.attention for name, linear in numbered.items()}, patterns, "language model")
    return [numbered[name] for name in names]


def adapter_size(layer: LinearLayer, lora: Lora) -> int:
    """Return the number of parameters of a layer's adapters."""
    return lora.rank * (layer.inside + layer.outside) + (layer.outside if lora.dora else 0)


def tower_adapter_layers(sizes: ModelSizes, lora: Lora) -> list[list[LinearLayer]]:
    """Return the layers of each tower that get adapters.

    Raises RecipeError if `lora` names the tower, and none of its layers.
    """
    if "vision" not in lora.parts:
        return [[] for _ in sizes.tower_linears]
    named = [{layer.name: layer for layer in layers} for layers in sizes.tower_linears]
    inside = [{name: layer.attention for name, layer in layers.items()} for layers in named]
    targets = tower_targets(inside, lora)
    return [[layers[name] for name in names] for layers, names in zip(named, targets, strict=True)]


def inner_adapter_layers(sizes: ModelSizes, lora: Lora) -> list[LinearLayer]:
    """Return the layers of towers and projector that get adapters."""
    towers = [layer for layers in tower_adapter_layers(sizes, lora) for layer in layers]
    return [*towers, *(sizes.projector_linears if "projector" in lora.parts else ())]


def parameters(sizes: ModelSizes, lora: Lora | None = None) -> dict[str, int]:
    """Count the parameters of each part that a recipe's `learn` can name."""
    adapters = 0.0
    if lora is not None:
        for linear in adapter_layers(sizes.language, lora):
            each = lora.rank * (linear.inside + linear.outside) + (linear.outside if lora.dora else 0)
            adapters += sizes.language.layers * linear.count * each
        adapters += sum(adapter_size(layer, lora) for layer in inner_adapter_layers(sizes, lora))
    counts = {
        "vision": sum(tower.parameters for tower in sizes.towers),
        "projector": sizes.projector,
        "language": sizes.language.parameters,
        "adapters": round(adapters),
    }
    return {part: count for part, count in counts.items() if count or part != "adapters"}


@dataclass(frozen=True, slots=True)
class Load:
    """Totals over all steps of a stage.

    Attributes:
        worst: The packed row that takes most memory.
        steps: None if it is unknown.
        pairs: Pairs of a token with itself and with each one before it in its document.
        assumed: How the numbers were assumed; "" if they were counted in the data.
    """

    worst: RowSize
    steps: int | None
    samples: int
    tokens: float
    pairs: float
    supervised: float
    tiles: float
    assumed: str = ""


class SampleSizes(NamedTuple):
    """Arrays with one value per sample. With anyres, the number of tiles is estimated from the slots.

    With NaFlex, every image is one tile, which the tower pads to the most patches.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    tiles: np.ndarray


def sample_sizes(planned: PlannedStage) -> SampleSizes:
    """Read the sizes of a stage's samples from their index."""
    parts, spec = planned.samples.parts, planned.processor.spec
    tokens = np.concatenate([index.lengths[rows] for index, rows in parts])
    supervised = np.concatenate([index.columns["supervised"][rows] for index, rows in parts])
    if spec.image_mode == "naflex":
        images = np.concatenate([index.columns["images"][rows] for index, rows in parts])
        return SampleSizes(tokens, supervised, images.astype(int))
    text = np.concatenate([index.columns["text_tokens"][rows] for index, rows in parts])
    return SampleSizes(tokens, supervised, np.ceil((tokens - text) / spec.slots_per_image).astype(int))


def load_of(planned: PlannedStage) -> Load:
    """Count what a planned stage reads."""
    sizes = sample_sizes(planned)
    times = np.bincount(samples_in_order(planned), minlength=len(sizes.tokens))
    rows = _row_sizes(planned)
    tokens, supervised, tiles = (int(value) for value in rows[_largest(rows)])
    return Load(
        worst=RowSize(tokens, max(1, tiles), supervised, max(map(len, planned.plan.steps))),
        steps=len(planned.plan.steps),
        samples=int(times.sum()),
        tokens=float((times * sizes.tokens).sum()),
        pairs=float((times * sizes.tokens.astype(float) * (sizes.tokens + 1) / 2).sum()),
        supervised=float((times * sizes.supervised).sum()),
        tiles=float((times * sizes.tiles).sum()),
    )


def largest_row(planned: PlannedStage) -> tuple[int, int]:
    """Return (step, row in the step) of the row that takes most memory: `load_of`'s worst."""
    index = _largest(_row_sizes(planned))
    ends = np.cumsum([len(rows) for rows in planned.plan.steps])
    step = int(np.searchsorted(ends, index, side="right"))
    return step, index - int(ends[step]) + len(planned.plan.steps[step])


def _largest(rows: np.ndarray) -> int:
    """Return the index of a row that is long and has many supervised tokens."""
    tokens, supervised, _ = rows.max(axis=0)
    return int((rows[:, 0] / tokens + rows[:, 1] / max(supervised, 1)).argmax())


def samples_in_order(planned: PlannedStage) -> np.ndarray:
    """Return the indices of the samples of all rows of all steps."""
    rows = chain.from_iterable(planned.plan.steps)
    return np.fromiter(chain.from_iterable(rows), np.int64)


def _row_sizes(planned: PlannedStage) -> np.ndarray:
    """Return (rows, 3): tokens, supervised tokens and tiles of each row of all steps."""
    ends = np.cumsum([len(row) for row in chain.from_iterable(planned.plan.steps)])
    begins = np.concatenate([[0], ends[:-1]])
    samples = samples_in_order(planned)
    return np.stack([np.add.reduceat(column[samples], begins) for column in sample_sizes(planned)], axis=1)


def data_is_there(recipe: Recipe) -> bool:
    """Return whether every stage's files can be read here, so that rows are counted and not assumed."""

    def is_there(stage: Stage) -> bool:
        if stage.shards is not None:
            return all("://" not in name for name in stage.shards.files)
        sources = stage.data if stage.data is not None else recipe.data
        return bool(sources) and all(source.file.exists() for source in sources)

    return all(is_there(stage) for stage in recipe.stages)


def load_of_shards(planned: PlannedStage, folder: Path) -> Load:
    """Assume that all shards are like the first one, which is fetched into the folder."""
    from vistune.data.stages import with_first_shard

    assert planned.stream is not None
    first, steps = load_of(with_first_shard(planned, folder)), planned.stream.steps
    times = steps / (first.steps or 1)
    return replace(
        first,
        steps=steps,
        samples=round(first.samples * times),
        tokens=first.tokens * times,
        pairs=first.pairs * times,
        supervised=first.supervised * times,
        tiles=first.tiles * times,
        assumed="rows as in the first shard",
    )


def assumed_load(stage: Stage, spec: Spec, samples: int | None) -> Load:
    """Assume full rows, of samples with one image (with anyres, the middle canvas) and 200 tokens of text."""
    slots, tiles = spec.slots_per_image, 1
    if spec.image_mode == "anyres":
        canvas = sorted(width * height for width, height in spec.canvases)[len(spec.canvases) // 2]
        tiles = 1 + canvas // spec.image_side**2
        slots *= tiles
    length = min(slots + SAMPLE_TEXT, stage.tokens_per_row)
    samples_per_row = max(1, stage.tokens_per_row // length)
    per_step = stage.samples_per_step if stage.tokens_per_step is None else max(1, stage.tokens_per_step // length)
    steps = stage.steps
    if steps is None and samples is not None:
        steps = max(1, round((stage.epochs or 1) * -(-samples // per_step)))
    seen = (steps or 1) * per_step
    return Load(
        worst=RowSize(
            samples_per_row * length,
            samples_per_row * tiles,
            samples_per_row * SAMPLE_SUPERVISED,
            max(1, -(-per_step // samples_per_row)),
        ),
        steps=steps,
        samples=seen,
        tokens=float(seen * length),
        pairs=seen * length * (length + 1) / 2,
        supervised=float(seen * SAMPLE_SUPERVISED),
        tiles=float(seen * tiles),
        assumed=f"samples with one image ({slots} tokens) and {SAMPLE_TEXT} tokens of text, "
        f"{SAMPLE_SUPERVISED} of them supervised",
    )
