"""`/v1/looks`: where the words of an answer looked in the pictures, for the page and whoever else asks.

LookRequest -> one forward beside the engine -> words, and of each picture grids with a weight for each word and patch
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from fastapi import Request

from vistune.generation import AttentionMaps, answered_prompt, compute_attention_maps
from vistune.generation.attention_maps import AnsweredPrompt
from vistune.serving.api.refusal import Refusal
from vistune.serving.api.schema import read_look
from vistune.serving.api.service import Place, Service

MOST_WEIGHTS = 1_000_000  # tokens times slots: about eight bytes of JSON each
DIGITS = 3


async def looks(service: Service, request: Request) -> tuple[dict[str, Any], Sequence[str]]:
    """The response's body, and the paths of the request's unused fields.

    Raises Refusal for the same errors as a chat request, and for a request without an image.
    """
    async with service.enter(request) as (place, body):
        given = await _given(service, place, body)
        _refuse_long(service, given)
    try:
        return await _within_time(service, place, given), place.unused
    finally:
        place.leave()


async def _given(service: Service, place: Place, body: bytes) -> AnsweredPrompt:
    asked, place.unused = await service.in_reader(lambda: read_look(body, model=service.name, limits=service.limits))
    return await service.encoded(
        place, asked.messages, lambda messages: answered_prompt(service.processor, messages, asked.answer)
    )


async def _within_time(service: Service, place: Place, given: AnsweredPrompt) -> dict[str, Any]:
    left = max(place.began + service.limits.answer_seconds - time.monotonic(), 0)
    work = partial(_look, service, given)
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(service.looker, work), left)
    except TimeoutError:
        message = f"looking took longer than {service.limits.answer_seconds:.0f} s"
        raise Refusal(504, message, code="timeout") from None


def _refuse_long(service: Service, given: AnsweredPrompt) -> None:
    if len(given.example) > service.engine.context:
        message = f"question and answer take {len(given.example)} tokens, the model reads {service.engine.context:.0f}"
        raise Refusal(400, message, code="context_length_exceeded", param="messages")
    slots = sum(stop - start for start, stop in given.spans)
    if slots * len(given.answer) > MOST_WEIGHTS:
        message = f"{len(given.answer)} tokens of an answer on {slots} patches are more than is looked at"
        raise Refusal(400, message, code="invalid_value", param="answer")


def _look(service: Service, given: AnsweredPrompt) -> dict[str, Any]:
    return looks_body(service.name, compute_attention_maps(service.model, service.processor, given))


def looks_body(name: str, found: AttentionMaps) -> dict[str, Any]:
    """Words with the space before them, together the answer; a word's weights are the mean of its tokens'."""
    spans = word_spans(found.tokens)
    words = ["".join(found.tokens[begin:end]) for begin, end in spans]

    def of_words(weights: torch.Tensor) -> list[list[float]]:
        """(tokens, rows, columns) -> a list of a grid's weights, row by row, for each word."""
        means = torch.stack([weights[begin:end].mean(dim=0) for begin, end in spans])
        return [[float(f"{weight:.{DIGITS}g}") for weight in word] for word in means.flatten(1).tolist()]

    images = [
        [
            {
                "rows": seen.view.rows,
                "columns": seen.view.columns,
                "box": list(seen.view.box),
                "weights": of_words(seen.weights),
            }
            for seen in image
        ]
        for image in found.images
    ]
    return {"object": "looks", "model": name, "words": words, "pictures": [{"views": views} for views in images]}


def word_spans(tokens: tuple[str, ...]) -> list[tuple[int, int]]:
    """Which tokens make up each word with the space before it; a token that adds no letter belongs to the next."""
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
