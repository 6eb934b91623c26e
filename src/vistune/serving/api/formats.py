"""The format of an answer: text, any JSON object, or JSON of a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from vistune.generation import Grammar, GrammarError
from vistune.generation.fields import Body, FieldError
from vistune.generation.grammar import ANY_OBJECT, GrammarCompiler
from vistune.serving.api.guard import field_refusal

SCHEMA = "an object: a JSON Schema"
FORMAT_FIELDS = {  # a field's path -> what it must be
    "response_format": 'an object such as {"type": "json_schema", "json_schema": {"name": "...", "schema": {...}}}',
    "response_format.type": '"text", "json_object" or "json_schema"',
    "response_format.json_schema": 'an object {"name": "...", "schema": {...}}',
    "response_format.json_schema.name": "text of 1 to 64 characters",
    "response_format.json_schema.description": "text",
    "response_format.json_schema.schema": SCHEMA,
    "response_format.json_schema.strict": "true or false; the schema is always enforced",
}


class JsonSchema(Body):
    """A named JSON schema. `strict` and the description change nothing: the schema is always enforced."""

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`response_format` of a chat completion."""

    refused: ClassVar[Mapping[str, str]] = {"schema": 'put it into json_schema: {"name": "...", "schema": {...}}'}

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def required_schema(self) -> tuple[Mapping[str, Any] | None, str]:
        """Return the schema of the answer and its path; None for text. Raises FieldError."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            problem = "missing" if self.json_schema is None else f"not with the type {self.type}"
            hint = "give" if self.json_schema is None else 'set the type to "json_schema", or give no'
            path = "response_format.json_schema"
            raise FieldError(path, problem, f"{hint} {FORMAT_FIELDS[path]}")
        if self.json_schema is not None:
            return self.json_schema.schema_, "response_format.json_schema.schema"
        return (ANY_OBJECT if self.type == "json_object" else None), "response_format"


def compiled(schema: Mapping[str, Any] | None, path: str, grammars: GrammarCompiler) -> Grammar | None:
    """Return the grammar of a schema; None without one. Raises Refusal that names the schema's path."""
    if schema is None:
        return None
    try:
        return grammars.json_schema(schema)
    except GrammarError as error:
        raise field_refusal(FieldError(path, error.message, error.hint)) from None
