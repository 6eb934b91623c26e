"""The bodies of responses, as the OpenAPI page documents them."""

from __future__ import annotations

from typing import (
    Literal,
    NotRequired,  # pydantic reads typing's own only from Python 3.12 on
)

from typing_extensions import TypedDict


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


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(TypedDict):
    """Log probabilities of the tokens of an answer's text, without its end token."""

    content: list[TokenLogprob]
    refusal: None


class CompletionChoice(TypedDict):
    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
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


class TextLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class TextCompletion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]


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
