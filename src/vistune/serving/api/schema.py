"""A chat completion's body: every number, list and string of it has a bound.

bytes -> ChatRequest and the paths of unused fields; an unused field that would change the answer is refused by name
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from vistune.generation import Sampling
from vistune.generation.fields import Body, FieldError, field_error, unused_fields
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
from vistune.serving.api.limits import Limits
from vistune.serving.api.refusal import Refusal, of_field

MOST_MESSAGES = 1000
# Parameters of OpenAI and vLLM that change an answer, each with the values that do not; () are those of NOTHING.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,), "allowed_token_ids": (), "audio": (), "bad_words": (), "best_of": (1,),
    "continue_final_message": (), "documents": (), "echo": (), "extra_body": (), "frequency_penalty": (),
    "function_call": ("none", "auto"), "functions": (), "guided_choice": (), "guided_grammar": (), "guided_json": (),
    "guided_regex": (), "ignore_eos": (), "include_stop_str_in_output": (), "length_penalty": (1,), "logit_bias": (),
    "logprobs": (), "min_p": (), "min_tokens": (), "mm_processor_kwargs": (), "modalities": (["text"],),
    "moderation": (), "prediction": (), "presence_penalty": (), "prompt_logprobs": (), "reasoning": (),
    "reasoning_effort": ("none",), "response_format": ({"type": "text"},), "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,), "stop_token_ids": (), "structured_outputs": (),
    "tool_choice": ("none", "auto"), "tools": (), "top_logprobs": (), "truncate_prompt_tokens": (),
    "use_beam_search": (), "verbosity": ("medium",), "web_search_options": (),
    "chat_template": (), "chat_template_kwargs": (),
}  # fmt: skip
BESIDE_MESSAGES = {  # content beside the messages, where other APIs take it -> what to do instead
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
    **dict.fromkeys(("audios", "audio_url", "input_audio"), "this model hears nothing; leave it out"),
    **dict.fromkeys(("file", "files", "attachments"), "put a file's text into messages"),
}
LEAST = 1e-5  # a smaller temperature or top_p takes the likeliest token too, but not all of them are numbers in fp32
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
    "n": "1; for more answers send the request again",
}

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=16, fail_fast=True)]
Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]


class StreamOptions(Body):
    include_usage: bool | None = None


class ChatRequest(Body):
    """https://platform.openai.com/docs/api-reference/chat/create, and vLLM's `top_k` and `repetition_penalty`."""

    refused: ClassVar[Mapping[str, str]] = {**dict.fromkeys(UNSUPPORTED, "leave it out"), **BESIDE_MESSAGES}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = UNSUPPORTED

    model: str
    messages: Messages
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: Stops | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    n: Literal[1] | None = None

    @field_validator("stop", mode="before", json_schema_input_type=Stops | Stop | None)
    @classmethod
    def _one_stop(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    def sampling(self) -> Sampling:
        """OpenAI's defaults: temperature 1, all tokens, another chance each time."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(
            temperature=temperature if temperature > LEAST else 0.0,
            top_p=max(LEAST, 1.0 if self.top_p is None else self.top_p),
            top_k=max(self.top_k or 0, 0),
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
        )

    def answer_tokens(self, limits: Limits) -> int:
        return min(self.max_completion_tokens or self.max_tokens or limits.max_tokens, limits.max_tokens)


class LookRequest(Body):
    """What `/v1/looks` is asked: a chat's messages, up to the user's last, and the answer that the model gave."""

    refused: ClassVar[Mapping[str, str]] = BESIDE_MESSAGES

    model: str
    messages: Messages
    answer: str = Field(min_length=1)


Request = TypeVar("Request", ChatRequest, LookRequest)


def read_look(body: bytes, *, model: str, limits: Limits) -> tuple[LookRequest, list[str]]:
    """As `read_request`."""
    request, unused = _read(LookRequest, body, model)
    _refuse_size(request.messages, limits, len(request.answer))
    return request, unused


def read_request(body: bytes, *, model: str, limits: Limits) -> tuple[ChatRequest, list[str]]:
    """Parse a request. Also returns the paths of its unused fields. If a key occurs twice, the last one counts.

    Raises Refusal with the field and what to do.
    """
    request, unused = _read(ChatRequest, body, model)
    if request.stream_options is not None and not request.stream:
        raise of_field(FieldError("stream_options", "only for streams", "set stream to true, or leave it out"))
    for name in ("max_tokens", "max_completion_tokens"):
        if (getattr(request, name) or 0) > limits.max_tokens:
            what = f"above this server's limit of {limits.max_tokens} tokens"
            raise of_field(FieldError(name, what, "give fewer, or leave it out"))
    if None not in (request.max_tokens, request.max_completion_tokens):
        unused.insert(0, "max_tokens")
    _refuse_size(request.messages, limits)
    return request, unused


def _read(kind: type[Request], body: bytes, model: str) -> tuple[Request, list[str]]:
    """Parse and check a body of this type."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error, body) from None
    if request.model != model:
        message = f"model: there is no such model here; this server's is {model!r}"
        raise Refusal(404, message, code="model_not_found", param="model")
    try:
        unused = unused_fields(request)
        for k, message_given in enumerate(request.messages):
            check_message(message_given, f"messages[{k}]")
        require_question([message_given.role for message_given in request.messages])
    except FieldError as error:
        raise of_field(error) from None
    return request, unused


def _refused(error: ValidationError, body: bytes) -> Refusal:
    if error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] == "json_invalid":
        what = "not JSON in UTF-8" if body.strip() else "empty"
        return Refusal(400, f"the body is {what}; send a JSON object", code="invalid_json")
    return of_field(field_error(error, FIELDS, INSTEAD))


def unused_header(paths: Sequence[str]) -> dict[str, str]:
    """Response headers that list the unused fields; empty if all were used."""
    return {"X-Ignored-Parameters": ", ".join(paths)} if paths else {}


def _refuse_size(messages: Sequence[ChatMessage], limits: Limits, more_characters: int = 0) -> None:
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
            raise of_field(FieldError("messages", f"{count} {noun}, and {most} are read", "send fewer"))
