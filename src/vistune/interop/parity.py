"""What was written answers as the model it was written from, or the export fails.

Assistant + probe conversations -> ids, logits, greedy tokens -> the same from the written folder -> differences
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vistune.generation import Assistant, greedy_tokens, read_messages
from vistune.processor import collate
from vistune.types import IMAGE_ID

GREEDY_TOKENS = 16
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.05}  # of the largest logit difference
MERGED = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.1}  # the same tolerances after merging adapters


@dataclass(frozen=True)
class ProbeResult:
    """One probe: its ids (tokens,), last-position logits (vocabulary,) in fp32, and the tokens that greedy gives."""

    ids: Tensor
    logits: Tensor
    tokens: list[int]


@dataclass(frozen=True)
class ParityRow:
    """One line of the parity table."""

    probe: str
    tokens: int
    same_ids: bool
    largest_difference: float
    same_tokens: bool


def probe_image() -> Image.Image:
    """A picture that no two patches of look alike, wider than high."""
    x, y = torch.meshgrid(torch.linspace(0, 1, 320), torch.linspace(0, 1, 240), indexing="xy")
    waves = torch.stack([(20 * x).sin() * (13 * y).cos(), (31 * x * y).sin(), (9 * (x + 2 * y)).cos()], dim=-1)
    return Image.fromarray(((waves + 1) * 127.5).round().to(torch.uint8).numpy())


def probes() -> dict[str, list[dict[str, Any]]]:
    """Conversations that end with a question: with a picture, in Korean, of two turns, without a picture."""
    image = {"type": "image", "image": probe_image()}

    def asked(text: str, *before: Any) -> dict[str, Any]:
        return {"role": "user", "content": [*before, {"type": "text", "text": text}]}

    answered = {"role": "assistant", "content": [{"type": "text", "text": "Waves of colour."}]}
    return {
        "picture": [asked("What is in the picture?", image)],
        "picture, Korean": [asked("이 이미지를 한국어로 상세히 설명해주세요.", image)],
        "two turns": [asked("What is shown?", image), answered, asked("Which colour is it?")],
        "text alone": [asked("2 + 2?")],
    }


def probe_ours(assistant: Assistant, conversations: dict[str, list[dict[str, Any]]]) -> dict[str, ProbeResult]:
    """Ids, logits and greedy tokens of a model of ours."""
    model, processor = assistant.model, assistant.processor
    found = {}
    for name, messages in conversations.items():
        prompt = processor.encode_prompt(read_messages(messages))
        with torch.inference_mode():
            logits = model(collate([prompt]).to(model.head.device))[-1] @ model.head.T
        said = greedy_tokens(model, prompt, GREEDY_TOKENS)
        found[name] = ProbeResult(prompt.input_ids, logits.float().cpu(), said)
    return found


def probe_transformers(
    model: Any, processor: Any, conversations: dict[str, list[dict[str, Any]]], image_id: int
) -> dict[str, ProbeResult]:
    """The same of transformers' model through its processor and chat template; a picture's id as ours."""
    found = {}
    for name, messages in conversations.items():
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -1]
            said = model.generate(
                **inputs, max_new_tokens=GREEDY_TOKENS, min_new_tokens=GREEDY_TOKENS, do_sample=False, eos_token_id=[]
            )
        ids = inputs["input_ids"][0].cpu()
        tokens = said[0, len(ids) :].tolist()
        found[name] = ProbeResult(torch.where(ids == image_id, IMAGE_ID, ids), logits.float().cpu(), tokens)
    return found


def compare(ours: dict[str, ProbeResult], theirs: dict[str, ProbeResult]) -> list[ParityRow]:
    """A row a probe; logits are compared over the vocabulary that both have."""
    rows = []
    for name, mine in ours.items():
        other = theirs[name]
        common = min(len(mine.logits), len(other.logits))
        rows.append(
            ParityRow(
                probe=name,
                tokens=len(mine.ids),
                same_ids=torch.equal(mine.ids, other.ids),
                largest_difference=float((mine.logits[:common] - other.logits[:common]).abs().max()),
                same_tokens=mine.tokens == other.tokens,
            )
        )
    return rows


def exceeds_tolerance(rows: Sequence[ParityRow], dtype: torch.dtype, *, merged: bool = False) -> bool:
    """Whether any probe differs by more than rounding; in half precision a near tie may change a greedy token.

    `merged`: compares separate with merged adapters, whose sums are rounded once more.
    """
    exact = dtype == torch.float32
    allowed = (MERGED if merged else TOLERANCE)[dtype]
    return any(  # written so that nan counts as off
        not row.same_ids or not row.largest_difference <= allowed or (exact and not row.same_tokens) for row in rows
    )


def describe_rows(rows: Sequence[ParityRow]) -> str:
    """Format the rows for an error message."""
    return "; ".join(
        f"{row.probe}: ids {'equal' if row.same_ids else 'differ'}, logits {row.largest_difference:.2g} apart, "
        f"greedy tokens {'equal' if row.same_tokens else 'differ'}"
        for row in rows
    )
