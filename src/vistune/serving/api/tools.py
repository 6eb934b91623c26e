"""Tools of a chat request: their fields, the conversation as the chat template takes it, and the calls of an answer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from vistune.generation import Grammar, GrammarError
from vistune.generation.fields import Body, FieldError
from vistune.generation.grammar import GrammarCompiler
from vistune.generation.messages import RESULT_FORM, ChatMessage, check_message
from vistune.generation.tools import CalledTool, CallReader, call_grammar
from vistune.processor import Processor
from vistune.processor.shapes import SLOT
from vistune.serving.api import bodies
from vistune.serving.api.guard import Refusal, field_refusal
from vistune.types import ImageRef, Message

MOST_TOOLS = 128
MOST_CALLS = 64
NAME = r"^[A-Za-z0-9_-]{1,64}$"
NAME_FORM = "text of 1 to 64 letters, digits, _ and -"
NO_TOOLS = "this model's chat template has no tools; remove it"
TOOL_FIELDS = {  # a field's path -> what it must be
    "tools": f"a list of at most {MOST_TOOLS} tools",
    "tools[]": 'an object such as {"type": "function", "function": {"name": "..."}}',
    "tools[].type": '"function"',
    "tools[].function": 'an object such as {"name": "...", "description": "...", "parameters": {...}}',
    "tools[].function.name": NAME_FORM,
    "tools[].function.description": "text",
    "tools[].function.parameters": "an object: a JSON Schema of the arguments",
    "tools[].function.strict": "true or false; arguments are checked only if tool_choice requires a call",
    "tool_choice": '"none", "auto", "required", or {"type": "function", "function": {"name": "..."}}',
    "tool_choice.type": '"none", "auto", "required" or "function"',
    "tool_choice.function": 'an object {"name": "..."}',
    "tool_choice.function.name": "the name of one of the tools",
    "parallel_tool_calls": "true or false",
    "messages[].tool_calls": f"a list of at most {MOST_CALLS} calls, as the answer contained them",
    "messages[].tool_calls[]": 'an object {"id": "...", "type": "function", "function": {...}}',
    "messages[].tool_calls[].id": "text",
    "messages[].tool_calls[].type": '"function"',
    "messages[].tool_calls[].function": 'an object {"name": "...", "arguments": "..."}',
    "messages[].tool_calls[].function.name": NAME_FORM,
    "messages[].tool_calls[].function.arguments": "a JSON object as text",
    "messages[].tool_call_id": "text: the id of the call",
}


class Function(Body):
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: str


class ToolChoice(Body):
    type: Literal["none", "auto", "required", "function"]
    function: FunctionName | None = None


class CalledFunction(Body):
    name: str = Field(pattern=NAME)
    arguments: str


class ToolCall(Body):
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"index": (None, *range(MOST_CALLS))}

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolMessage(ChatMessage):
    """A message of a chat, which may call tools or be the result of a call."""

    refused: ClassVar[Mapping[str, str]] = {k: v for k, v in ChatMessage.refused.items() if k != "tool_calls"}

    role: Literal["system", "developer", "user", "assistant", "tool"]  # type: ignore[assignment]  # wider than in a chat without tools
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_CALLS, fail_fast=True)] | None = None
    tool_call_id: str | None = None

    @property
    def has_tools(self) -> bool:
        return self.role == "tool" or bool(self.tool_calls)


class ToolFields(Body):
    """The fields of a chat request that are about tools."""

    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("tool_choice", mode="before", json_schema_input_type=ToolChoice | str | None)
    @classmethod
    def _named_choice(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value

    @property
    def names(self) -> list[str]:
        """The tools that the model may call."""
        if self.tool_choice is not None and self.tool_choice.type == "none":
            return []
        if self.tool_choice is not None and self.tool_choice.function is not None:
            return [self.tool_choice.function.name]
        return [tool.function.name for tool in self.tools or ()]

    @property
    def is_forced(self) -> bool:
        """Whether the answer must be a call."""
        return self.tool_choice is not None and self.tool_choice.type in ("required", "function")

    def check_tools(self) -> None:
        """Raise FieldError for a choice that the tools do not allow, or for two tools of one name."""
        known = [tool.function.name for tool in self.tools or ()]
        for k, name in enumerate(known):
            if name in known[:k]:
                raise FieldError(f"tools[{k}].function.name", "another tool has this name", "rename one")
        choice = self.tool_choice
        if choice is None:
            return
        if (choice.type == "function") != (choice.function is not None):
            problem = "missing" if choice.function is None else f"not with the type {choice.type}"
            raise FieldError("tool_choice.function", problem, f"give {TOOL_FIELDS['tool_choice']}")
        if self.is_forced and not known:
            raise FieldError("tool_choice", "there are no tools", "send tools, or remove it")
        if choice.function is not None and choice.function.name not in known:
            raise FieldError("tool_choice.function.name", "not the name of a tool", "name one of the tools")

    def template_tools(self) -> list[dict[str, Any]]:
        """Return the tools as the chat template takes them."""
        if not self.names:
            return []
        return [
            {"type": "function", "function": tool.function.model_dump(include=FUNCTION_FIELDS, exclude_none=True)}
            for tool in self.tools or ()
        ]

    def grammar(self, processor: Processor, grammars: GrammarCompiler) -> Grammar | None:
        """Return the grammar of a forced call; None if the model may answer with text. Raises Refusal."""
        if not self.is_forced:
            return None
        schemas = {tool.function.name: tool.function.parameters for tool in self.tools or ()}
        try:
            return call_grammar(processor, {name: schemas[name] for name in self.names}, grammars)
        except GrammarError as error:
            raise field_refusal(FieldError("tools", f"a schema of parameters: {error.message}", error.hint)) from None


FUNCTION_FIELDS = {"name", "description", "parameters"}


def check_tool_messages(messages: Sequence[ToolMessage]) -> None:
    """Raise FieldError for messages that no template can render."""
    open_calls: set[str] = set()
    for k, message in enumerate(messages):
        path = f"messages[{k}]"
        if message.tool_calls and message.role != "assistant":
            raise FieldError(f"{path}.tool_calls", f"in a message of the {message.role}", "move it to the assistant's")
        for i, call in enumerate(message.tool_calls or ()):
            if not isinstance(_json(call.function.arguments), dict):
                where = f"{path}.tool_calls[{i}].function.arguments"
                raise FieldError(where, "not a JSON object", 'send text such as "{\\"city\\": \\"Seoul\\"}"')
            open_calls.add(call.id)
        if message.role == "tool" and message.tool_call_id not in open_calls:
            hint = "send the id of one of the assistant's tool_calls before it"
            raise FieldError(f"{path}.tool_call_id", "not the id of an earlier call", hint)
        check_message(message, path)


def refuse_tools(request: ToolFields, messages: Sequence[ToolMessage]) -> None:
    """Raise FieldError if a request needs tools, because the model's chat template has none."""
    if request.names:
        raise FieldError("tools", "not supported", NO_TOOLS, is_unsupported=True)
    for k, message in enumerate(messages):
        if message.role == "tool":
            raise FieldError(f"messages[{k}].role", "'tool' is not supported", RESULT_FORM)
        if message.tool_calls:
            path = f"messages[{k}].tool_calls"
            raise FieldError(path, "not supported", ChatMessage.refused["tool_calls"], is_unsupported=True)


