"""A whole llava-hf folder of random weights, by transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import torch


def write_llava_hf(folder: Path, backbones: Path, *, tied: bool = False) -> Path:
    """transformers' LLaVA over configs as small as the backbones', whose tokenizer and image rules it gets.

    `tied`: its head is the embedding.
    """
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        CLIPImageProcessorPil,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = AutoTokenizer.from_pretrained(backbones / "language")
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    text = AutoConfig.from_pretrained(backbones / "language")
    text.vocab_size, text.tie_word_embeddings, text.initializer_range = 448, tied, 0.2
    vision = AutoConfig.from_pretrained(backbones / "vision")
    vision = getattr(vision, "vision_config", vision)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=tied, image_seq_length=(vision.image_size // vision.patch_size) ** 2,
    )  # fmt: skip
    torch.manual_seed(11)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    model.save_pretrained(folder)
    side = {"height": vision.image_size, "width": vision.image_size}
    rules = CLIPImageProcessorPil(size={"shortest_edge": vision.image_size}, crop_size=side)
    LlavaProcessor(
        rules, tokenizer, patch_size=vision.patch_size, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    rules.save_pretrained(folder)
    return folder


TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
