"""Tiny random models that answer unlike things, and what transformers says to the same prompts, alone and unbatched."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vistune.model import VisionLanguageModel, build, read_spec
from vistune.processor import Processor, collate, load_tokenizer
from vistune.recipe import Model, Recipe, Stage
from vistune.runs import checkpoint
from vistune.types import Example, ImageRef, Message

LONG = 24  # tokens of every reference answer


def image(seed: int, size: tuple[int, int] = (32, 40)) -> Image.Image:
    pixels = torch.randint(0, 256, (*size[::-1], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@dataclass
class Bench:
    """A model, its processor, and transformers' own language model with the same weights."""

    model: VisionLanguageModel
    processor: Processor
    stock: Any
    known: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def prompt(self, *parts: str | Image.Image) -> Example:
        shown = tuple(part if isinstance(part, str) else ImageRef(part) for part in parts)
        return self.processor.encode_prompt([Message("user", shown)])

    def alone(self, prompt: Example, count: int = LONG) -> list[int]:
        """transformers' greedy tokens, whatever they end."""
        with torch.no_grad():
            images = self.model.features(collate([prompt])) if len(prompt.images) else torch.zeros(0, 48)
            rows = self.model.embed(prompt.input_ids, images)[None]
        said = self.stock.generate(inputs_embeds=rows, do_sample=False, max_new_tokens=count, eos_token_id=None)
        return said[0].tolist()

    def answer(self, prompt: Example, max_tokens: int) -> str:
        """What transformers' tokens read as, cut at the first end."""
        said = self.alone(prompt, max_tokens)
        ends = [k + 1 for k in range(len(said)) if self.processor.ended(said[: k + 1])]
        return self.processor.answer(said[: ends[0]] if ends else said)


KINDS: dict[str, dict[str, Any]] = {
    "grouped heads": {"architecture": "llama"},
    "sliding window": {"architecture": "mistral", "sliding_window": 16},
    "anyres": {"architecture": "llama", "image_mode": "anyres", "canvases": ((32, 64), (64, 32), (64, 64))},
}


def make(kind: str, backbones: Path, folder: Path) -> Bench:
    """A random model of a kind on the tiny tower; its language model is saved in `folder` on the way."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rules = dict(KINDS[kind])
    architecture, window = rules.pop("architecture"), rules.pop("sliding_window", None)
    extra = {"sliding_window": window} if window else {}
    config = AutoConfig.for_model(
        architecture, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=400, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
        initializer_range=0.3, **extra)  # fmt: skip
    torch.manual_seed(7)
    stock = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    stock.save_pretrained(folder)
    recipe = Model(vision=str(backbones / "vision"), language=str(folder), **rules)
    spec = read_spec(recipe)
    processor = Processor(load_tokenizer(backbones / "language"), spec)
    return Bench(build(recipe, spec, seed=0).eval(), processor, stock)


def save(bench: Bench, backbones: Path, folder: Path) -> Path:
    """Write a bench's model as a model folder, with its language model."""
    layout = Model(vision=str(backbones / "vision"), language=str(backbones / "language"))
    recipe = Recipe(model=layout, stages=(Stage(name="align", learn={"projector": 1e-3}, steps=1),))
    tensors = checkpoint.snapshot(bench.model, {"projector", "language"})
    checkpoint.save(folder, bench.model, bench.processor, recipe=recipe, tensors=tensors)
    return folder
