"""The body of a request of the Responses API.

https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from vistune.generation import Output
from vistune.generation.fields import Body, FieldError
from vistune.generation.grammar import ANY_OBJECT, GrammarCompiler
from vistune.generation.messages import (
    MOST_PARTS,
    ROLES,
    ChatMessage,
    check_message,
    require_question,
)
from vistune.serving.api import Limits
from vistune.serving.api.active import AnswerSettings
from vistune.serving.api.formats import SCHEMA, compiled
from vistune.serving.api.guard import CHAT
from vistune.serving.api.schema import (
    FIELDS,
    MOST_LOGPROBS,
    MOST_MESSAGES,
    UNSUPPORTED,
    ModelRequest,
    SamplingFields,
    field_errors,
    read_body,
    refuse_long_answer,
    refuse_size,
)
from vistune.serving.api.service import MessagePaths

LOGPROBS = "message.output_text.logprobs"
STORED = "responses are not stored here; send the whole conversation as input"
IMAGE_FORM = '{"type": "input_image", "image_url": "data:image/jpeg;base64,..."}'
TEXT_FORM = '{"type": "input_text", "text": "..."}'
RESPONSES_FIELDS = {
    **FIELDS,
    "input": f"text, or a list of 1 to {MOST_MESSAGES} messages",
    "input[]": 'an object such as {"role": "user", "content": "..."}',
    "input[].type": '"message"',
    "input[].role": "system, developer, user or assistant",
    "input[].content": f"text, or a list of at most {MOST_PARTS} parts",
    "input[].content[]": f"an object with a type: {TEXT_FORM} or {IMAGE_FORM}",
    "input[].content[].type": '"input_text", "input_image" or "output_text"',
    "input[].content[].text": "text",
    "input[].content[].image_url": "a data: URL as text",
    "input[].content[].refusal": "text",
    "instructions": "text",
    "max_output_tokens": "a whole number of 1 or more; without it an answer may be as long as the server allows",
    "text": 'an object such as {"format": {"type": "json_schema", "name": "...", "schema": {...}}}',
    "text.format": 'an object such as {"type": "json_schema", "name": "...", "schema": {...}}',
    "text.format.type": '"text", "json_object" or "json_schema"',
    "text.format.name": "text of 1 to 64 characters",
    "text.format.description": "text",
    "text.format.schema": SCHEMA,
    "text.format.strict": "true or false; the schema is always enforced",
    "include": f'a list that may contain "{LOGPROBS}"',
    "include[]": f'"{LOGPROBS}"',
    "metadata": "an object of texts",
    "store": "false; responses are not stored here",
}
RESPONSES_INSTEAD = {  # a field's path -> known wrong values -> what to do instead
    "input[].role": ROLES,
    "input[].content[].type": {
        "text": f"send {TEXT_FORM}",
        **dict.fromkeys(("image_url", "image"), f"send {IMAGE_FORM}"),
        **dict.fromkeys(("input_file", "file"), f"send a file's text as {TEXT_FORM}; for an image {IMAGE_FORM}"),
        **dict.fromkeys(("input_audio", "audio"), "this model does not read audio; remove the part"),
    },
}
REMEDIES: dict[str, str] = {
    **dict.fromkeys(UNSUPPORTED, "remove it"),
    "messages": f"send it to {CHAT}, or put it into input",
    "prompt": "prompt templates are not stored here; put the text into input",
    **dict.fromkeys(("tools", "tool_choice"), f"send tools to {CHAT}"),
    "previous_response_id": STORED,
    "conversation": STORED,
    "store": "responses are not stored here; set it to false",
    "background": "remove it",
    "truncation": "shorten the conversation",
    "context_management": "remove it",
    **dict.fromkeys(("n", "stop"), f"the Responses API has no such field; send it to {CHAT}"),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "use max_output_tokens"),
    "response_format": 'use text: {"format": {...}}',
    "logprobs": f'use include: ["{LOGPROBS}"]',
    "system": "use instructions",
    **dict.fromkeys(("image", "images", "image_url"), f"put it into input: {IMAGE_FORM}"),
}


class InputText(Body):
    type: Literal["input_text"]
    text: str


class OutputText(Body):
    """Text that the model wrote, as a response contains it."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"annotations": (None, []), "logprobs": (None, [])}

    type: Literal["output_text"]
    text: str


class InputImage(Body):
    refused: ClassVar[Mapping[str, str]] = {"file_id": "files are not stored here; send the image as image_url"}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"detail": (None, "auto")}

    type: Literal["input_image"]
    image_url: str


class InputRefusal(Body):
    type: Literal["refusal"]
    refusal: str


InputParts = Annotated[
    list[Annotated[InputText | InputImage | OutputText | InputRefusal, Field(discriminator="type")]],
    Field(max_length=MOST_PARTS, fail_fast=True),
]


