"""Build a model from tensors by part. Nothing is initialised first, and no second copy is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from vistune.errors import CheckpointError
from vistune.interop.folders import Parts
from vistune.model import VisionLanguageModel, build_projector
from vistune.model.language import attention_for, quantization, ready
from vistune.model.lora import misfits
from vistune.model.peft_folder import LazyTensor
from vistune.model.quiet import without_bars
from vistune.model.shapes import ConfigLike, LanguageConfig, VisionConfig
from vistune.model.tower_shape import tower_class
from vistune.model.trial import require_supported
from vistune.model.vision import VisionTower
from vistune.processor import Processor, TokenizerLike
from vistune.types import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SourceModel:
    """The contents of a model folder in another layout.

    Attributes:
        layout: The layout's name.
        folder: The folder.
        spec: The model's spec.
        tokenizer: Its tokenizer.
        vision: transformers' config of the tower.
        language: transformers' config of the language model.
        parts: Its tensors.
        tower: The tower's folder or hub name, if the layout does not contain the tower.
        tower_inside: Whether the folder contains the tower's weights.
        adapt: Puts adapters on the language model.
        tuned: The file with the trained projector of a LoRA training.
        remarks: Keys or tensors that have no effect, or an unexpected one.
    """

    layout: str
    folder: Path
    spec: Spec
    tokenizer: TokenizerLike
    vision: VisionConfig
    language: LanguageConfig
    parts: Parts
    tower: str | None = None
    tower_inside: bool = True
    adapt: Callable[[nn.Module], nn.Module] | None = None
    tuned: Path | None = None
    remarks: tuple[str, ...] = ()


def build_model(
    source: SourceModel, dtype: torch.dtype, quantize: int | None = None, *, meta: bool = False
) -> VisionLanguageModel:
    """Build the model with the source's weights, each read once.

    Args:
        quantize: Bits of the language model, 4 or 8.
        meta: Do not load weights and adapters, but check them in the same way.

    Raises CheckpointError if tensors do not fit.
    """
    spec, parts, location = source.spec, source.parts, str(source.folder)
    tower = VisionTower(load_tower_tensors(source, dtype, meta=meta), spec)
    require_supported(source.language, location)
    settings = PartSettings(dtype, location, quantize, meta)
    language = load_part(causal_class(source.language), source.language, parts["language"], settings)
    if source.adapt is not None and not meta:
        language = source.adapt(language)
    with torch.device("meta"):
        projector = build_projector(spec, seed=0)
    fit_tensors(dict(projector.state_dict()), parts["projector"], f"{location}: projector")
    projector.load_state_dict({name: t[...].to(dtype) for name, t in parts["projector"].items()}, assign=True)
    model = VisionLanguageModel(tower, projector, language, spec)
    if model.newline is not None:
        if "newline" not in parts["newline"]:
            raise CheckpointError(
                f"{location}: the config says anyres, but the weights have no image_newline", "name a LLaVA 1.6 model"
            )
        with torch.no_grad():
            model.newline.copy_(parts["newline"]["newline"][...])
    return model.eval()


def source_processor(source: SourceModel) -> Processor:
    """Return the source's processor. Raises CheckpointError if its tokenizer gives ids outside the vocabulary."""
    tokenizer, rows = source.tokenizer, source.spec.vocabulary
    # Special tokens may have larger ids (Gemma 3's soft image token does): no text becomes one.
    added = [number for number, token in tokenizer.added_tokens_decoder.items() if not token.special]
    last = max([tokenizer.vocab_size - 1, *added])
    if last >= rows:
        raise CheckpointError(
            f"{source.folder}: its tokenizer gives ids up to {last}, its language model has {rows} embeddings",
            "restore the tokenizer with which the model was trained",
        )
    return Processor(tokenizer, source.spec)


def load_tower_tensors(source: SourceModel, dtype: torch.dtype, *, meta: bool = False) -> nn.Module:
    """Load the whole tower as transformers' class; VisionTower cuts it."""
    settings = PartSettings(dtype, f"{source.folder}: vision tower", meta=meta)
    return load_part(tower_class(source.vision, "hidden"), source.vision, source.parts["vision"], settings)


def causal_class(config: LanguageConfig) -> type[PreTrainedModel]:
    """Return transformers' class of causal language model for a config."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    causal: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return causal


@dataclass(frozen=True, slots=True)
class PartSettings:
    """How to load a part: precision, its name in messages, bits if quantized, and whether only to check its tensors."""

    dtype: torch.dtype
    location: str
    quantize: int | None = None
    meta: bool = False


@without_bars()
def load_part(
    kind: type[PreTrainedModel], config: ConfigLike, tensors: Mapping[str, LazyTensor], settings: PartSettings
) -> nn.Module:
    """Load a transformers model of class `kind` from exactly these tensors. Raises CheckpointError if they misfit."""
    with torch.device("meta"):
        empty: nn.Module = kind(config)
    expected = empty.state_dict()
    tied = {"lm_head.weight"} if getattr(config, "tie_word_embeddings", False) else set()
    optional = tied | {name for name in expected if name.startswith("head.")}
    fit_tensors(expected, tensors, settings.location, optional=optional)
    if settings.meta:
        return empty
    is_language = hasattr(config, "vocab_size")
    attention = attention_for(cast(LanguageConfig, config)) if is_language else None  # a tower's own default
    quantized = (
        {} if settings.quantize is None else {"quantization_config": quantization(settings.quantize, settings.dtype)}
    )
    model: nn.Module = kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(tensors),
        dtype=settings.dtype,
        attn_implementation=attention,
        **quantized,
    )
    return ready(model, settings.location) if is_language else model


def fit_tensors(
    expected: Mapping[str, torch.Tensor],
    given: Mapping[str, LazyTensor],
    location: str,
    *,
    optional: Collection[str] = (),
) -> None:
    """Raise CheckpointError naming, at most ten each, tensors that are missing, unexpected or of another shape."""
    if faults := misfits(expected, given, optional):
        raise CheckpointError(f"{location}: tensors {faults}", "name a folder whose config and weights belong together")
