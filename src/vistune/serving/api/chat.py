"""`/v1/chat/completions`: the body of a finished answer, and the events of a stream.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from vistune.generation.logprobs import TokenLogprobs, TokenTexts
from vistune.serving.api import bodies
from vistune.serving.api.active import ActiveRequest
from vistune.serving.api.guard import Refusal, log_error, server_error
from vistune.serving.api.schema import ChatRequest
from vistune.serving.api.tools import call_bodies, call_reader

WAITING = ": waiting for text\n\n"


class EventStream(StreamingResponse):
    """An answer that is sent while it is generated. Its request is released even if the client has left already."""

    def __init__(self, active: ActiveRequest, lines: AsyncIterator[str], headers: Mapping[str, str]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers={"X-Accel-Buffering": "no", **headers})
        self.active = active

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.active.release()


@dataclass(slots=True)
class WholeAnswer:
    """A finished answer: its text, and the log probabilities of its tokens."""

    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)


async def whole_answers(request: Request, active: ActiveRequest) -> list[WholeAnswer]:
    """Return all answers when they have ended; raise ClientDisconnect as soon as the client has gone."""

    async def collect() -> list[WholeAnswer]:
        answers = [WholeAnswer() for _ in active.answers]
        async for event in active.events():
            if event is not None:
                answers[event.index].text += event.text
                answers[event.index].logprobs += event.logprobs
        return answers

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(collect()), asyncio.create_task(disconnected())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


def completion_body(
    active: ActiveRequest, chat_request: ChatRequest, answers: Sequence[WholeAnswer]
) -> bodies.ChatCompletion:
    """Return the body of finished answers."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": active.service.name,
        "choices": [choice_body(active, chat_request, index, answer) for index, answer in enumerate(answers)],
        "usage": usage(active),
    }


def choice_body(
    active: ActiveRequest, chat_request: ChatRequest, index: int, answer: WholeAnswer
) -> bodies.CompletionChoice:
    """Return a finished answer, with its tool calls apart from its text."""
    message: bodies.AnswerMessage = {"role": "assistant", "content": answer.text, "refusal": None}
    finish_reason: str | None = active.answers[index].finish_reason
    reader = call_reader(chat_request, active.service.processor)
    if reader is not None:
        shown = reader.add(answer.text)
        rest, calls = reader.finish()
        if calls:
            content = "\n".join(filter(None, (shown.strip(), rest)))
            message = {**message, "content": content or None, "tool_calls": call_bodies(calls, chat_request)}
            finish_reason = "tool_calls"
    return {
        "index": index,
        "message": message,
        "logprobs": choice_logprobs(active, index, answer.logprobs),
        "finish_reason": finish_reason,
    }


def usage(active: ActiveRequest) -> bodies.Usage:
    """Return the token counts of a request. A prompt counts once, however many answers it has."""
    prompts = active.answers[:: active.per_prompt]
    prompt_tokens = sum(answer.prompt_tokens for answer in prompts)
    completion_tokens = sum(answer.completion_tokens for answer in active.answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(answer.reused_tokens for answer in prompts)},
    }


def choice_logprobs(
    active: ActiveRequest, index: int, entries: Sequence[TokenLogprobs]
) -> bodies.ChoiceLogprobs | None:
    """Return the log probabilities of an answer's tokens; None if the request did not ask for them."""
    if active.answers[index].sequence.top_logprobs is None:
        return None
    return {"content": [logprob_body(active.service.texts, entry) for entry in entries], "refusal": None}


def logprob_body(texts: TokenTexts, entry: TokenLogprobs) -> bodies.TokenLogprob:
    """Return the log probabilities of one token."""

    def one(token: int, logprob: float) -> bodies.TopLogprob:
        return {"id": token, "token": texts.text_of(token), "logprob": logprob, "bytes": list(texts.bytes_of(token))}

    return {**one(entry.token, entry.logprob), "top_logprobs": [one(*pair) for pair in entry.top]}


async def stream_lines(active: ActiveRequest, chat_request: ChatRequest, request_id: str) -> AsyncIterator[str]:
    """Yield server-sent events. An error is an event too, and [DONE] always comes last."""
    options = chat_request.stream_options
    with_usage = options is not None and bool(options.include_usage)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": chat_request.model,
    }

    def chunk(
        index: int, delta: dict[str, Any], entries: Sequence[TokenLogprobs] = (), finish_reason: str | None = None
    ) -> str:
        logprobs = choice_logprobs(active, index, entries) if entries else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    async def lines() -> AsyncIterator[str]:
        for index in range(len(active.answers)):
            yield chunk(index, {"role": "assistant", "content": ""})
        readers = [call_reader(chat_request, active.service.processor) for _ in active.answers]
        async for new in active.events():
            if new is None:
                yield WAITING
                continue
            reader, finish_reason = readers[new.index], active.answers[new.index].finish_reason
            if not new.ended:
                text = new.text if reader is None else reader.add(new.text)
                yield chunk(new.index, {"content": text}, new.logprobs) if text or new.logprobs else WAITING
                continue
            rest, calls = ("", []) if reader is None else reader.finish()
            if rest or new.logprobs:
                yield chunk(new.index, {"content": rest}, new.logprobs)
            for number, call in enumerate(call_bodies(calls, chat_request)):
                yield chunk(new.index, {"tool_calls": [{"index": number, **call}]})
            yield chunk(new.index, {}, finish_reason="tool_calls" if calls else finish_reason)
        if with_usage:
            yield event({**head, "choices": [], "usage": usage(active)})

    async for line in with_errors(active, lines(), request_id):
        yield line
    yield "data: [DONE]\n\n"


async def with_errors(active: ActiveRequest, lines: AsyncIterator[str], request_id: str) -> AsyncIterator[str]:
    """Yield the lines of a stream; an error becomes the last of them."""
    try:
        async for line in lines:
            yield line
    except Refusal as refusal:
        active.service.metrics.rejects.labels(refusal.code).inc()
        yield event(refusal.body)
    except Exception as error:
        log_error(request_id, error)
        yield event(server_error(request_id).body)


def event(value: Mapping[str, Any]) -> str:
    """Format one server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
