"""`/v1/looks`: the attention of an answer's words on the images.

The maps come from one forward pass next to the engine. Each view of an image has a weight per word and patch.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from vistune.generation import AttentionMaps, alternate_turns, answered_prompt, compute_attention_maps
from vistune.generation.attention_maps import AnsweredPrompt
from vistune.serving.api.active import ActiveRequest
from vistune.serving.api.guard import Refusal
from vistune.serving.api.schema import read_attention_request, unused_header
from vistune.serving.api.service import ModelService
from vistune.types import Message

MAX_WEIGHTS = 1_000_000  # tokens times slots; a weight takes about eight bytes of JSON
DIGITS = 3  # of a weight
CHUNK_BYTES = 64 * 1024


async def attention_maps(service: ModelService, request: Request) -> Response:
    """Return the response, whose body is an `AttentionBody`.

    Raises Refusal for the same errors as a chat request, and for a request without an image.
    """
    async with service.enter(request) as (active, body):
        encoded = await _encode(service, active, body)
        _refuse_long(service, encoded)
    try:
        return PartsResponse(await _compute(service, active, encoded), unused_header(active.unused))
    finally:
        active.release()


async def _encode(service: ModelService, active: ActiveRequest, body: bytes) -> AnsweredPrompt:
    request, active.unused = await service.in_reader(
        lambda: read_attention_request(body, model=service.name, limits=service.limits)
    )

    def encode(messages: list[Message]) -> AnsweredPrompt:
        return answered_prompt(service.processor, alternate_turns(messages), request.answer)

    return await service.encoded(active, request.messages, encode)


async def _compute(service: ModelService, active: ActiveRequest, encoded: AnsweredPrompt) -> list[bytes]:
    """Compute the maps in their thread, within the time limit of an answer; return its JSON."""
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


def _maps(service: ModelService, encoded: AnsweredPrompt) -> list[bytes]:
    return list(reply_parts(service.name, compute_attention_maps(service.model, service.processor, encoded)))


def reply_parts(name: str, attention: AttentionMaps) -> Iterator[bytes]:
    """Yield the JSON of an `AttentionBody` in parts, each of one word and view.

    Python runs other threads between the parts, so that a large body does not stop the event loop. The weights of a
    word are the mean of those of its tokens; a word includes the space before it.
    """
    spans = word_spans(attention.tokens)
    words = ["".join(attention.tokens[begin:end]) for begin, end in spans]
    yield f'{{"object":"looks","model":{_json(name)},"words":{_json(words)},"pictures":['.encode()
    for number, views in enumerate(attention.images):
        yield b',{"views":[' if number else b'{"views":['
        for k, seen in enumerate(views):
            view = {"rows": seen.view.rows, "columns": seen.view.columns, "box": list(seen.view.box)}
            yield f'{"," if k else ""}{_json(view)[:-1]},"weights":['.encode()
            for word, (begin, end) in enumerate(spans):
                means = seen.weights[begin:end].mean(dim=0).flatten().tolist()
                row = ",".join([f"{weight:.{DIGITS}g}" for weight in means])
                yield f"{',' if word else ''}[{row}]".encode()
            yield b"]}"
        yield b"]}"
    yield b"]}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class PartsResponse(StreamingResponse):
    """A JSON body whose parts are sent one by one; between them the event loop serves other requests."""

    def __init__(self, parts: Sequence[bytes], headers: Mapping[str, str]) -> None:
        size = {"Content-Length": str(sum(map(len, parts)))}
        super().__init__(self._paced(parts), media_type="application/json", headers={**headers, **size})

    @staticmethod
    async def _paced(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
        chunk = bytearray()
        for part in parts:
            chunk += part
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
                await asyncio.sleep(0)
        yield bytes(chunk)


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