def template_messages(
    messages: Sequence[ToolMessage], converted: Sequence[Message]
) -> tuple[list[dict[str, Any]], list[ImageRef]]:
    """Return a conversation as the chat template takes it, and its images. `converted`: the messages with images."""
    chat: list[dict[str, Any]] = []
    names = {call.id: call.function.name for message in messages for call in message.tool_calls or ()}
    for message, parts in zip(messages, converted, strict=True):
        content = "".join(part if isinstance(part, str) else f"{SLOT}\n" for part in parts.parts)
        entry: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": content}
        if message.tool_calls:
            entry["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": _json(call.function.arguments)},
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            entry |= {"tool_call_id": message.tool_call_id, "name": names.get(message.tool_call_id or "", "")}
        chat.append(entry)
    return chat, [image for message in converted for image in message.images]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def call_reader(request: ToolFields, processor: Processor) -> CallReader | None:
    """Return a reader of one answer's calls; None if the request has no tools."""
    template = processor.tools
    if not request.names or template is None or template.form is None:
        return None
    return CallReader(template.form, request.names)


def call_bodies(calls: Sequence[CalledTool], request: ToolFields) -> list[bodies.ToolCallBody]:
    """Return the calls of an answer; without parallel calls, only the first."""
    most = 1 if request.parallel_tool_calls is False else len(calls)
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls[:most]
    ]


def refuse_tools_with_format(request: ToolFields, *, has_schema: bool) -> None:
    """Raise Refusal for a schema of the answer together with tools: an answer cannot follow both."""
    if has_schema and request.names:
        raise Refusal(
            400,
            "response_format: not together with tools; send one of them",
            code="invalid_value",
            param="response_format",
        )
