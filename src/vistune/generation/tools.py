"""Read tool calls from an answer, also while it is generated, and grammars that force a call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vistune.generation.grammar import Grammar, GrammarCompiler, json_rule
from vistune.processor import Processor
from vistune.processor.templates import Control
from vistune.processor.tool_template import CallForm

SEPARATORS = " \t\r\n,;"


@dataclass(frozen=True, slots=True)
class CalledTool:
    """A call that the model wrote: the tool's name, and its arguments as JSON."""

    name: str
    arguments: str


class CallReader:
    """Separate the text of an answer from its tool calls.

    From the first sign of a call on, text is held back until the answer has ended. If what was held back is not a call
    of one of the tools, it is text.
    """

    def __init__(self, form: CallForm, names: Sequence[str]) -> None:
        self._form = form
        self._names = frozenset(names)
        self._text = ""
        self._shown = 0

    def add(self, piece: str) -> str:
        """Add a piece of the answer; return the text that can be shown now."""
        self._text += piece
        end = max(self._call_begin(), self._shown)
        shown = self._text[self._shown : end]
        self._shown = end
        return shown

    def finish(self) -> tuple[str, list[CalledTool]]:
        """Return the rest of the text, and the calls."""
        held = self._text[self._shown :]
        calls, after = self._calls_in(held)
        return (after.strip(), calls) if calls else (held, [])

    def _call_begin(self) -> int:
        """Return where a call may begin: at its marker, or at the beginning of one at the end of the text."""
        marker, text = self._form.marker, self._text
        if not marker:
            return 0 if text.lstrip()[:1] in ("", "{") else len(text)
        begin = text.find(marker)
        if begin >= 0:
            return len(text[:begin].rstrip())
        part = next((k for k in range(len(marker) - 1, 0, -1) if text.endswith(marker[:k])), 0)
        return len(text[: len(text) - part].rstrip())

    def _calls_in(self, held: str) -> tuple[list[CalledTool], str]:
        """Return the calls at the beginning of the text, and the text after them."""
        calls: list[CalledTool] = []
        rest = held.lstrip()
        marker, end = self._form.marker, self._form.end.strip()
        while True:
            body = rest.lstrip(SEPARATORS)
            body = body.removeprefix(marker).lstrip() if marker else body
            try:
                value, stop = json.JSONDecoder().raw_decode(body)
            except (ValueError, RecursionError):
                return calls, rest
            call = self._call_of(value)
            if call is None:
                return calls, rest
            calls.append(call)
            rest = body[stop:].lstrip()
            if end and rest.startswith(end):
                rest = rest[len(end) :].lstrip()

    def _call_of(self, value: object) -> CalledTool | None:
        if not isinstance(value, dict) or value.get(self._form.name_key) not in self._names:
            return None
        arguments = value.get(self._form.arguments_key, {})
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return CalledTool(value[self._form.name_key], text)


def call_grammar(
    processor: Processor, tools: Mapping[str, Mapping[str, Any] | None], grammars: GrammarCompiler
) -> Grammar:
    """Return the grammar of exactly one call of one of the tools, given with the schemas of their arguments.

    Raises GrammarError if a schema cannot be enforced.
    """
    template = processor.tools
    assert template is not None
    assert template.form is not None
    form = template.form
    options = []
    definitions: dict[str, Any] = {}
    for number, (name, schema) in enumerate(tools.items()):
        key = f"tool{number}"
        definitions[key] = _moved(schema or {"type": "object"}, f"#/$defs/{key}")
        options.append({
            "type": "object",
            "properties": {form.name_key: {"const": name}, form.arguments_key: {"$ref": f"#/$defs/{key}"}},
            "required": [form.name_key, form.arguments_key],
            "additionalProperties": False,
        })  # fmt: skip
    around = []
    for text in (form.begin, form.end):
        terms = []
        for piece in template.tokens_of(text):
            token = processor.tokenizer.backend_tokenizer.token_to_id(getattr(piece, "token", ""))
            if token is not None and processor.tokenizer.added_tokens_decoder[token].special:
                terms.append(f"<[{token}]>")
            else:
                terms.append(json.dumps(piece.token if isinstance(piece, Control) else piece.text))
        around.append(" ".join(terms))
    rule = json_rule({"anyOf": options, "$defs": definitions})
    return grammars.lark(f"start: {around[0]} call {around[1]}\ncall: {rule}\n")


def _moved(schema: Any, root: str) -> Any:
    """Return a schema whose references `#/...` are below another root."""
    if isinstance(schema, Mapping):
        return {
            key: f"{root}{value[1:]}" if key == "$ref" and isinstance(value, str) and value[:1] == "#" else moved
            for key, value, moved in _moved_items(schema, root)
        }
    return [_moved(item, root) for item in schema] if isinstance(schema, list) else schema


def _moved_items(schema: Mapping[str, Any], root: str) -> Iterator[tuple[str, Any, Any]]:
    for key, value in schema.items():
        yield key, value, _moved(value, root)
