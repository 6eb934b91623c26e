"""Sizes of a language model, counted on the model that transformers builds on torch's meta device.

config -> the model without weights -> LanguageShape
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from torch import nn

from vistune.errors import RecipeError, reason_of
from vistune.model.shapes import LanguageConfig
from vistune.model.trial import ConfigKey, decoder_of, meta_model


@dataclass(frozen=True, slots=True)
class LinearMap:
    """A linear map inside the layers.

    Attributes:
        name: The last part of its module's name.
        inside: Width of its input.
        outside: Width of its output.
        count: How many of them a layer has, on average.
        active: Number that a token passes: the experts that it is routed to.
        attention: Whether it is inside an attention module.
        adaptable: Whether it is an nn.Linear, which can get adapters.
    """

    name: str
    inside: int
    outside: int
    count: float
    active: float
    attention: bool
    adaptable: bool = True

    @property
    def size(self) -> int:
        """Number of weights of one of them."""
        return self.inside * self.outside


@dataclass(frozen=True, slots=True)
class LanguageShape:
    """Sizes of a decoder.

    Attributes:
        width: Width of hidden states.
        inner: Width of a gated MLP with as many weights as a token passes outside of attention.
        layers: Number of layers.
        query_width: Heads times the width of a head.
        key_width: Key heads times the width of a head.
        parameters: Number in the whole model, tied ones once.
        layer: Parameters of a layer, on average.
        maps: The linear maps of the layers.
    """

    width: int
    inner: int
    layers: int
    query_width: int
    key_width: int
    heads: int
    vocabulary: int
    parameters: int
    layer: float
    maps: tuple[LinearMap, ...]

    @property
    def linear(self) -> float:
        """Number of weights of a layer's linear maps."""
        return sum(linear.count * linear.size for linear in self.maps)

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.width


def language_shape(config: LanguageConfig | SimpleNamespace) -> LanguageShape:
    """Return the sizes of a causal language model. Raises RecipeError if transformers cannot build one."""
    return _shape(ConfigKey(transformers_config(config)))


def transformers_config(config: LanguageConfig | SimpleNamespace) -> LanguageConfig:
    """Return transformers' config for the contents of a config.json, or for its text model if it is multimodal."""
    from transformers import AutoConfig

    if not isinstance(config, SimpleNamespace):
        return config
    kind = getattr(config, "model_type", "")
    try:
        whole: LanguageConfig = AutoConfig.for_model(**vars(config))
        return whole.get_text_config()
    except Exception as error:  # an unknown type, or entries that do not fit: transformers raises many types
        raise RecipeError(
            f"language models of type {kind!r} cannot be planned: {reason_of(error)}",
            "use a causal language model of transformers",
        ) from None


@cache
def _shape(key: ConfigKey) -> LanguageShape:
    config: Any = key.config
    try:
        model = meta_model(config)
    except Exception as error:  # as above
        raise RecipeError(
            f"language models of type {config.model_type!r} cannot be planned: {reason_of(error)}",
            "use a causal language model of transformers",
        ) from None
    layers = layers_of_decoder(decoder_of(model))
    maps = _linear_maps(layers, int(getattr(config, "num_experts_per_tok", None) or 1))
    width, heads = int(config.hidden_size), int(getattr(config, "num_attention_heads", None) or 0)
    head = int(getattr(config, "head_dim", None) or (width // heads if heads else 0))
    query, key_width = heads * head, int(getattr(config, "num_key_value_heads", None) or heads) * head
    outside = sum(m.active * m.size for m in maps if not m.attention)
    return LanguageShape(
        width=width,
        inner=round(outside / (3 * width)),
        layers=len(layers),
        query_width=query,
        key_width=key_width,
        heads=heads,
        vocabulary=model.get_output_embeddings().out_features,
        parameters=sum(p.numel() for p in model.parameters()),
        layer=sum(p.numel() for p in layers.parameters()) / len(layers),
        maps=maps,
    )


def layers_of_decoder(body: nn.Module) -> nn.ModuleList:
    """Return a decoder's list of layers, whatever its name is."""
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def _linear_maps(layers: nn.ModuleList, experts: int) -> tuple[LinearMap, ...]:
    """Count the linear maps of layers. `experts`: how many of a layer's experts a token is routed to."""
    attention = tuple(
        f"{name}." for name, module in layers.named_modules() if type(module).__name__.endswith("Attention")
    )
    counts = Counter[tuple[str, int, int, bool, bool]]()
    active = Counter[tuple[str, int, int, bool, bool]]()
    for path, module in layers.named_modules():
        leaf, inside_attention = path.rpartition(".")[2], path.startswith(attention)
        if isinstance(module, nn.Linear):
            entry = (leaf, module.in_features, module.out_features, inside_attention, True)
            counts[entry] += 1
            active[entry] += 1
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 3 and not isinstance(module, nn.Conv1d):  # all experts of a layer in one tensor
                entry = (name, weight.shape[2], weight.shape[1], inside_attention, False)
                counts[entry] += len(weight)
                active[entry] += min(experts, len(weight))
            elif weight.ndim == 2 and not isinstance(module, nn.Embedding):  # GPT-2's Conv1D, a router
                entry = (leaf or name, weight.shape[0], weight.shape[1], inside_attention, False)
                counts[entry] += 1
                active[entry] += 1
    return tuple(
        LinearMap(name, inside, outside, count / len(layers), active[entry] / len(layers), is_attention, adaptable)
        for entry, count in counts.items()
        for name, inside, outside, is_attention, adaptable in (entry,)
    )
