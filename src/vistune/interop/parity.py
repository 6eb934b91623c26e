"""Run probe conversations through vistune's model or transformers', record every stage, and compare two records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vistune.errors import CheckpointError, reason_of
from vistune.generation import Assistant, greedy_tokens, read_messages
from vistune.model.tower_inputs import normalised
from vistune.processor import Processor, collate
from vistune.types import IGNORE, IMAGE_ID, Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Conversations = Mapping[str, Sequence[Mapping[str, Any]]]  # OpenAI-style messages by the probe's name
Answers = Mapping[str, Sequence[int]]  # tokens of an answer by the probe's name

GREEDY_TOKENS = 16
BATCH = "batch"  # the name of all probes together
# Settings of transformers with which a model's own generation config does not change greedy answers.
GREEDY_SETTINGS: Mapping[str, Any] = {
    "do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "eos_token_id": [],
}  # fmt: skip
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.05}  # largest difference of a logit
MERGED = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.1}  # the same tolerances after merging adapters


@dataclass(frozen=True)
class ProbeResult:
    """A model's result on a probe, stage by stage.

    Attributes:
        ids: (tokens,) ids of the prompt, IMAGE_ID at image slots.
        logits: (vocabulary,) logits at the last position of the prompt, in fp32.
        tokens: Greedy tokens after it, without a stop.
        prompt: The rendered conversation.
        pixels: (tiles, 3, side, side) normalised pixels; None without an image, like the following two.
        tower: (tiles, slots, width) features that enter the projector.
        projected: (tiles, slots, width) features that leave the projector.
        steps: (positions, vocabulary) logits at the end of the prompt and after each token of an answer, in fp32.
        failure: Why the model could not compute the rest; then `logits` is empty and `steps` is None.
        omitted: Positions at the end of the answer that are not in `steps`: transformers would replace an image token
            before them by image features.

    A batch (`batched`) has the ids and tokens of its prompts one after another, and their logits (prompts, vocabulary).
    """

    ids: Tensor
    logits: Tensor
    tokens: list[int]
    prompt: str = ""
    pixels: Tensor | None = None
    tower: Tensor | None = None
    projected: Tensor | None = None
    steps: Tensor | None = None
    failure: str = ""
    omitted: int = 0


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


def probe_image(width: int = 320, height: int = 240) -> Image.Image:
    """Return an image in which no two patches are alike.

    It is made of whole numbers, so that it is the same on every machine.
    """
    y, x = np.mgrid[:height, :width].astype(np.int64)
    waves = (7 * x + x * y // 40, x * y // 50 + 5 * y, 3 * x + 6 * y + x * x // 60)
    triangles = [np.abs(wave % 510 - 255) for wave in waves]
    return Image.fromarray(np.stack(triangles, axis=-1).astype(np.uint8))


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


@contextmanager
def recorded(projector: nn.Module) -> Iterator[list[Tensor]]:
    """Record the input and the output of a projector's first call, in fp32."""
    features: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not features:
            features.extend(values.detach().float().cpu() for values in (inputs[0], output))

    handle = projector.register_forward_hook(keep)
    try:
        yield features
    finally:
        handle.remove()


def probe_ours(
    assistant: Assistant, conversations: Conversations, answers: Answers | None = None
) -> dict[str, ProbeResult]:
    """Run the probes through our model. `answers`: tokens after which `steps` are computed; by default the model's."""
    model, processor = assistant.model, assistant.processor
    results = {}
    for name, messages in conversations.items():
        prompt = processor.encode_prompt(read_messages(messages))
        tokens = greedy_tokens(model, prompt, GREEDY_TOKENS)
        answer = tokens if answers is None else answers[name]
        first = len(prompt) - 1
        with torch.inference_mode(), recorded(model.projector) as features:
            row = collate([_answered(prompt, answer)]).to(model.head.device)
            positions = torch.arange(first, first + len(answer), device=model.head.device)
            steps = model.head.logits(model(row, at=positions)).float().cpu()
        tower = model.vision.towers[0]
        has_image = bool(len(prompt.images))
        results[name] = ProbeResult(
            prompt.input_ids,
            steps[0],
            tokens,
            rendered(processor, messages),
            pixels=normalised(prompt.images, tower.mean.cpu(), tower.std.cpu()) if has_image else None,
            tower=features[0] if has_image else None,
            projected=features[1] if has_image else None,
            steps=steps,
        )
    return results


def _answered(prompt: Example, answer: Sequence[int]) -> Example:
    """Return a prompt followed by the tokens of an answer except the last."""
    ids = torch.cat([prompt.input_ids, torch.tensor(answer[:-1], dtype=prompt.input_ids.dtype)])
    return replace(prompt, input_ids=ids, labels=torch.full_like(ids, IGNORE))


