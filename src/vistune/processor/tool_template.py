"""Write conversations with tools by a tokenizer's own chat template, and learn how the model writes a call.

The template itself is asked: an answer with one call is rendered, and the text around the call's JSON is the form of
every call. Text is given to the template as it is, as `apply_chat_template` does; text that spells one of the
template's tokens is refused, so that nobody can end a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from vistune.errors import DataError
from vistune.processor.shapes import CLOSE, OPEN, SLOT
from vistune.processor.templates import Control, Piece, TextPiece
from vistune.processor.tokenizer_template import IMAGE, TokenizerTemplate, control_pattern
from vistune.types import ImageRef

PROBE = "vistune_probe"
PROBE_ARGUMENTS = {"vistune_key": "vistune_value"}
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": PROBE,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"vistune_key": {"type": "string"}}},
    },
}
PROBE_CALL = {"id": "call00000", "type": "function", "function": {"name": PROBE, "arguments": PROBE_ARGUMENTS}}
ERRORS = (TemplateError, TypeError, ValueError, AttributeError, LookupError)


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a model writes a call: `begin`, a JSON object with a name and arguments, `end`.

    Attributes:
        name_key: The key of the tool's name.
        arguments_key: The key of the arguments.
    """

    begin: str
    end: str
    name_key: str
    arguments_key: str

    @property
    def marker(self) -> str:
        """The text at which a call begins; "" if only its JSON marks it."""
        return self.begin.strip()


class ToolTemplate:
    """The tools of a tokenizer's chat template.

    Attributes:
        form: How the model writes a call; None if the template takes no tools, or writes calls in another form than
            JSON with a name and arguments.
    """

    def __init__(self, template: TokenizerTemplate) -> None:
        self._template = template
        self._tokens = re.compile(control_pattern(template.tokenizer, template.source))
        mark = re.escape(getattr(template.tokenizer, "image_token", None) or IMAGE)
        self._forbidden = re.compile(f"{self._tokens.pattern}|{mark}|[{OPEN}{CLOSE}{SLOT}]")
        self.form = self._find_form()

    def render(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[ImageRef], tools: Sequence[Mapping[str, Any]]
    ) -> list[Piece]:
        """Return the pieces of a conversation, up to where the answer begins.

        Args:
            messages: For `apply_chat_template`; an image is SLOT in the content.
            images: The images in order.
            tools: The tools in OpenAI's form.

        Raises:
            DataError: If a text spells one of the template's tokens, or the template refuses the conversation.
        """
        for text in _texts([*messages, *tools]):
            if self._forbidden.search(text.replace(SLOT, "")):
                raise DataError("a text contains one of the chat template's own tokens", "remove it")
        reason = "an image is missing"
        for takes_parts in (self._template.shows_images, not self._template.shows_images):
            chat = [{**message, "content": _content(message, takes_parts)} for message in messages]
            try:
                text = self._rendered(chat, tools, prompt=True)
            except ERRORS as error:
                reason = type(error).__name__
                continue
            pieces = self._template.cut(text)
            if pieces.count(None) == len(images):
                remaining = iter(images)
                return [next(remaining) if piece is None else piece for piece in pieces]
        raise DataError(
            f"the tokenizer's chat template does not take this conversation with tools: {reason}",
            "let user and assistant alternate, and answer each call with a message of the role tool",
        )

    def tokens_of(self, text: str) -> list[TextPiece | Control]:
        """Cut a text of the call's form into the template's tokens and the text between them."""
        pieces: list[TextPiece | Control] = []
        done = 0
        for match in self._tokens.finditer(text):
            pieces += [TextPiece(text[done : match.start()]), Control(match[0].strip())]
            done = match.end()
        return [piece for piece in (*pieces, TextPiece(text[done:])) if not isinstance(piece, TextPiece) or piece.text]

    def _rendered(self, chat: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, _ = render_jinja_template(
            conversations=[chat],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=self._template.source,
            add_generation_prompt=prompt,
            **self._template.special_tokens,
        )
        return str(texts[0])

    def _find_form(self) -> CallForm | None:
        question: dict[str, Any] = {"role": "user", "content": "?"}
        calling = {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]}
        for first in (question, {**question, "content": [{"type": "text", "text": "?"}]}):
            try:
                before = self._rendered([first], [PROBE_TOOL], prompt=True)
                whole = self._rendered([first, calling], [PROBE_TOOL], prompt=False)
            except ERRORS:
                continue
            if PROBE in before and whole.startswith(before.rstrip()):
                return _form_of(whole[len(before.rstrip()) :].lstrip(), self._template.end)
        return None


def _form_of(body: str, end: Control | TextPiece) -> CallForm | None:
    """Return the form of a call from the text of an answer that consists of the probe's call."""
    for start in (match.start() for match in re.finditer(r"\{", body)):
        try:
            call, stop = json.JSONDecoder().raw_decode(body, start)
        except ValueError:
            continue
        keys = {json.dumps(value): key for key, value in call.items()}
        names = keys.get(json.dumps(PROBE)), keys.get(json.dumps(PROBE_ARGUMENTS))
        if names[0] is None or names[1] is None:
            continue
        after = body[stop:]
        mark = end.token if isinstance(end, Control) else end.text
        # The end token stands for whatever the tokenizer calls it; the form ends before the next token of the template.
        after = after.split(mark)[0] if mark in after else after.rstrip()
        return CallForm(body[:start], after, names[0], names[1])
    return None


def _content(message: Mapping[str, Any], takes_parts: bool) -> Any:
    """Return a message's content as text, or for a user with images as parts."""
    content = message.get("content") or ""
    if not (takes_parts and message["role"] == "user" and isinstance(content, str)):
        return content
    parts = [part for part in re.split(f"({SLOT}\n?)", content) if part]
    return [{"type": "image"} if part.startswith(SLOT) else {"type": "text", "text": part} for part in parts]


def _texts(value: object) -> list[str]:
    """Return all strings in a JSON value, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for item in pair for text in _texts(item)]
    if isinstance(value, Sequence):
        return [text for item in value for text in _texts(item)]
    return []
