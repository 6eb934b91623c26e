"""The bodies of chat requests, and the fields that all APIs share.

Every number, list and string of a request has a bound. A field that vistune does not support and that would change the
answer is refused by name. `read_request` returns the paths of the other unsupported fields, and the response lists them
in the header X-Ignored-Parameters.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, ValidationError, field_validator

from vistune.generation import Output, Sampling
from vistune.generation.fields import Body, FieldError, field_error, unused_fields
from vistune.generation.grammar import GrammarCompiler
from vistune.generation.messages import (
    EXPECTED,
    IMAGE_NAMES,
    INSTEAD,
    MOVE_IMAGES,
    ChatMessage,
    ImagePart,
    RefusalPart,
    TextPart,
    check_message,
    require_question,
)
from vistune.generation.text_stream import ANSWER, TextStyle
from vistune.processor import Processor
from vistune.serving.api import Limits
from vistune.serving.api.active import AnswerSettings
from vistune.serving.api.formats import FORMAT_FIELDS, ResponseFormat, compiled
from vistune.serving.api.guard import Refusal, field_refusal
from vistune.serving.api.tools import (
    TOOL_FIELDS,
    ToolFields,
    ToolMessage,
    check_tool_messages,
    refuse_tools,
    refuse_tools_with_format,
)

MOST_MESSAGES = 1000
MOST_ANSWERS = 16  # per prompt
MOST_LOGPROBS = 20  # likeliest tokens per token
# Parameters of OpenAI and vLLM that change an answer, with the values that do not; () stands for those of NOTHING.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,), "allowed_token_ids": (), "audio": (), "bad_words": (), "best_of": (1,),
    "continue_final_message": (), "documents": (), "echo": (), "extra_body": (), "frequency_penalty": (),
    "function_call": ("none", "auto"), "functions": (), "guided_choice": (), "guided_grammar": (), "guided_json": (),
    "guided_regex": (), "ignore_eos": (), "include_stop_str_in_output": (), "length_penalty": (1,), "logit_bias": (),
    "min_p": (), "min_tokens": (), "mm_processor_kwargs": (), "modalities": (["text"],),
    "moderation": (), "prediction": (), "presence_penalty": (), "prompt_logprobs": (), "reasoning": (),
    "reasoning_effort": ("none",), "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,), "stop_token_ids": (), "structured_outputs": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (), "verbosity": ("medium",), "web_search_options": (),
    "chat_template": (), "chat_template_kwargs": (),
}  # fmt: skip
OUTSIDE_MESSAGES = {  # fields in which other APIs take content -> what to do instead
    **dict.fromkeys(IMAGE_NAMES, f"put it into messages: {MOVE_IMAGES}, in the user's message"),
    **dict.fromkeys(
        ("video", "videos", "video_url"), "this model sees single images; put each frame into messages as an image"
    ),
    **dict.fromkeys(
        ("system", "system_prompt", "system_instruction", "instructions"),
        'put it into messages: {"role": "system", "content": "..."}',
    ),
    **dict.fromkeys(
        ("prompt", "input", "inputs", "query", "question", "contents"),
        'put it into messages: {"role": "user", "content": "..."}',
    ),
    **dict.fromkeys(("audios", "audio_url", "input_audio"), "this model reads no audio; remove the field"),
    **dict.fromkeys(("file", "files", "attachments"), "put a file's text into messages"),
}
SMALLEST = 1e-5  # smaller values of temperature and top_p mean greedy decoding too, but underflow in fp32
FIELDS = {  # a field's path -> what it must be
    **EXPECTED,
    "": "a JSON object",
    "model": "the model's name as text, as the server lists it",
    "messages": f"a list of 1 to {MOST_MESSAGES} messages",
    "answer": "the answer that the model gave, as text",
    "stream": "true or false",
    "stream_options": "an object",
    "stream_options.include_usage": "true or false",
    "temperature": "a number from 0 to 2",
    "top_p": "a number above 0 and at most 1",
    "top_k": "a whole number from -1 to 1000000 (-1 and 0: all tokens)",
    "repetition_penalty": "a number from 0.01 to 10",
    "max_tokens": "a whole number of 1 or more; without it an answer may be as long as the server allows",
    "max_completion_tokens": "a whole number of 1 or more; without it an answer may be as long as the server allows",
    "stop": "text of 1 to 256 characters, or a list of at most 16 such texts",
    "stop[]": "text of 1 to 256 characters",
    "seed": "a whole number of at most 64 bits",
    "n": f"a whole number from 1 to {MOST_ANSWERS}",
    "logprobs": "true or false",
    "top_logprobs": f"a whole number from 0 to {MOST_LOGPROBS}",
    **FORMAT_FIELDS,
    **TOOL_FIELDS,
}

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=16, fail_fast=True)]
Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]


class StreamOptions(Body):
    include_usage: bool | None = None


class ModelRequest(Body):
    """A request of any API: it names the model."""

    model: str


class SamplingFields(Body):
    """The fields of every API that say how tokens are sampled."""

    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)

    def sampling(self) -> Sampling:
        """Return the sampling settings. OpenAI's defaults: temperature 1, all tokens, a random seed."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(
            temperature=temperature if temperature > SMALLEST else 0.0,
            top_p=max(SMALLEST, 1.0 if self.top_p is None else self.top_p),
            top_k=max(self.top_k or 0, 0),
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
        )


