"""Describe a language model as llama.cpp reads it: metadata and tensors. Refuse models that it computes differently."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vistune.errors import RecipeError
from vistune.interop.gguf_file import LazyWeight, Value, names
from vistune.model import VisionLanguageModel
from vistune.model.head import PLAIN
from vistune.model.language import unwrap
from vistune.runs.checkpoint import language_state

GEMMA_PATTERN = 6  # every sixth layer of Gemma 3 attends to everything, in llama.cpp always
NO_ROPE_EVERY = 4  # every fourth layer of SmolLM3 has no rotary embedding, in llama.cpp always


@dataclass(frozen=True)
class Family:
    """How llama.cpp computes the language models of one `model_type`.

    Attributes:
        architecture: llama.cpp's name.
        interleaved: Whether it rotates neighbouring pairs, so that the rows of queries and keys are reordered.
        activation: The only activation of its MLP.
        reject: Returns why a config cannot be computed; "" if it can.
    """

    architecture: str
    interleaved: bool
    activation: str = "silu"
    reject: Callable[[Any], str] = lambda config: ""


def _reject_qwen2(config: Any) -> str:
    return "use_sliding_window" if config.use_sliding_window else ""


def _reject_gemma3(config: Any) -> str:
    layers = ["full_attention" if number % GEMMA_PATTERN == 0 else "sliding_attention"
              for number in range(1, config.num_hidden_layers + 1)]  # fmt: skip
    if list(config.layer_types) != layers:
        return f"layer_types: llama.cpp lets every {GEMMA_PATTERN}th layer attend to everything"
    if config.query_pre_attn_scalar != config.head_dim:
        return f"query_pre_attn_scalar {config.query_pre_attn_scalar}: llama.cpp uses head_dim {config.head_dim}"
    if config.rope_parameters["sliding_attention"]["rope_theta"] != 10000.0:
        return "rope_theta of the sliding layers: llama.cpp uses 10000"
    if getattr(config, "use_bidirectional_attention", False):
        return "use_bidirectional_attention"
    return "attn_logit_softcapping" if config.attn_logit_softcapping else ""


def _reject_smollm3(config: Any) -> str:
    expected = [int(number % NO_ROPE_EVERY != 0) for number in range(1, config.num_hidden_layers + 1)]
    if list(config.no_rope_layers) != expected:
        return f"no_rope_layers: llama.cpp rotates all layers but every {NO_ROPE_EVERY}th"
    return "use_sliding_window" if config.use_sliding_window else ""


FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", interleaved=True),
    "mistral": Family("llama", interleaved=True),
    "qwen2": Family("qwen2", interleaved=False, reject=_reject_qwen2),
    "qwen3": Family("qwen3", interleaved=False, reject=_reject_qwen2),
    "gemma3_text": Family("gemma3", interleaved=False, activation="gelu_pytorch_tanh", reject=_reject_gemma3),
    "smollm3": Family("smollm3", interleaved=True, reject=_reject_smollm3),
}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
PERMUTED = ("attn_q", "attn_k")


def refuse_language(model: VisionLanguageModel) -> Family:
    """Return the family of a language model. Raises RecipeError if llama.cpp computes it differently."""
    config: Any = unwrap(model.language).config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise RecipeError(
            f"--layout gguf: the language model {config.model_type!r} is not supported",
            f"train with a language model of one of these types: {', '.join(FAMILIES)}",
        )
    activation = getattr(config, "hidden_act", None) or config.hidden_activation
    reason = family.reject(config)
    if activation != family.activation:
        reason = f"activation {activation!r}: llama.cpp uses {family.activation!r}"
    elif model.head.rule != PLAIN or model.head.bias is not None:
        reason = "its output layer has a bias, a scale or a cap"
    elif _rope(config).get("rope_type", "default") not in ROPE_TYPES:
        reason = f"rope_type {_rope(config)['rope_type']!r}: supported are {', '.join(ROPE_TYPES)}"
    elif _rope(config).get("partial_rotary_factor", 1.0) != 1.0:
        reason = "partial_rotary_factor"
    if reason:
        raise RecipeError(
            f"--layout gguf: llama.cpp computes this {config.model_type} differently: {reason}",
            "export --layout llava-hf, and use vLLM or transformers",
        )
    return family


def language_metadata(model: VisionLanguageModel, family: Family) -> dict[str, Value]:
    """Return the metadata of the language model, by llama.cpp's keys."""
    config: Any = unwrap(model.language).config
    rope = _rope(config)
    window = getattr(config, "sliding_window", None) if config.model_type in ("mistral", "gemma3_text") else None
    context = int(config.max_position_embeddings)
    if config.model_type == "mistral" and window:
        context = min(context, int(window))  # llama.cpp attends to everything: the same up to this length
    head_width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    values: dict[str, Value] = {
        "vocabulary": int(config.vocab_size),
        "context": context,
        "width": int(config.hidden_size),
        "layers": int(config.num_hidden_layers),
        "inner": int(config.intermediate_size),
        "heads": int(config.num_attention_heads),
        "key_value_heads": int(config.num_key_value_heads),
        "key_width": head_width,
        "value_width": head_width,
        "epsilon": float(config.rms_norm_eps),
        "rope_width": head_width,
        "rope_base": float(rope["rope_theta"]),
    }
    if config.model_type == "gemma3_text":
        values["sliding_window"] = int(config.sliding_window)
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        values |= {"rope_type": kind, "rope_factor": float(rope["factor"])}
    if kind == "yarn":
        values["rope_context"] = int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
    keys = names()["language"]["keys"]
    return {keys[key].format(arch=family.architecture): value for key, value in values.items()}


