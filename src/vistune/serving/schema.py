"""A chat completion's body: every number, list and string of it has a bound.

bytes -> ChatRequest · what would change the answer and is not done here is refused by name, the rest is listed
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vistune.generation import Sampling
from vistune.serving.limits import Limits
from vistune.serving.refusal import Refusal, of_validation

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
LEAST = 1e-5  # a smaller temperature or top_p takes the likeliest token too, but not all of them are numbers in fp32
NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})


class Body(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class TextPart(Body):
    type: Literal["text"]
    text: str


class ImageURL(Body):
    url: str
    detail: Literal["auto", "low", "high"] | None = None  # taken and not used: a model has one way to see


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageURL


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1, max_length=256)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=16)]


class ChatMessage(Body):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: Parts
    name: Annotated[str, Field(max_length=64)] | None = None

    @field_validator("content", mode="before", json_schema_input_type=Parts | str)
    @classmethod
    def _one_text(cls, given: Any) -> Any:
        return [{"type": "text", "text": given}] if isinstance(given, str) else given

    @model_validator(mode="after")
    def _nothing_more(self) -> ChatMessage:
        """An answer sent back as the client library holds it has empty fields beside its text."""
        wrong = sorted(name for name, value in (self.model_extra or {}).items() if value not in NOTHING)
        if wrong:
            raise ValueError(f"{wrong[0][:64]!r} is not supported in a message")
        return self


class StreamOptions(Body):
    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class ChatRequest(Body):
    """https://platform.openai.com/docs/api-reference/chat/create, and vLLM's `top_k` and `repetition_penalty`."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=512)
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
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

    @model_validator(mode="after")
    def _usage_of_streams(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        return self

    @property
    def ignored(self) -> list[str]:
        """Unknown parameters, as a header may list them."""
        names = [name for name in self.model_extra or {} if name not in UNSUPPORTED]
        return [name if name.isidentifier() and name.isascii() else "?" for name in (n[:64] for n in names)][:32]

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

    model: str = Field(max_length=512)
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    answer: str = Field(min_length=1)


def read_look(body: bytes, *, model: str, limits: Limits) -> LookRequest:
    """Raises Refusal with the place of what is wrong."""
    try:
        request = LookRequest.model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error) from None
    _refuse_model(request.model, model)
    _refuse_size(request.messages, limits, len(request.answer))
    return request


def read_request(body: bytes, *, model: str, limits: Limits) -> ChatRequest:
    """Raises Refusal with the place of what is wrong. Of a key that stands twice the last counts."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error) from None
    _refuse_model(request.model, model)
    for name, value in (request.model_extra or {}).items():
        if name in UNSUPPORTED and value is not None and value not in (UNSUPPORTED[name] or NOTHING):
            raise Refusal(400, f"{name} is not supported here; leave it out", code="unsupported_parameter", param=name)
    for name in ("max_tokens", "max_completion_tokens"):
        if (getattr(request, name) or 0) > limits.max_tokens:
            message = f"{name} is above this server's limit of {limits.max_tokens} tokens"
            raise Refusal(400, message, code="invalid_value", param=name)
    _refuse_size(request.messages, limits)
    return request


def _refuse_model(asked: str, model: str) -> None:
    if asked != model:
        raise Refusal(404, f"there is no such model here; this is {model!r}", code="model_not_found", param="model")


def _refuse_size(messages: Sequence[ChatMessage], limits: Limits, more_characters: int = 0) -> None:
    if messages[-1].role != "user":
        raise Refusal(400, "the last message must be the user's", code="invalid_value", param="messages")
    parts = [part for message in messages for part in message.content]
    pictures = sum(isinstance(part, ImagePart) for part in parts)
    characters = more_characters + sum(len(part.text) for part in parts if isinstance(part, TextPart))
    for count, most, noun in (
        (pictures, limits.pictures, "pictures"),
        (characters, limits.characters, "characters of text"),
    ):
        if count > most:
            message = f"messages hold {count} {noun}, {most} are read"
            raise Refusal(400, message, code="invalid_value", param="messages")
