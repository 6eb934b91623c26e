"""Small models whose exports are verified in other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_from
from tiny_tokenizer import make_tokenizer
from trained_models import save_trained

from vistune.processor import load_tokenizer
from vistune.recipe import Lora


def save_model(
    folder: Path,
    vision: Path,
    *,
    readable: bool = False,
    tied: bool = True,
    lora: Lora | None = None,
    **choices: Any,
) -> Path:
    """Write a model with random weights and a tokenizer with an added token.

    With `readable`, answers have only tokens that are text by themselves: servers keep unfinished characters back.
    """
    from transformers import LlamaConfig

    make_tokenizer(folder / "language")
    tokenizer: Any = load_tokenizer(str(folder / "language"))
    tokenizer.add_tokens(["colour"])
    tokenizer.add_bos_token = True
    tokenizer.save_pretrained(folder / "language")
    config = LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=len(tokenizer), max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=tied,
    )  # fmt: skip
    language = tiny_from(config)
    texts = [tokenizer.decode([token], skip_special_tokens=True) for token in range(len(tokenizer))]
    silent = [token for token, text in enumerate(texts) if not (text.isascii() and text.isprintable() and text.strip())]
    if readable:
        with torch.no_grad():
            language.get_output_embeddings().weight[silent] = 0
    language.save_pretrained(folder / "language")
    named = {"vision": str(vision), "language": str(folder / "language"), "projector": "mlp2x_gelu", "template": "v1",
             "image_mode": "pad", **choices}  # fmt: skip
    trained = ("vision", "projector", *(("adapters",) if lora is not None else ()))
    return save_trained(folder / "model", trained, seed=5, scale=0.2, lora=lora, **named)
