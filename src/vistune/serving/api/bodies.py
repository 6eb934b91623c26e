"""The bodies of responses, as the OpenAPI page documents them."""

from __future__ import annotations

from typing import (
    Any,
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


class CalledFunctionBody(TypedDict):
    name: str
    arguments: str


class ToolCallBody(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunctionBody


class AnswerMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCallBody]]


class TopLogprob(TypedDict):
    """A token and its log probability. Two tokens may have one text, so the id is given too, as llama.cpp does."""

    id: int
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


ResponseStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TokenLogprob]


class OutputMessage(TypedDict):
    id: str
    type: Literal["message"]
    status: ResponseStatus
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningDetails(TypedDict):
    reasoning_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: PromptDetails
    output_tokens: int
    output_tokens_details: ReasoningDetails
    total_tokens: int


class ResponseBody(TypedDict):
    """A response of the Responses API."""

    id: str
    object: Literal["response"]
    created_at: int
    status: ResponseStatus
    error: None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool
    previous_response_id: None
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None


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