class AnswerFields(SamplingFields):
    """The fields of the completions APIs that say where an answer stops, and how many answers there are."""

    stop: Stops | None = None
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)

    @field_validator("stop", mode="before", json_schema_input_type=Stops | Stop | None)
    @classmethod
    def _one_stop(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given


class ChatRequest(ModelRequest, AnswerFields, ToolFields):
    """A request of OpenAI's chat completions, with vLLM's `top_k` and `repetition_penalty`.

    https://platform.openai.com/docs/api-reference/chat/create
    """

    refused: ClassVar[Mapping[str, str]] = {**dict.fromkeys(UNSUPPORTED, "remove it"), **OUTSIDE_MESSAGES}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = UNSUPPORTED

    messages: Annotated[list[ToolMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    @property
    def uses_tools(self) -> bool:
        """Whether the conversation is written by the template with tools."""
        return bool(self.names) or any(message.has_tools for message in self.messages)

    def settings(self, limits: Limits, processor: Processor, grammars: GrammarCompiler) -> AnswerSettings:
        """Return how the answers are generated; may take a second. Raises Refusal for a schema that is not enforced."""
        schema, path = (None, "") if self.response_format is None else self.response_format.required_schema()
        return AnswerSettings(
            max_tokens=min(self.max_completion_tokens or self.max_tokens or limits.max_tokens, limits.max_tokens),
            sampling=self.sampling(),
            stop=self.stop or (),
            count=self.n or 1,
            output=Output(
                grammar=compiled(schema, path, grammars) or self.grammar(processor, grammars),
                top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
                style=TextStyle(keeps_special=True) if self.names else ANSWER,
            ),
            format_param="tools" if self.is_forced else "response_format",
        )

    def check(self, limits: Limits) -> None:
        """Raise FieldError for fields that contradict each other or the server's limits."""
        refuse_stream_options(self.stream_options, self.stream)
        for name in ("max_tokens", "max_completion_tokens"):
            refuse_long_answer(name, getattr(self, name), limits)
        if self.top_logprobs is not None and not self.logprobs:
            raise FieldError("top_logprobs", "only together with logprobs", "set logprobs to true, or remove it")
        schema, _ = (None, "") if self.response_format is None else self.response_format.required_schema()
        self.check_tools()
        refuse_tools_with_format(self, has_schema=schema is not None)
        check_tool_messages(self.messages)
        # The result of a call is answered like a question.
        require_question(["user" if message.role == "tool" else message.role for message in self.messages])


class AttentionRequest(ModelRequest):
    """A request of `/v1/looks`: the messages of a chat up to the last question, and the answer of the model."""

    refused: ClassVar[Mapping[str, str]] = OUTSIDE_MESSAGES

    messages: Messages
    answer: str = Field(min_length=1)


Request = TypeVar("Request", bound="ModelRequest")


def read_attention_request(body: bytes, *, model: str, limits: Limits) -> tuple[AttentionRequest, list[str]]:
    """Parse a request of `/v1/looks`; like `read_request`."""
    request, unused = read_body(AttentionRequest, body, model)
    with field_errors():
        check_messages(request.messages)
    refuse_size(request.messages, limits, len(request.answer))
    return request, unused


def read_request(body: bytes, *, model: str, limits: Limits, has_tools: bool = False) -> tuple[ChatRequest, list[str]]:
    """Parse a chat request; return it and the paths of its unused fields. If a key occurs twice, the last one counts.

    `has_tools`: whether the model's chat template has tools. Raises Refusal with the field and what to do.
    """
    request, unused = read_body(ChatRequest, body, model)
    with field_errors():
        if not has_tools:
            refuse_tools(request, request.messages)
        request.check(limits)
    if None not in (request.max_tokens, request.max_completion_tokens):
        unused.insert(0, "max_tokens")
    refuse_size(request.messages, limits)
    return request, unused


def refuse_stream_options(options: StreamOptions | None, stream: bool | None) -> None:
    """Raise FieldError for options of a stream without a stream."""
    if options is not None and not stream:
        raise FieldError("stream_options", "only for streams", "set stream to true, or remove it")


def refuse_long_answer(name: str, tokens: int | None, limits: Limits) -> None:
    """Raise FieldError if an answer may not have this number of tokens."""
    if (tokens or 0) > limits.max_tokens:
        problem = f"above this server's limit of {limits.max_tokens} tokens"
        raise FieldError(name, problem, "lower it, or remove it")


def check_messages(messages: Sequence[ChatMessage]) -> None:
    """Raise FieldError for messages that no template can render."""
    for k, message in enumerate(messages):
        check_message(message, f"messages[{k}]")
    require_question([message.role for message in messages])


@contextmanager
def field_errors() -> Iterator[None]:
    """Raise an error of a field as a Refusal."""
    try:
        yield
    except FieldError as error:
        raise field_refusal(error) from None


def read_body(
    kind: type[Request],
    body: bytes,
    model: str,
    expected: Mapping[str, str] = FIELDS,
    instead: Mapping[str, Mapping[str, str]] = INSTEAD,
) -> tuple[Request, list[str]]:
    """Parse a body; return it and the paths of its unused fields. `expected`, `instead`: as in `field_error`."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        if error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] == "json_invalid":
            problem = "not JSON in UTF-8" if body.strip() else "empty"
            raise Refusal(400, f"the body is {problem}; send a JSON object", code="invalid_json") from None
        raise field_refusal(field_error(error, expected, instead)) from None
    if request.model != model:
        message = f"model: not a model of this server; it serves {model!r}"
        raise Refusal(404, message, code="model_not_found", param="model")
    with field_errors():
        return request, unused_fields(request)


def unused_header(paths: Sequence[str]) -> dict[str, str]:
    """Response headers that list the unused fields; empty if all were used."""
    return {"X-Ignored-Parameters": ", ".join(paths)} if paths else {}


def refuse_size(
    messages: Sequence[ChatMessage], limits: Limits, more_characters: int = 0, path: str = "messages"
) -> None:
    """Raise Refusal if the messages have more images or text than the limits allow."""
    parts = [part for message in messages for part in message.parts]
    images = sum(isinstance(part, ImagePart) for part in parts)
    characters = more_characters + sum(
        len(part.text if isinstance(part, TextPart) else part.refusal)
        for part in parts
        if isinstance(part, TextPart | RefusalPart)
    )
    for count, most, noun in (
        (images, limits.images, "images"),
        (characters, limits.characters, "characters of text"),
    ):
        if count > most:
            raise field_refusal(FieldError(path, f"{count} {noun}, at most {most} are allowed", "send fewer"))
