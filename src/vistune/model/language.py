"""The language model: any causal LM of transformers, run over packed rows with our attention.

embeddings (tokens, width) + positions + starts -> hidden states (tokens, width)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vistune.errors import CheckpointError, RecipeError, some
from vistune.model.attention import register
from vistune.model.trial import refuse_unserved
from vistune.model.vision import read_config


def language_config(source: str) -> Any:
    """The model's config. Raises RecipeError for what ours cannot serve, before any weights are read."""
    config = read_config(source, "language model")
    if getattr(config, "auto_map", None):
        raise RecipeError(
            f"language model {source}: its config asks to run code of its own", "use a model of transformers"
        )
    if config.get_text_config() is not config:
        raise RecipeError(
            f"language model {source}: {config.model_type} is a model of several parts, of which text is one",
            "save its language model alone, as transformers' causal LM of the text config, and name that folder",
        )
    if getattr(config, "quantization_config", None):
        raise RecipeError(
            f"language model {source}: its weights are saved in a quantised form",
            "use the full-precision model, with quantize: 4 or 8",
        )
    refuse_unserved(config, source)
    return config


def load_language(source: str, dtype: torch.dtype, quantize: int | None = None, *, meta: bool = False) -> nn.Module:
    """The causal LM, its linear layers but the head in 4 or 8 bits where `quantize` says so.

    `meta`: on torch's meta device; only names and shapes of a folder's weights are read, and nothing for a hub name.
    Raises CheckpointError with tensors that are missing or of another shape: none is initialised at random.
    """
    from transformers import AutoModelForCausalLM

    config = language_config(source)
    settings: dict[str, Any] = {}
    if quantize is not None:
        settings["quantization_config"] = quantization(quantize, dtype)
    if meta:
        if not Path(source).is_dir():
            with torch.device("meta"):
                empty: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype)
            return empty
        settings = {"device_map": "meta"}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=register(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below with their names
            **settings,
        )
    except (OSError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(f"language model {source}: {first_line(error)}", "name a whole model") from None
    faults = sorted([*report["missing_keys"], *(str(fault[0]) for fault in report["mismatched_keys"])])
    if faults:
        raise CheckpointError(
            f"language model {source}: tensors missing or of another shape: {some(faults)}",
            "the folder's config and weights do not fit: name a whole model",
        )
    language: nn.Module = model
    return language


def quantization(bits: int, dtype: torch.dtype) -> Any:
    """bitsandbytes' settings as QLoRA's (arXiv 2305.14314): nf4 with double quantisation, products in `dtype`; or int8.

    transformers leaves the head as it is.
    """
    if find_spec("bitsandbytes") is None:
        raise RecipeError(f"quantize {bits}: bitsandbytes is not installed", "pip install 'vistune[quant]'")
    from transformers import BitsAndBytesConfig

    if bits == 8:
        # Else a line at every layer of every step: that int8 products round their inputs to fp16, which was asked for.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if bits != 4:
        raise RecipeError(f"quantize {bits}: no such form", "use 4 or 8")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def is_quantised(language: nn.Module) -> bool:
    return bool(getattr(base_of(language), "is_quantized", False))


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def base_of(language: nn.Module) -> Any:
    """The causal LM itself, out of its PEFT wrapper if it has one."""
    inner = getattr(language, "get_base_model", None)
    return inner() if inner is not None else language


def embed(language: nn.Module, ids: Tensor) -> Tensor:
    return base_of(language).get_input_embeddings()(ids)


def head_weight(language: nn.Module) -> Tensor:
    """(vocabulary, width)."""
    head: Tensor = base_of(language).get_output_embeddings().weight
    return head


def run(
    language: nn.Module, embeddings: Tensor, positions: Tensor, *, at: Tensor | None = None, **attention: Any
) -> Tensor:
    """Hidden states after the final norm; inputs and outputs (batch, tokens, width), positions (batch, tokens).

    `at` (n,): the only positions of the one row whose states the caller uses; other states may lack the last MLP.
    """
    body = base_of(language).get_decoder()
    cache = attention.pop("cache", None)
    with last_mlp_at(body, at, embeddings.shape[1]):
        hidden: Tensor = body(
            inputs_embeds=embeddings,
            position_ids=positions,
            cache=cache,
            use_cache=cache is not None,
            **attention,
        ).last_hidden_state
    return hidden


def last_mlp(body: nn.Module) -> nn.Module | None:
    """The MLP of a decoder's last layer; None if its layers have no module of the usual name `mlp`."""
    layers: Any = getattr(body, "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers is not None else None
    return mlp if isinstance(mlp, nn.Module) else None


@contextmanager
def last_mlp_at(body: nn.Module, at: Tensor | None, tokens: int) -> Iterator[None]:
    """While the block lasts, compute the last layer's MLP only at positions `at` (n,) of the row, zeros elsewhere.

    The MLP's output reaches nothing but its own token's state, and training uses the states of a fifth of the tokens or
    fewer. The whole MLP is computed if layers are recomputed, and if `at` is empty: every weight then has a gradient of
    zeros, as all processes of a run need it.
    """
    mlp = last_mlp(body)
    recomputed = getattr(body, "is_activation_checkpointing", False)
    if mlp is None or at is None or not len(at) or recomputed:
        yield
        return

    def select(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].index_select(1, at),)

    def scatter(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output.new_zeros(1, tokens, output.shape[-1]).index_copy(1, at, output)

    hooks = mlp.register_forward_pre_hook(select), mlp.register_forward_hook(scatter)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
