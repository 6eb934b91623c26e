"""Whole llava-hf folders of random weights, by transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
TILES = [[32, 64], [64, 32], [64, 64]]


def write_llava_hf(folder: Path, backbones: Path, *, kind: str = "llava", tied: bool = False) -> Path:
    """transformers' LLaVA over configs as small as the backbones', whose tokenizer and image rules it gets.

    `kind`: llava, siglip (a LLaVA over that tower), or next (LLaVA 1.6, in tiles) · `tied`: its head is the embedding.
    """
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        CLIPImageProcessorPil,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
        LlavaProcessor,
        SiglipImageProcessorPil,
    )

    tokenizer = AutoTokenizer.from_pretrained(backbones / "language")
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    text = AutoConfig.from_pretrained(backbones / "language")
    text.vocab_size, text.tie_word_embeddings, text.initializer_range = 448, tied, 0.2
    vision = AutoConfig.from_pretrained(backbones / "vision")
    vision = getattr(vision, "vision_config", vision)
    if kind == "siglip":
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
        vision = AutoConfig.for_model("siglip_vision_model", **size, image_size=32, patch_size=16)
    kept = "full" if kind == "siglip" else "default"
    common: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "tie_word_embeddings": tied,
        "image_seq_length": (vision.image_size // vision.patch_size) ** 2,
        "vision_feature_select_strategy": kept,
    }
    torch.manual_seed(11)
    model: Any
    if kind == "next":
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**common, image_grid_pinpoints=TILES))
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**common))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    model.save_pretrained(folder)
    side = {"height": vision.image_size, "width": vision.image_size}
    crop: dict[str, Any] = {"size": {"shortest_edge": vision.image_size}, "crop_size": side}
    rules: Any = CLIPImageProcessorPil(**crop)
    if kind == "siglip":
        rules = SiglipImageProcessorPil(size=side)
    elif kind == "next":
        rules = LlavaNextImageProcessorPil(**crop, image_grid_pinpoints=TILES)
    processor = LlavaNextProcessor if kind == "next" else LlavaProcessor
    processor(
        rules, tokenizer, patch_size=vision.patch_size, vision_feature_select_strategy=kept,
        num_additional_image_tokens=int(kept == "default"), chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    rules.save_pretrained(folder)
    return folder
