"""Load any model folder as an `Assistant`. Or inspect, without loading weights, the folder that a recipe's `from`
names.

A folder is a run, a model folder of vistune, or a folder of another layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vistune.errors import RecipeError
from vistune.generation import Assistant
from vistune.interop import build, layouts
from vistune.interop.build import SourceModel, build_model
from vistune.model import VisionLanguageModel, read_spec
from vistune.model.kernel_caches import limit_kernel_caches
from vistune.model.part_adapters import part_of
from vistune.model.precision import resolve_device, resolve_dtype
from vistune.model.shapes import LanguageConfig, VisionConfig
from vistune.processor import Processor, default_template, load_tokenizer
from vistune.recipe import Model, Origin, Recipe, source_of
from vistune.runs import checkpoint
from vistune.runs.folder import find_model, fingerprint, is_vistune_folder
from vistune.types import Spec


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    template: str | None = None,
) -> Assistant:
    """Load a run folder, a model folder, or a folder of a layout that `import` reads.

    Args:
        model: The folder. For a run, the best checkpoint of its last finished stage is loaded, else its newest.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or one GPU such as `cuda:1`.
        dtype: `auto` (bf16 on a GPU, fp32 on a CPU), `fp32`, `bf16` or `fp16`.
        quantize: Load the language model's weights in 4 or 8 bits; tower, projector and head keep their precision.
        template: Chat template of a folder of another layout that does not name its own.
    """
    limit_kernel_caches()
    device = resolve_device(device)
    precision = resolve_dtype(dtype, device)
    path = Path(model)
    if is_vistune_folder(path):
        loaded = checkpoint.load(find_model(path), device=device, dtype=precision, quantize=quantize)
    else:
        loaded = layouts.load(path, device=device, dtype=precision, quantize=quantize, template=template)
    return Assistant(*loaded, source=str(path))


@dataclass(frozen=True, slots=True)
class ParentModel:
    """The model that a recipe's `from` names, without its weights.

    Attributes:
        origin: The `from` section that names exactly this model; for a run, the checkpoint that was chosen.
        recorded: Folder and checksum, written into every checkpoint of the run for `vistune why`.
        processor: The model's processor.
        model: The `model` section that a recipe would need for this model.
        cut: Whether its vision tower was trained and ends at the feature layer.
        adapted: Whether its language model has adapters, which are merged before training.
        folder: The model's folder. For another layout, the folder that `bring_in` writes.
        source: The contents of a folder of another layout; None for a vistune folder.
        adapted_inside: Which of tower and projector have adapters, which are merged before training.
    """

    origin: Origin
    recorded: Mapping[str, Any]
    processor: Processor
    model: Model
    cut: bool
    adapted: bool
    folder: Path
    source: SourceModel | None = None
    adapted_inside: frozenset[str] = frozenset()

    @property
    def trained_parts(self) -> set[str]:
        """Parts that every checkpoint of the run must store, because their weights exist nowhere else."""
        return ({"vision"} if self.cut else set()) | ({"language"} if self.adapted else set()) | self.adapted_inside

    @property
    def configs(self) -> tuple[Sequence[VisionConfig], LanguageConfig] | None:
        """transformers' configs of tower and language model, for another layout."""
        return None if self.source is None else ([self.source.vision], self.source.language)

    def bring_in(self) -> Path:
        """Return the vistune folder. A model of another layout is converted first, even if the folder exists."""
        if self.source is not None:
            from vistune.interop.export import import_model

            import_model(self.origin.model, self.folder, **_outside(self.origin))
        return self.folder

    def build_empty(self) -> VisionLanguageModel:
        """Build the model on torch's meta device, with all its checks and without weights."""
        if self.source is not None:
            source = replace(self.source, vision=deepcopy(self.source.vision))  # building changes the config
            return build_model(source, torch.float32, meta=True)
        return checkpoint.load_empty(self.folder)


def inspect_parent(origin: Origin, out: Path) -> ParentModel:
    """Read configs and tokenizer of the model that `from` names.

    For a run, it is the checkpoint that is newest or best at the time of this call. A model of another layout is
    converted into `out`/from when training begins. Raises CheckpointError or RecipeError if the folder is not a model,
    or if `base`, `vision` or `template` is given but not needed.
    """
    if origin.model.exists() and is_vistune_folder(origin.model):
        parent = _inspect_vistune(origin)
    else:
        parent = _inspect_other_layout(origin, out)
    if origin.image_mode is None:
        return parent
    return replace(
        parent,
        processor=parent.processor.with_image_mode(origin.image_mode),
        model=parent.model.model_copy(update={"image_mode": origin.image_mode}),
    )


def _outside(origin: Origin) -> dict[str, Any]:
    """Return the settings that only folders of other layouts need."""
    return {"base": origin.base, "vision": origin.vision, "template": origin.template}


def _inspect_vistune(origin: Origin) -> ParentModel:
    if any(_outside(origin).values()):
        raise RecipeError(f"from: {origin.model} is a complete model", "remove base, vision and template")
    folder = find_model(origin.model)
    processor = Processor.load(folder / "tokenizer")
    towers, language = checkpoint.backbones_of(folder)
    return ParentModel(
        origin=Origin(model=folder, image_mode=origin.image_mode),
        recorded=fingerprint(folder),
        processor=processor,
        model=model_section(processor.spec, towers, language),
        cut=checkpoint.backbone_of(folder, "vision")[1],
        adapted=bool(checkpoint.read_parts(folder)["adapter"]),
        folder=folder,
        adapted_inside=frozenset(map(part_of, checkpoint.read_parts(folder).get("inner_adapters", {}))),
    )


def _inspect_other_layout(origin: Origin, out: Path) -> ParentModel:
    source = layouts.read_source(origin.model, **_outside(origin))
    folder = out / "from"
    return ParentModel(
        origin=origin,
        recorded=fingerprint(source.folder),  # for a hub name, the snapshot that was fetched
        processor=build.source_processor(source),
        model=model_section(source.spec, [str(folder / "vision")], str(folder / "language")),
        cut=False,
        adapted=source.adapt is not None,
        folder=folder,
        source=source,
    )


def recipe_processor(recipe: Recipe, parent: ParentModel | None = None) -> Processor:
    """Return the processor of a recipe's model, or of the model that its `from` names; no weights are loaded."""
    if parent is not None:
        return parent.processor
    tokenizer = load_tokenizer(source_of(recipe.model.language, "language"))
    return Processor(tokenizer, read_spec(with_template(recipe.model, default_template(tokenizer))))


def with_template(model: Model, template: str) -> Model:
    """Return a recipe's `model` section with this template if it names none."""
    return model if model.template else model.model_copy(update={"template": template})


def as_resolved(model: Model, spec: Spec) -> Model:
    """Return a recipe's `model` section with the template and the image mode that its spec has."""
    return model.model_copy(update={"template": model.template or spec.template, "image_mode": spec.image_mode})


def model_section(spec: Spec, towers: Sequence[str], language: str) -> Model:
    """Return a recipe's `model` section for a spec and the backbones' folders."""
    keys = (
        "projector",
        "feature_layer",
        "feature_tokens",
        "feature_norm",
        "space",
        "image_mode",
        "template",
        "tokenization",
    )
    return Model(
        vision=towers[0] if len(towers) == 1 else (towers[0], towers[1]),
        language=language,
        canvases=spec.canvases or None,
        **{key: getattr(spec, key) for key in keys},
    )
