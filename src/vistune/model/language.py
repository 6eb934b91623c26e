"""The language model: any causal LM of transformers, run over packed rows with our attention.

embeddings (tokens, width) + positions + starts -> hidden states (tokens, width)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import RecipeError
from vistune.model.attention import register
from vistune.model.vision import read_config


def language_config(source: str) -> Any:
    """The model's config. Raises RecipeError for what our attention cannot serve, and for code in the folder."""
    config = read_config(source, "language model").get_text_config()
    if getattr(config, "auto_map", None):
        raise RecipeError(
            f"language model {source}: its config asks to run code of its own", "use a model of transformers"
        )
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, field, None) is not None:
            raise RecipeError(
                f"language model {source}: soft-capped logits ({field}) are not served", "use a model without them"
            )
    return config


def load_language(source: str, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModelForCausalLM

    language_config(source)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation=register())
    return model


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


def run(language: nn.Module, embeddings: Tensor, positions: Tensor, **attention: Any) -> Tensor:
    """Hidden states after the final norm; inputs and outputs (batch, tokens, width), positions (batch, tokens)."""
    body = base_of(language).get_decoder()
    cache = attention.pop("cache", None)
    hidden: Tensor = body(
        inputs_embeds=embeddings,
        position_ids=positions,
        cache=cache,
        use_cache=cache is not None,
        **attention,
    ).last_hidden_state
    return hidden
