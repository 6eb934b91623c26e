"""The bodies of requests and responses.

Every number, list and string of a request has a bound. A field that vistune does not support and that would change the
answer is refused by name. `read_request` returns the paths of the other unsupported fields, and the response lists them
in the header X-Ignored-Parameters.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NotRequired,  # pydantic reads typing's own only from Python 3.12 on
    TypeVar,
)

from pydantic import Field, ValidationError, field_validator
from typing_extensions import TypedDict

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
from vistune.serving.api import Limits
from vistune.serving.api.guard import Refusal, field_refusal

MOST_MESSAGES = 1000
# Parameters of OpenAI and vLLM that change an answer, with the values that do not; () stands for those of NOTHING.
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
    "n": "1; for more answers send the request again",
}

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=16, fail_fast=True)]
Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]


class StreamOptions(Body):
    include_usage: bool | None = None


class ChatRequest(Body):
    """A request of OpenAI's chat completions, with vLLM's `top_k` and `repetition_penalty`.

    https://platform.openai.com/docs/api-reference/chat/create
    """

    refused: ClassVar[Mapping[str, str]] = {**dict.fromkeys(UNSUPPORTED, "remove it"), **OUTSIDE_MESSAGES}
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
    def _one_stop(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given

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

    def answer_tokens(self, limits: Limits) -> int:
        """Return the maximum number of tokens of the answer."""
        return min(self.max_completion_tokens or self.max_tokens or limits.max_tokens, limits.max_tokens)


class AttentionRequest(Body):
    """A request of `/v1/looks`: the messages of a chat up to the last question, and the answer of the model."""

    refused: ClassVar[Mapping[str, str]] = OUTSIDE_MESSAGES

    model: str
    messages: Messages
    answer: str = Field(min_length=1)


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """An error in OpenAI's format."""

    error: ErrorDetail


class ModelBody(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_output_tokens: int
    max_pictures: int
    max_model_len: NotRequired[int]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelBody]


class AnswerMessage(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class CompletionChoice(TypedDict):
    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: str | None


class PromptDetails(TypedDict):
    cached_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class AttentionView(TypedDict):
    """Weights of one view of an image: for each word, those of the patches, row by row."""

    rows: int
    columns: int
    box: list[float]
    weights: list[list[float]]


class AttentionImage(TypedDict):
    views: list[AttentionView]


class AttentionBody(TypedDict):
    """The attention of an answer's words on the images of the conversation."""

    object: Literal["looks"]
    model: str
    words: list[str]
    pictures: list[AttentionImage]


class Health(TypedDict):
    status: str


class Readiness(TypedDict):
    ready: bool


Request = TypeVar("Request", ChatRequest, AttentionRequest)


def read_attention_request(body: bytes, *, model: str, limits: Limits) -> tuple[AttentionRequest, list[str]]:
    """Parse a request of `/v1/looks`; like `read_request`."""
    request, unused = _read(AttentionRequest, body, model)
    _refuse_size(request.messages, limits, len(request.answer))
    return request, unused


def read_request(body: bytes, *, model: str, limits: Limits) -> tuple[ChatRequest, list[str]]:
    """Parse a chat request; return it and the paths of its unused fields. If a key occurs twice, the last one counts.

    Raises Refusal with the field and what to do.
    """
    request, unused = _read(ChatRequest, body, model)
    if request.stream_options is not None and not request.stream:
        raise field_refusal(FieldError("stream_options", "only for streams", "set stream to true, or remove it"))
    for name in ("max_tokens", "max_completion_tokens"):
        if (getattr(request, name) or 0) > limits.max_tokens:
            problem = f"above this server's limit of {limits.max_tokens} tokens"
            raise field_refusal(FieldError(name, problem, "lower it, or remove it"))
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
        message = f"model: not a model of this server; it serves {model!r}"
        raise Refusal(404, message, code="model_not_found", param="model")
    try:
        unused = unused_fields(request)
        for k, chat_message in enumerate(request.messages):
            check_message(chat_message, f"messages[{k}]")
        require_question([chat_message.role for chat_message in request.messages])
    except FieldError as error:
        raise field_refusal(error) from None
    return request, unused


def _refused(error: ValidationError, body: bytes) -> Refusal:
    if error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] == "json_invalid":
        problem = "not JSON in UTF-8" if body.strip() else "empty"
        return Refusal(400, f"the body is {problem}; send a JSON object", code="invalid_json")
    return field_refusal(field_error(error, FIELDS, INSTEAD))


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
            raise field_refusal(FieldError("messages", f"{count} {noun}, at most {most} are allowed", "send fewer"))