def rendered(processor: Processor, messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a prompt by the chat template that exports contain."""
    tokenizer: Any = processor.tokenizer
    return str(
        tokenizer.apply_chat_template(
            list(messages), chat_template=processor.portable_chat_template, tokenize=False, add_generation_prompt=True
        )
    )


def probe_transformers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: Conversations,
    image_id: int,
    answers: Answers | None = None,
) -> dict[str, ProbeResult]:
    """Run the probes through transformers' model, with its processor and chat template.

    Args:
        image_id: The id that the model replaces by image features.
        answers: Tokens after which `steps` are computed; by default the model's own.

    If the model raises an error, the results contain it with the stages before it.
    """
    results = {}
    for name, messages in conversations.items():
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        pixels = inputs.get("pixel_values")
        result = ProbeResult(
            torch.where(inputs["input_ids"][0] == image_id, IMAGE_ID, inputs["input_ids"][0]),
            torch.empty(0),
            [],
            str(prompt),
            pixels=None if pixels is None else pixels.flatten(0, -4).float(),
        )
        answer = None if answers is None else answers[name]
        results[name] = _run_transformers(model, _on_device(inputs, model), result, answer)
    return results


def probe_batch(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    image_id: int,
) -> ProbeResult:
    """Run conversations as one padded batch in transformers; see `batched` for the form of the result."""
    inputs = batch_inputs(model, processor, conversations)
    answers, logits = generate_greedily(model, inputs, GREEDY_TOKENS)
    ids = inputs["input_ids"][inputs["attention_mask"].bool()].cpu()
    tokens = [token for answer in answers for token in answer]
    return ProbeResult(torch.where(ids == image_id, IMAGE_ID, ids), logits, tokens)


def batch_inputs(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: Sequence[Sequence[Mapping[str, Any]]]
) -> Any:
    """Return the inputs of transformers' model for conversations that are answered as one padded batch."""
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    return _on_device(inputs, model)


def _on_device(inputs: Any, model: PreTrainedModel) -> Any:
    """Move inputs to the device of a model, with pixels in its precision."""
    inputs = inputs.to(model.device)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return inputs


def batched(results: Mapping[str, ProbeResult]) -> ProbeResult:
    """Join the results of all probes to one, as of a batch. The probes have different lengths."""
    logits = torch.stack([result.logits for result in results.values()])
    tokens = [token for result in results.values() for token in result.tokens]
    return ProbeResult(torch.cat([result.ids for result in results.values()]), logits, tokens)


def _run_transformers(
    model: PreTrainedModel, inputs: Any, result: ProbeResult, answer: Sequence[int] | None
) -> ProbeResult:
    """Add the features, logits and tokens that the model computes from a probe's inputs."""
    prompt_length = inputs["input_ids"].shape[1]
    [projector] = [module for name, module in model.named_modules() if name.endswith("multi_modal_projector")]
    with torch.inference_mode(), recorded(projector) as features:
        try:
            [tokens], _ = generate_greedily(model, inputs, GREEDY_TOKENS)
            answer = tokens if answer is None else answer
            before_image = _before_image(answer[:-1], model)
            added = torch.tensor([before_image], dtype=torch.int64, device=model.device)
            longer = dict(inputs)
            longer["input_ids"] = torch.cat([inputs["input_ids"], added], dim=1)
            longer["attention_mask"] = torch.ones_like(longer["input_ids"])
            steps = model(**longer).logits[0, prompt_length - 1 :].float().cpu()
            omitted = len(answer[:-1]) - len(before_image)
            result = replace(result, logits=steps[0], tokens=tokens, steps=steps, omitted=omitted)
        except (ValueError, RuntimeError, IndexError) as error:  # for example other numbers of slots and features
            result = replace(result, failure=reason_of(error))
    tower, projected = features or (None, None)
    return replace(result, tower=tower, projected=projected)


@contextmanager
def without_stop_strings(model: PreTrainedModel) -> Iterator[None]:
    """Remove the stop strings of a model's generation config while the block lasts: they need a tokenizer."""
    config: Any = model.generation_config
    stops, config.stop_strings = config.stop_strings, None
    try:
        yield
    finally:
        config.stop_strings = stops


def _before_image(tokens: Sequence[int], model: PreTrainedModel) -> list[int]:
    """Return the tokens before the image's: in a prompt, transformers would replace it by features."""
    image_id = model.config.image_token_id
    return list(tokens[: tokens.index(image_id)] if image_id in tokens else tokens)


def generate_greedily(model: PreTrainedModel, inputs: Any, count: int) -> tuple[list[list[int]], Tensor]:
    """Generate `count` tokens after each prompt of a batch, greedily and without a stop.

    Returns the tokens, and the logits (prompts, vocabulary) of the first one in fp32.
    """
    settings = {**GREEDY_SETTINGS, "max_new_tokens": count, "min_new_tokens": count}
    with torch.inference_mode(), without_stop_strings(model):
        output: Any = model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
    answers: list[list[int]] = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    return answers, output.logits[0].float().cpu()


def compare(ours: Mapping[str, ProbeResult], theirs: Mapping[str, ProbeResult]) -> list[ParityRow]:
    """Compare the results of two models, a row per probe. Logits are compared over the common vocabulary.

    If `theirs` contain a batch, it is compared with all of `ours` together.

    Raises CheckpointError if the other model could not compute a probe.
    """
    rows = []
    expected = {**ours, BATCH: batched(ours)} if BATCH in theirs else ours
    for name, our in expected.items():
        their = theirs[name]
        if their.failure:
            raise CheckpointError(
                f"transformers cannot compute the exported model: {name}: {their.failure}", "report this with the model"
            )
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
