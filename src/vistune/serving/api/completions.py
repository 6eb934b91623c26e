"""`/v1/completions`: continue texts without a chat template.

https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

import time
import uuid
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from fastapi import Request
from pydantic import Field, field_validator

from vistune.errors import DataError
from vistune.generation import Output
from vistune.generation.fields import FieldError
from vistune.generation.logprobs import TokenLogprobs, TokenTexts
from vistune.generation.sequence import Prompt, hash_prompt
from vistune.generation.text_stream import CONTINUATION
from vistune.serving.api import Limits, bodies
from vistune.serving.api.active import ActiveRequest, AnswerSettings
from vistune.serving.api.chat import WAITING, WholeAnswer, event, usage, with_errors
from vistune.serving.api.guard import CHAT, field_refusal
from vistune.serving.api.schema import (
    FIELDS,
    MOST_LOGPROBS,
    UNSUPPORTED,
    AnswerFields,
    ModelRequest,
    StreamOptions,
    field_errors,
    read_body,
    refuse_long_answer,
    refuse_stream_options,
)
from vistune.serving.api.service import ModelService

MOST_PROMPTS = 16
DEFAULT_TOKENS = 16  # OpenAI's
ELSEWHERE = f"send it to {CHAT}"
COMPLETION_FIELDS = {
    **FIELDS,
    "prompt": f"text, or a list of 1 to {MOST_PROMPTS} texts; token ids are not read",
    "prompt[]": "text; token ids are not read",
    "echo": "true or false",
    "logprobs": f"a whole number from 0 to {MOST_LOGPROBS}: how many likeliest tokens are listed",
    "max_tokens": f"a whole number of 1 or more; without it {DEFAULT_TOKENS}",
}
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
HANDLED = ("echo",)  # fields that this API has and a chat has not


class CompletionRequest(ModelRequest, AnswerFields):
    """A request of OpenAI's completions: a text, or several, that the model continues."""

    refused: ClassVar[Mapping[str, str]] = {
        **{name: "remove it" for name in UNSUPPORTED if name not in HANDLED},
        "suffix": "this model only continues texts; remove it",
        **dict.fromkeys(("messages", "response_format", "tools", "tool_choice", "image", "images"), ELSEWHERE),
        **dict.fromkeys(("input", "inputs"), "put the text into prompt"),
        **dict.fromkeys(("max_completion_tokens", "top_logprobs"), "use max_tokens and logprobs"),
    }
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {**UNSUPPORTED, "tool_choice": (None, "none", "auto")}

    prompt: Texts
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    @field_validator("prompt", mode="before", json_schema_input_type=Texts | Text)
    @classmethod
    def _one_prompt(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def settings(self, limits: Limits) -> AnswerSettings:
        """Return how the texts are continued."""
        return AnswerSettings(
            max_tokens=min(self.max_tokens or DEFAULT_TOKENS, limits.max_tokens),
            sampling=self.sampling(),
            stop=self.stop or (),
            count=self.n or 1,
            output=Output(top_logprobs=self.logprobs, style=CONTINUATION),
        )

    def check(self, limits: Limits) -> None:
        """Raise FieldError for fields that contradict each other or the server's limits."""
        refuse_stream_options(self.stream_options, self.stream)
        refuse_long_answer("max_tokens", self.max_tokens, limits)
        if self.echo and self.logprobs is not None:
            raise FieldError("echo", "not together with logprobs: those of a prompt are not computed", "remove one")
        characters = sum(map(len, self.prompt))
        if characters > limits.characters:
            raise FieldError("prompt", f"{characters} characters of text, at most {limits.characters}", "send fewer")


async def admit_completion(service: ModelService, request: Request) -> tuple[ActiveRequest, CompletionRequest]:
    """Read a request and submit its prompts. If it raises Refusal, the request is not active."""
    async with service.enter(request) as (active, body):

        def read() -> tuple[CompletionRequest, list[str], list[Prompt]]:
            asked, unused = read_body(CompletionRequest, body, service.name, COMPLETION_FIELDS)
            with field_errors():
                asked.check(service.limits)
            return asked, unused, [_encoded(service, text, k) for k, text in enumerate(asked.prompt)]

        asked, active.unused, prompts = await service.in_reader(read)
        active.submit(prompts, asked.settings(service.limits))
        return active, asked


def _encoded(service: ModelService, text: str, number: int) -> Prompt:
    path = f"prompt[{number}]"
    try:
        prompt = hash_prompt(service.processor.encode_text(text))
    except DataError as error:
        raise field_refusal(FieldError(path, error.message, error.hint)) from None
    if not len(prompt):
        raise field_refusal(FieldError(path, "it has no tokens", "send more text"))
    service.refuse_long(prompt, path)
    return prompt


def text_body(active: ActiveRequest, asked: CompletionRequest, answers: Sequence[WholeAnswer]) -> bodies.TextCompletion:
    """Return the body of finished continuations."""
    choices: list[bodies.TextChoice] = [
        {
            "index": index,
            "text": echoed(active, asked, index) + answer.text,
            "logprobs": text_logprobs(active, index, answer.logprobs, 0),
            "finish_reason": active.answers[index].finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return {**_head(active), "choices": choices, "usage": usage(active)}


def echoed(active: ActiveRequest, asked: CompletionRequest, index: int) -> str:
    """Return the prompt before a continuation, if the request wants it."""
    return asked.prompt[index // active.per_prompt] if asked.echo else ""


def _head(active: ActiveRequest) -> bodies.TextCompletion:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": active.service.name,
        "choices": [],
    }


def text_logprobs(
    active: ActiveRequest, index: int, entries: Sequence[TokenLogprobs], offset: int
) -> bodies.TextLogprobs | None:
    """Return the log probabilities of a text's tokens. `offset`: characters of the continuation before them."""
    if active.answers[index].sequence.top_logprobs is None:
        return None
    texts = active.service.texts
    return {
        "tokens": [texts.text_of(entry.token) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{texts.text_of(token): value for token, value in entry.top} for entry in entries],
        "text_offset": [offset + start for start in _starts(texts, entries)],
    }


def _starts(texts: TokenTexts, entries: Sequence[TokenLogprobs]) -> list[int]:
    starts, characters = [], 0
    decoder = getincrementaldecoder("utf-8")("replace")
    for entry in entries:
        starts.append(characters)
        characters += len(decoder.decode(texts.bytes_of(entry.token)))
    return starts


async def text_stream_lines(active: ActiveRequest, asked: CompletionRequest, request_id: str) -> AsyncIterator[str]:
    """Yield server-sent events. An error is an event too, and [DONE] always comes last."""
    options, head = asked.stream_options, _head(active)
    with_usage = options is not None and bool(options.include_usage)
    offsets = [0] * len(active.answers)

    def chunk(index: int, text: str, entries: Sequence[TokenLogprobs] = (), finish_reason: str | None = None) -> str:
        logprobs = text_logprobs(active, index, entries, offsets[index]) if entries else None
        offsets[index] += len(text)
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    async def lines() -> AsyncIterator[str]:
        for index in range(len(active.answers)):
            if text := echoed(active, asked, index):
                yield chunk(index, text)
        async for new in active.events():
            if new is None:
                yield WAITING
            elif new.ended:
                yield chunk(new.index, "", new.logprobs, active.answers[new.index].finish_reason)
            else:
                yield chunk(new.index, new.text, new.logprobs)
        if with_usage:
            yield event({**head, "usage": usage(active)})

    async for line in with_errors(active, lines(), request_id):
        yield line
    yield "data: [DONE]\n\n"
