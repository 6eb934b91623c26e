"""`/v1/looks`: the attention of an answer's words on the images.

The maps come from one forward pass next to the engine. Each view of an image has a weight per word and patch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from fastapi import Request

from vistune.generation import AttentionMaps, answered_prompt, compute_attention_maps
from vistune.generation.attention_maps import AnsweredPrompt
from vistune.serving.api.guard import Refusal
from vistune.serving.api.schema import AttentionBody, AttentionView, read_attention_request
from vistune.serving.api.service import ActiveRequest, ModelService

MAX_WEIGHTS = 1_000_000  # tokens times slots; a weight takes about eight bytes of JSON
DIGITS = 3  # of a weight


async def attention_maps(service: ModelService, request: Request) -> tuple[AttentionBody, Sequence[str]]:
    """Return the body of the response, and the paths of the request's unused fields.

    Raises Refusal for the same errors as a chat request, and for a request without an image.
    """
    async with service.enter(request) as (active, body):
        encoded = await _encode(service, active, body)
        _refuse_long(service, encoded)
    try:
        return await _compute(service, active, encoded), active.unused
    finally:
        active.release()


async def _encode(service: ModelService, active: ActiveRequest, body: bytes) -> AnsweredPrompt:
    request, active.unused = await service.in_reader(
        lambda: read_attention_request(body, model=service.name, limits=service.limits)
    )
    return await service.encoded(
        active, request.messages, lambda messages: answered_prompt(service.processor, messages, request.answer)
    )


async def _compute(service: ModelService, active: ActiveRequest, encoded: AnsweredPrompt) -> AttentionBody:
    """Compute the maps in their thread, within the time limit of an answer."""
    left = max(active.start + service.limits.answer_seconds - time.monotonic(), 0)
    work = partial(_maps, service, encoded)
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(service.attention_thread, work), left)
    except TimeoutError:
        message = f"the attention maps took longer than {service.limits.answer_seconds:.0f} s"
        raise Refusal(504, message, code="timeout") from None


def _refuse_long(service: ModelService, encoded: AnsweredPrompt) -> None:
    if len(encoded.example) > service.engine.context:
        most = f"{service.engine.context:.0f}"
        message = f"question and answer have {len(encoded.example)} tokens, the model reads at most {most}"
        raise Refusal(400, message, code="context_length_exceeded", param="messages")
    slots = sum(stop - start for start, stop in encoded.spans)
    if slots * len(encoded.answer) > MAX_WEIGHTS:
        message = f"{len(encoded.answer)} tokens on {slots} patches are too many weights; shorten the answer"
        raise Refusal(400, message, code="invalid_value", param="answer")


def _maps(service: ModelService, encoded: AnsweredPrompt) -> AttentionBody:
    return attention_body(service.name, compute_attention_maps(service.model, service.processor, encoded))


def attention_body(name: str, attention: AttentionMaps) -> AttentionBody:
    """Return the words of the answer, with the space before them, and their weights: the mean of the word's tokens."""
    spans = word_spans(attention.tokens)
    words = ["".join(attention.tokens[begin:end]) for begin, end in spans]

    def word_weights(weights: torch.Tensor) -> list[list[float]]:
        """Convert (tokens, rows, columns) to a list of weights per word, row by row."""
        means = torch.stack([weights[begin:end].mean(dim=0) for begin, end in spans])
        return [[float(f"{weight:.{DIGITS}g}") for weight in word] for word in means.flatten(1).tolist()]

    images: list[list[AttentionView]] = [
        [
            {
                "rows": seen.view.rows,
                "columns": seen.view.columns,
                "box": list(seen.view.box),
                "weights": word_weights(seen.weights),
            }
            for seen in image
        ]
        for image in attention.images
    ]
    return {"object": "looks", "model": name, "words": words, "pictures": [{"views": views} for views in images]}


def word_spans(tokens: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return the tokens of each word with the space before it. Tokens without a letter belong to the next word."""
    begins, waiting = [0], None
    is_spaced = has_letters = False
    for number, piece in enumerate(tokens):
        at = number if waiting is None else waiting
        is_spaced |= piece[:1].isspace()
        if not piece.strip():
            waiting = at
            continue
        if is_spaced and has_letters:
            begins.append(at)
        waiting, is_spaced, has_letters = None, piece[-1].isspace(), True
    return list(pairwise([*begins, len(tokens)]))
