"""What `/openapi.json` says of routes whose bodies are read and written by hand."""

from __future__ import annotations

from typing import Any

from vistune.generation.fields import Body

Schema = dict[str, Any]


def an_object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def some(items: Schema) -> Schema:
    return {"type": "array", "items": items}


TEXT, WHOLE, NUMBER, YES = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
MAYBE: Schema = {"type": ["string", "null"]}
ERROR = an_object(error=an_object(message=TEXT, type=TEXT, param=MAYBE, code=TEXT))
MODEL = an_object(id=TEXT, object={"const": "model"}, created=WHOLE, owned_by=TEXT)
MODELS = an_object(object={"const": "list"}, data=some(MODEL))
USAGE = an_object(prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE)
CHOICE = an_object(index=WHOLE, message=an_object(role=TEXT, content=TEXT), finish_reason={"enum": ["stop", "length"]})
COMPLETION = an_object(
    id=TEXT, object={"const": "chat.completion"}, created=WHOLE, model=TEXT, choices=some(CHOICE), usage=USAGE
)
VIEW = an_object(rows=WHOLE, columns=WHOLE, box=some(NUMBER), weights=some(some(NUMBER)))
FOUND = an_object(object={"const": "looks"}, model=TEXT, words=some(TEXT), pictures=some(an_object(views=some(VIEW))))
HEALTH, READY = an_object(status=TEXT), an_object(ready=YES)


def replies(good: Schema, *, unready: Schema | None = None, streams: bool = False) -> dict[int | str, Schema]:
    """A route's: the good one, OpenAI's errors, and what is said with 503 where that is no error."""
    refused = _reply("an error, as OpenAI shapes it", ERROR)
    found: dict[int | str, Schema] = {200: _reply("the answer", good), "4XX": refused, "5XX": refused}
    if streams:
        found[200]["content"]["text/event-stream"] = {}  # a schema would be read as that of one event, or of all
    return found if unready is None else {**found, 503: _reply("not now", unready)}


def _reply(words: str, schema: Schema) -> Schema:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def asked(path: str, body: type[Body], model: str) -> Schema:
    """A request's body; of models there is one."""
    place = f"#/paths/{path.replace('/', '~1')}/post/requestBody/content/application~1json/schema/$defs/{{model}}"
    schema = body.model_json_schema(ref_template=place)
    schema["properties"]["model"] = {"const": model}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
