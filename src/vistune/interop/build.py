"""A model from tensors by part: nothing is initialised first, no second copy is made.

Source (spec, configs, tensors by part) -> VisionLanguageModel
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vistune.errors import CheckpointError, some
from vistune.interop.tensors import LazyTensor, Parts, load_tensor
from vistune.model import VisionLanguageModel, build_projector
from vistune.model.attention import register
from vistune.model.language import quantization, require_supported
from vistune.model.vision import VisionTower, tower_class
from vistune.processor import Processor
from vistune.types import Spec


@dataclass(frozen=True)
class SourceModel:
    """The contents of a model folder in another layout.

    - `parts`: its tensors
    - `vision`, `language`: transformers' configs
    - `tower`: the tower's folder or hub name, if the layout does not contain the tower
    - `adapt`: puts adapters on the language model
    - `tuned`: the file with the trained projector of a LoRA training
    - `remarks`: keys or tensors that have no effect, or an unexpected one
    """

    layout: str
    folder: Path
    spec: Spec
    tokenizer: Any
    vision: Any
    language: Any
    parts: Parts
    tower: str | None = None
    tower_inside: bool = True
    adapt: Callable[[nn.Module], nn.Module] | None = None
    tuned: Path | None = None
    remarks: tuple[str, ...] = ()


def build_model(
    source: SourceModel, dtype: torch.dtype, quantize: int | None = None, *, meta: bool = False
) -> VisionLanguageModel:
    """The model with the source's weights, each read once; `quantize`: bits of the language model, 4 or 8.

    `meta`: do not load weights and adapters, but check them in the same way.
    Raises CheckpointError with the tensors that do not fit.
    """
    spec, parts, place = source.spec, source.parts, str(source.folder)
    tower = VisionTower(load_tower_tensors(source, dtype, meta=meta), spec)
    require_supported(source.language, place)
    kind = causal_class(source.language)
    language = load_part(kind, source.language, parts["language"], dtype, place, quantize, meta=meta)
    if source.adapt is not None and not meta:
        language = source.adapt(language)
    with torch.device("meta"):
        projector = build_projector(spec, seed=0)
    fit_tensors(dict(projector.state_dict()), parts["projector"], f"{place}: projector")
    projector.load_state_dict({name: load_tensor(t).to(dtype) for name, t in parts["projector"].items()}, assign=True)
    model = VisionLanguageModel(tower, projector, language, spec)
    if model.newline is not None:
        if "newline" not in parts["newline"]:
            raise CheckpointError(f"{place}: anyres without image_newline", "name a LLaVA 1.6 model")
        with torch.no_grad():
            model.newline.copy_(load_tensor(parts["newline"]["newline"]))
    return model.eval()


def source_processor(source: SourceModel) -> Processor:
    """The source's processor. Raises CheckpointError where its tokenizer gives ids that the model has no rows for."""
    tokenizer, rows = source.tokenizer, source.spec.vocabulary
    # Special tokens may lie behind the vocabulary (Gemma 3's soft image token does): no text becomes one.
    words = [number for number, token in tokenizer.added_tokens_decoder.items() if not token.special]
    last = max([tokenizer.vocab_size - 1, *words])
    if last >= rows:
        raise CheckpointError(
            f"{source.folder}: its tokenizer gives ids up to {last}, its language model has {rows} rows",
            "put the tokenizer back that the model was trained with",
        )
    return Processor(tokenizer, source.spec)


def load_tower_tensors(source: SourceModel, dtype: torch.dtype, *, meta: bool = False) -> nn.Module:
    """The whole tower as transformers' class; VisionTower cuts it."""
    place = f"{source.folder}: vision tower"
    return load_part(
        tower_class(source.vision, "hidden"), source.vision, source.parts["vision"], dtype, place, meta=meta
    )


def causal_class(config: Any) -> Any:
    """transformers' causal language model for a config."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def load_part(
    kind: Any,
    config: Any,
    tensors: Mapping[str, LazyTensor],
    dtype: torch.dtype,
    place: str,
    quantize: int | None = None,
    *,
    meta: bool = False,
) -> nn.Module:
    """A transformers model of `config` with exactly these tensors, its linear layers in `quantize` bits if given.

    `meta`: check that the tensors fit, but do not load them.
    """
    with torch.device("meta"):
        empty: Any = kind(config)
    wanted = dict(empty.state_dict())
    tied = {"lm_head.weight"} if getattr(config, "tie_word_embeddings", False) else set()
    fit_tensors(wanted, tensors, place, optional=tied | {name for name in wanted if name.startswith("head.")})
    if meta:
        made: nn.Module = empty
        return made
    attention = register() if hasattr(empty, "lm_head") else "sdpa"
    settings = {} if quantize is None else {"quantization_config": quantization(quantize, dtype)}
    model: nn.Module = kind.from_pretrained(
        None, config=config, state_dict=dict(tensors), dtype=dtype, attn_implementation=attention, **settings
    )
    return model


def fit_tensors(
    wanted: Mapping[str, torch.Tensor], given: Mapping[str, LazyTensor], place: str, *, optional: set[str] | None = None
) -> None:
    """Raise CheckpointError naming, at most ten each, tensors that are missing, too many or of another shape."""
    missing = wanted.keys() - given.keys() - (optional or set())
    extra = given.keys() - wanted.keys()
    shapes = [
        f"{name} {shape_of(given[name])} where {tuple(wanted[name].shape)} is wanted"
        for name in wanted.keys() & given.keys()
        if shape_of(given[name]) != tuple(wanted[name].shape)
    ]
    faults = [
        f"{what}: {some(found)}"
        for what, found in (("missing", missing), ("not of this model", extra), ("of another shape", shapes))
        if found
    ]
    if faults:
        raise CheckpointError(f"{place}: tensors {'; '.join(faults)}", "the folder's config and weights do not fit")


def shape_of(tensor: LazyTensor) -> tuple[int, ...]:
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)
