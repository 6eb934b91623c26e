"""Compare a written model with its source: token ids, logits and greedy tokens of probe conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from vistune.generation import Assistant, greedy_tokens, read_messages
from vistune.processor import collate
from vistune.types import IMAGE_ID

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Conversations = Mapping[str, Sequence[Mapping[str, Any]]]  # OpenAI-style messages by the probe's name

GREEDY_TOKENS = 16
BATCH = "batch"  # the name of all probes together
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.05}  # largest difference of a logit
MERGED = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.1}  # the same tolerances after merging adapters


@dataclass(frozen=True)
class ProbeResult:
    """A model's result on a probe: ids (tokens,), logits of the last position (vocabulary,) in fp32, greedy tokens.

    That of a batch has the logits of each prompt's last position (prompts, vocabulary).
    """

    ids: Tensor
    logits: Tensor
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class ParityRow:
    """The comparison of two models on one probe.

    Attributes:
        probe: Name of the probe conversation.
        tokens: Length of the prompt, image slots included.
        same_ids: Whether the token ids are equal.
        largest_difference: Largest absolute difference of a logit at the last position.
        same_tokens: Whether the greedy tokens are equal.
    """

    probe: str
    tokens: int
    same_ids: bool
    largest_difference: float
    same_tokens: bool

    def to_dict(self) -> dict[str, str | int | float | bool]:
        """Return the row as `vistune export --json` prints it."""
        return asdict(self)


def probe_image() -> Image.Image:
    """Return an image, wider than high, in which no two patches are alike."""
    x, y = torch.meshgrid(torch.linspace(0, 1, 320), torch.linspace(0, 1, 240), indexing="xy")
    waves = torch.stack([(20 * x).sin() * (13 * y).cos(), (31 * x * y).sin(), (9 * (x + 2 * y)).cos()], dim=-1)
    return Image.fromarray(((waves + 1) * 127.5).round().to(torch.uint8).numpy())


def probes() -> Conversations:
    """Return conversations that end with a question: with an image, in Korean, of two turns, without an image."""
    image = {"type": "image", "image": probe_image()}

    def asked(text: str, *before: object) -> dict[str, object]:
        return {"role": "user", "content": [*before, {"type": "text", "text": text}]}

    answered = {"role": "assistant", "content": [{"type": "text", "text": "Waves of colour."}]}
    return {
        "picture": [asked("What is in the picture?", image)],
        "picture, Korean": [asked("이 이미지를 한국어로 상세히 설명해주세요.", image)],
        "two turns": [asked("What is shown?", image), answered, asked("Which colour is it?")],
        "text alone": [asked("2 + 2?")],
    }


def probe_ours(assistant: Assistant, conversations: Conversations) -> dict[str, ProbeResult]:
    """Run the probes through our model."""
    model, processor = assistant.model, assistant.processor
    results = {}
    for name, messages in conversations.items():
        prompt = processor.encode_prompt(read_messages(messages))
        with torch.inference_mode():
            logits = model.head.logits(model(collate([prompt]).to(model.head.device))[-1:])[0]
        tokens = greedy_tokens(model, prompt, GREEDY_TOKENS)
        results[name] = ProbeResult(prompt.input_ids, logits.float().cpu(), tokens)
    return results


def probe_transformers(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: Conversations, image_id: int
) -> dict[str, ProbeResult]:
    """Run the probes through transformers' model, with its processor and chat template: one by one, then as a batch."""
    results = {
        name: _by_transformers(model, processor, [messages], image_id) for name, messages in conversations.items()
    }
    results = {name: ProbeResult(result.ids, result.logits[0], result.tokens) for name, result in results.items()}
    return {**results, BATCH: _by_transformers(model, processor, list(conversations.values()), image_id)}


def _by_transformers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    image_id: int,
) -> ProbeResult:
    """Run conversations as one padded batch; return their ids and tokens one after another, and their last logits."""
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    ).to(model.device)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    settings = {"max_new_tokens": GREEDY_TOKENS, "min_new_tokens": GREEDY_TOKENS, "do_sample": False}
    with torch.inference_mode():
        output = model.generate(**inputs, **settings, eos_token_id=[], output_logits=True, return_dict_in_generate=True)
    ids = inputs["input_ids"][inputs["attention_mask"].bool()].cpu()
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :].flatten().tolist()
    return ProbeResult(torch.where(ids == image_id, IMAGE_ID, ids), output.logits[0].float().cpu(), tokens)


def batched(results: Mapping[str, ProbeResult]) -> ProbeResult:
    """Join the results of all probes to one, as of a batch. The probes have different lengths."""
    logits = torch.stack([result.logits for result in results.values()])
    tokens = [token for result in results.values() for token in result.tokens]
    return ProbeResult(torch.cat([result.ids for result in results.values()]), logits, tokens)


def compare(ours: Mapping[str, ProbeResult], theirs: Mapping[str, ProbeResult]) -> list[ParityRow]:
    """Compare the results of two models, a row per probe. Logits are compared over the common vocabulary.

    If `theirs` contain a batch, it is compared with all of `ours` together.
    """
    rows = []
    expected = {**ours, BATCH: batched(ours)} if BATCH in theirs else ours
    for name, our in expected.items():
        their = theirs[name]
        common = min(our.logits.shape[-1], their.logits.shape[-1])
        rows.append(
            ParityRow(
                probe=name,
                tokens=len(our.ids),
                same_ids=torch.equal(our.ids, their.ids),
                largest_difference=float((our.logits[..., :common] - their.logits[..., :common]).abs().max()),
                same_tokens=our.tokens == their.tokens,
            )
        )
    return rows


def exceeds_tolerance(rows: Sequence[ParityRow], dtype: torch.dtype, *, merged: bool = False) -> bool:
    """Return whether any probe differs by more than rounding. In half precision greedy tokens may differ.

    `merged`: whether separate adapters are compared with merged ones, whose sums are rounded once more.
    """
    exact = dtype == torch.float32
    allowed = (MERGED if merged else TOLERANCE)[dtype]
    return any(  # nan counts as a difference
        not row.same_ids or not row.largest_difference <= allowed or (exact and not row.same_tokens) for row in rows
    )


def describe_rows(rows: Sequence[ParityRow]) -> str:
    """Format the rows for an error message."""
    return "; ".join(
        f"{row.probe}: ids {'equal' if row.same_ids else 'differ'}, logits {row.largest_difference:.2g} apart, "
        f"greedy tokens {'equal' if row.same_tokens else 'differ'}"
        for row in rows
    )
