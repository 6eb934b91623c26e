"""`/v1/responses`: the body of a finished response, and the events of a stream.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from vistune.generation import alternate_turns
from vistune.generation.logprobs import TokenLogprobs
from vistune.generation.sequence import Prompt, hash_prompt
from vistune.serving.api import bodies
from vistune.serving.api.active import ActiveRequest
from vistune.serving.api.chat import WAITING, WholeAnswer, logprob_body
from vistune.serving.api.guard import Refusal, log_error, server_error
from vistune.serving.api.responses_schema import ResponsesRequest, read_responses_request
from vistune.serving.api.service import ModelService


async def admit_response(service: ModelService, request: Request) -> tuple[ActiveRequest, ResponsesRequest]:
    """Read a request and submit its prompt. If it raises Refusal, the request is not active."""
    async with service.enter(request) as (active, body):
        response_request, active.unused = await service.in_reader(
            lambda: read_responses_request(body, model=service.name, limits=service.limits)
        )
        settings = await service.in_reader(lambda: response_request.settings(service.limits, service.engine.grammars))
        messages, paths = await service.in_reader(response_request.conversation)  # a long one takes seconds

        def encode(turns: list[Any]) -> Prompt:
            return hash_prompt(service.processor.encode_prompt(alternate_turns(turns)))

        prompt = await service.encoded(active, messages, encode, paths)
        service.refuse_long(prompt, "input")
        active.submit([prompt], settings)
        return active, response_request.model_copy(update={"input": []})  # it may hold megabytes of images


@dataclass(slots=True)
class ResponseWriter:
    """Writes the objects of one response, which share their ids."""

    active: ActiveRequest
    request: ResponsesRequest
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    item_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    events: int = 0

    @property
    def is_cut(self) -> bool:
        return self.active.answers[0].finish_reason == "length"

    def status(self, answer: WholeAnswer | None) -> bodies.ResponseStatus:
        """Return the status of the message and the response."""
        return "in_progress" if answer is None else "incomplete" if self.is_cut else "completed"

    def logprobs(self, entries: Sequence[TokenLogprobs]) -> list[bodies.TokenLogprob]:
        """Return the log probabilities of tokens as a response lists them."""
        return [logprob_body(self.active.service.texts, entry) for entry in entries]

    def part(self, answer: WholeAnswer) -> bodies.OutputText:
        """Return the text part of the message."""
        return {
            "type": "output_text",
            "text": answer.text,
            "annotations": [],
            "logprobs": self.logprobs(answer.logprobs),
        }

    def item(self, answer: WholeAnswer | None) -> bodies.OutputMessage:
        """Return the message; without an answer, the one that has just begun."""
        status = self.status(answer)
        content = [] if answer is None else [self.part(answer)]
        return {"id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def body(self, answer: WholeAnswer | None) -> bodies.ResponseBody:
        """Return the response; without an answer, the one that has just begun."""
        request, settings = self.request, self.request.format
        status = self.status(answer)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self.active.service.name,
            "output": [] if answer is None else [self.item(answer)],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": settings.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None if answer is None else response_usage(self.active),
        }

    def event(self, name: str, **values: Any) -> str:
        """Format one server-sent event with its number."""
        data = {"type": name, "sequence_number": self.events, **values}
        self.events += 1
        return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def response_usage(active: ActiveRequest) -> bodies.ResponseUsage:
    """Return the token counts of a response."""
    answer = active.answers[0]
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": answer.reused_tokens},
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }


async def response_events(
    active: ActiveRequest, response_request: ResponsesRequest, request_id: str
) -> AsyncIterator[str]:
    """Yield server-sent events; an error is the last of them."""
    writer = ResponseWriter(active, response_request)
    try:
        async for line in _events(writer):
            yield line
    except Refusal as refusal:
        active.service.metrics.rejects.labels(refusal.code).inc()
        yield _error_event(writer, refusal)
    except Exception as error:
        log_error(request_id, error)
        yield _error_event(writer, server_error(request_id))


def _error_event(writer: ResponseWriter, refusal: Refusal) -> str:
    error = refusal.body["error"]
    return writer.event("error", code=error["code"], message=error["message"], param=error["param"])


async def _events(writer: ResponseWriter) -> AsyncIterator[str]:
    answer = WholeAnswer()
    position = {"item_id": writer.item_id, "output_index": 0, "content_index": 0}
    yield writer.event("response.created", response=writer.body(None))
    yield writer.event("response.in_progress", response=writer.body(None))
    yield writer.event("response.output_item.added", output_index=0, item=writer.item(None))
    yield writer.event("response.content_part.added", **position, part=writer.part(answer))
    async for new in writer.active.events():
        if new is None:
            yield WAITING
        elif new.text or new.logprobs:
            answer.text += new.text
            answer.logprobs += new.logprobs
            logprobs = writer.logprobs(new.logprobs)
            yield writer.event("response.output_text.delta", **position, delta=new.text, logprobs=logprobs)
    logprobs = writer.logprobs(answer.logprobs)
    yield writer.event("response.output_text.done", **position, text=answer.text, logprobs=logprobs)
    yield writer.event("response.content_part.done", **position, part=writer.part(answer))
    yield writer.event("response.output_item.done", output_index=0, item=writer.item(answer))
    last = "response.incomplete" if writer.is_cut else "response.completed"
    yield writer.event(last, response=writer.body(answer))