class InputMessage(Body):
    """A message of the conversation, or of an earlier response."""

    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(("image", "images", "image_url"), f"use a part {IMAGE_FORM}")

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: InputParts

    @field_validator("content", mode="before", json_schema_input_type=InputParts | str)
    @classmethod
    def _one_text(cls, value: object) -> object:
        return [{"type": "input_text", "text": value}] if isinstance(value, str) else value

    def as_chat(self) -> ChatMessage:
        """Return the message as a chat would send it."""
        parts: list[dict[str, Any]] = []
        for part in self.content:
            if isinstance(part, InputImage):
                parts.append({"type": "image_url", "image_url": {"url": part.image_url}})
            elif isinstance(part, InputRefusal):
                parts.append({"type": "refusal", "refusal": part.refusal})
            else:
                parts.append({"type": "text", "text": part.text})
        return ChatMessage.model_validate({"role": self.role, "content": parts})


class TextFormat(Body):
    """`text.format`: JSON schemas without the inner object of chat completions."""

    refused: ClassVar[Mapping[str, str]] = {"json_schema": "put name and schema next to the type"}

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, min_length=1, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def required_schema(self) -> tuple[Mapping[str, Any] | None, str]:
        """Return the schema of the answer and its path; None for text. Raises FieldError."""
        if (self.type == "json_schema") != (self.schema_ is not None):
            problem = "missing" if self.schema_ is None else f"not with the type {self.type}"
            raise FieldError("text.format.schema", problem, f'send it with the type "json_schema": {SCHEMA}')
        if self.type == "json_schema" and self.name is None:
            raise FieldError("text.format.name", "missing", f"give {RESPONSES_FIELDS['text.format.name']}")
        if self.schema_ is not None:
            return self.schema_, "text.format.schema"
        return (ANY_OBJECT if self.type == "json_object" else None), "text.format"


class TextConfig(Body):
    refused: ClassVar[Mapping[str, str]] = {"verbosity": "remove it"}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"verbosity": (None, "medium")}

    format: TextFormat | None = None


Input = Annotated[list[InputMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]


class ResponsesRequest(ModelRequest, SamplingFields):
    """A request of OpenAI's Responses API: texts and images, nothing is stored."""

    refused: ClassVar[Mapping[str, str]] = REMEDIES
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **UNSUPPORTED,
        "truncation": (None, "disabled"),
        "n": (None, 1),
        "tool_choice": (None, "none", "auto"),
        "reasoning": (None, {}),
        "store": (None, False),
    }

    input: Input
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    text: TextConfig | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    metadata: dict[str, str] | None = None

    @field_validator("input", mode="before", json_schema_input_type=Input | str)
    @classmethod
    def _one_message(cls, value: object) -> object:
        return [{"role": "user", "content": value}] if isinstance(value, str) else value

    @property
    def format(self) -> TextFormat:
        return (self.text and self.text.format) or TextFormat.model_validate({"type": "text"})

    def conversation(self) -> tuple[list[ChatMessage], MessagePaths]:
        """Return the messages as a chat would send them, and their paths in this request."""
        messages = [message.as_chat() for message in self.input]
        paths = [f"input[{k}]" for k in range(len(messages))]
        if self.instructions:
            first = ChatMessage.model_validate({"role": "system", "content": self.instructions})
            messages, paths = [first, *messages], ["instructions", *paths]
        return messages, MessagePaths(tuple(paths), ".image_url", "input")

    def settings(self, limits: Limits, grammars: GrammarCompiler) -> AnswerSettings:
        """Return how the answer is generated. Raises Refusal for a schema that cannot be enforced."""
        schema, path = self.format.required_schema()
        has_logprobs = LOGPROBS in (self.include or ())
        return AnswerSettings(
            max_tokens=min(self.max_output_tokens or limits.max_tokens, limits.max_tokens),
            sampling=self.sampling(),
            output=Output(
                grammar=compiled(schema, path, grammars),
                top_logprobs=(self.top_logprobs or 0) if has_logprobs else None,
            ),
            format_param="text.format",
        )

    def check(self, limits: Limits) -> None:
        """Raise FieldError or Refusal for fields that contradict each other or the server's limits."""
        refuse_long_answer("max_output_tokens", self.max_output_tokens, limits)
        if self.top_logprobs and not self.include:
            raise FieldError("top_logprobs", "only with log probabilities", f'add include: ["{LOGPROBS}"]')
        self.format.required_schema()
        messages, paths = self.conversation()
        for message, path in zip(messages, paths.messages, strict=True):
            check_message(message, path)
        require_question([message.role for message in messages], "input")
        refuse_size(messages, limits, path="input")


def read_responses_request(body: bytes, *, model: str, limits: Limits) -> tuple[ResponsesRequest, list[str]]:
    """Parse a request; return it and the paths of its unused fields. Raises Refusal."""
    request, unused = read_body(ResponsesRequest, body, model, RESPONSES_FIELDS, RESPONSES_INSTEAD)
    with field_errors():
        request.check(limits)
    return request, unused