def language_tensors(model: VisionLanguageModel, family: Family) -> dict[str, LazyWeight]:
    """Return the language model's tensors, by llama.cpp's names."""
    config: Any = unwrap(model.language).config
    gemma = config.model_type == "gemma3_text"
    heads = {"attn_q": int(config.num_attention_heads), "attn_k": int(config.num_key_value_heads)}
    tensors: dict[str, LazyWeight] = {}
    for name, tensor in language_state(model).items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        written = language_name(name, gemma=gemma)
        part = written.split(".")[-2]
        if gemma and part.endswith("norm"):
            tensors[written] = partial(_plus_one, tensor)  # transformers' norm of Gemma multiplies by 1 + weight
        elif family.interleaved and part in PERMUTED:
            tensors[written] = partial(interleaved, tensor, heads[part])
        else:
            tensors[written] = partial(_same, tensor)
    if _rope(config).get("rope_type") == "llama3":
        tensors[names()["language"]["rope_factors"]] = partial(rope_factors, config)
    return tensors


def language_name(name: str, *, gemma: bool) -> str:
    """Return llama.cpp's name for a tensor of the language model. Raises RecipeError if it has none."""
    table = names()["language"]
    for theirs, ours in table["tensors"]:
        if name.startswith(theirs):
            return str(ours) + name.removeprefix(theirs)
    before, after = table["layer"][0].split("{}")
    number, _, inner = name.removeprefix(before).partition(after)
    layer_tensors = {**table["layer_tensors"], **(table["gemma3_tensors"] if gemma else {})}
    prefix, _, leaf = inner.rpartition(".")
    ours = layer_tensors.get(f"{prefix}.")
    if not name.startswith(before) or ours is None:
        raise RecipeError(
            f"--layout gguf: llama.cpp has no name for the language model's tensor {name}",
            "export --layout llava-hf, and use vLLM or transformers",
        )
    return f"{table['layer'][1].format(number)}{ours}{leaf}"


def interleaved(tensor: Tensor, heads: int) -> Tensor:
    """Reorder the rows of queries or keys: transformers rotates halves of a head, llama.cpp neighbouring pairs."""
    rows = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return rows.transpose(1, 2).reshape(tensor.shape)


def rope_factors(config: Any) -> Tensor:
    """Return the divisors (head width / 2,) of the frequencies of Llama 3.1's rotary embedding."""
    rope = _rope(config)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    low, high, length = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    smooth = ((length / wavelengths - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return factors.float()


def _rope(config: Any) -> Mapping[str, Any]:
    """Return the settings of the rotary embedding. Gemma 3 has two kinds of layers: return those without a window."""
    rope: Mapping[str, Any] = config.rope_parameters
    full: Mapping[str, Any] = rope.get("full_attention", rope)
    return full


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _plus_one(tensor: Tensor) -> Tensor:
    return tensor.float() + 1
