"""Requests as clients send them: what is used, what is listed, what is refused, and in which words."""

from __future__ import annotations

import base64
import json
import textwrap
import zlib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from running_servers import CHAT, Running, body, data_url, png, question

from vistune.generation.messages import IMAGE_FORM, REFUSED_IN_PARTS, ChatMessage
from vistune.serving.api.schema import FIELDS, UNSUPPORTED, AttentionRequest, ChatRequest, StreamOptions
from vistune.serving.api.tools import ToolMessage

LISTED = "x-ignored-parameters"
IMAGE = data_url(png())
ROLES = ("user", "assistant", "system", "developer")
# What pydantic, FastAPI and Pillow say of their own accord.
FOREIGN = (
    "Input should", "Field required", "Value error", "Extra inputs", "discriminator", "Input tag", "should have at",
    "should match", "valid string", "valid integer", "valid number", "valid boolean", "valid list", "valid dictionary",
    "pydantic", "validation error", "cannot identify", "BytesIO", "Unable to extract", "Assertion failed",
)  # fmt: skip


def said(*turns: tuple[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": content, **more} for role, content in turns]


def answer(served: Running, messages: list[dict[str, Any]], **changes: Any) -> str:
    response = served.ask(messages=messages, **changes)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def refusal(response: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert not [words for words in FOREIGN if words in error["message"]], error["message"]
    return error


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"messages": said(("user", [{"type": "text", "text": "hi", "id": "lc_1"}]))}, "messages[].content[].id"),
        (
            {"messages": said(("user", [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}] * 2))},
            "messages[].content[].cache_control",
        ),
        (
            {"messages": [*question(), {"role": "assistant", "content": "x", "reasoning_content": "y",
                          "provider_specific_fields": {"z": 1}}, *question()]},
            "messages[].reasoning_content, messages[].provider_specific_fields",
        ),
        ({"messages": said(("user", "hi"), name="n" * 1000)}, "messages[].name"),
        (
            {"messages": said(("user", [{"type": "image_url", "image_url": {"url": IMAGE, "detail": "high"}}]))},
            "messages[].content[].image_url.detail",
        ),
        ({"messages": said(("user", [{"type": "image_url", "image_url": {"url": IMAGE, "detail": "auto"}}]))}, None),
        ({"stream": True, "stream_options": {"include_usage": None, "chunks": 3}}, "stream_options.chunks"),
        ({"user": "me", "metadata": {"a": {"b": 1}}, "store": None}, "user, metadata, store"),
        ({"max_completion_tokens": 3}, "max_tokens"),
        ({"색": 1, "a,b": 2, "": 3}, "%EC%83%89, a%2Cb, \"\""),
        ({}, None),
    ],
)  # fmt: skip
def test_fields_that_are_not_used_are_listed_by_their_path(
    served: Running, changes: dict[str, Any], listed: str | None
) -> None:
    response = served.ask(**changes)
    assert response.status_code == 200, response.text
    assert response.headers.get(LISTED) == listed


def test_the_list_of_unused_fields_has_a_bound(served: Running) -> None:
    names = {f"{'x' * 100}{k}": 1 for k in range(50)} | {f"한글{k}" * 30: 1 for k in range(50)}
    listed = served.ask(**names).headers[LISTED]
    assert listed.endswith(", and more")
    assert len(listed) < 16_000
    assert served.ask(messages=said(("user", "hi"), **names)).status_code == 200


def test_looks_list_unused_fields_too(served: Running) -> None:
    asked = {"model": "tiny", "messages": question("?", IMAGE), "answer": "red", "layers": 3}
    asked["messages"][0]["content"][0]["id"] = "x"  # type: ignore[index]
    response = served.http.post("/v1/looks", json=asked)
    assert (response.status_code, response.headers[LISTED]) == (200, "layers, messages[].content[].id")


# The property: a field of any name and value, put anywhere, is used, listed or refused by name.

WHOLE: dict[str, Any] = body(
    stream=True,
    stream_options={"include_usage": True},
    max_tokens=1,
    messages=[
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A square."}]},
        {"role": "user", "content": "Sure?"},
    ],
)  # fmt: skip
OBJECTS: dict[tuple[Any, ...], str] = {  # where a field is put -> how the header writes it
    (): "",
    ("stream_options",): "stream_options.",
    **{("messages", k): "messages[]." for k in range(4)},
    ("messages", 1, "content", 0): "messages[].content[].",
    ("messages", 1, "content", 1): "messages[].content[].",
    ("messages", 1, "content", 1, "image_url"): "messages[].content[].image_url.",
    ("messages", 2, "content", 0): "messages[].content[].",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.sampled_from(
    [*ChatRequest.refused, *ChatMessage.refused, *REFUSED_IN_PARTS, *ChatRequest.model_fields,
     *ChatMessage.model_fields,
     "type", "text", "url", "include_usage", "id", "name", "detail", "cache_control", "reasoning_content", "content[0]"]
)  # fmt: skip
relaxed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


@relaxed
@given(st.sampled_from(list(OBJECTS)), NAMES, JSON)
def test_an_unknown_field_anywhere_is_listed_or_refused_by_name(
    served: Running, where: tuple[Any, ...], name: str, value: Any
) -> None:
    asked = deepcopy(WHOLE)
    known = {0: ChatRequest.model_fields, 1: StreamOptions.model_fields, 2: ToolMessage.model_fields}.get(
        len(where), {}
    )
    assume(name not in known and name not in at(asked, where))
    at(asked, where)[name] = value
    response = served.http.post(CHAT, content=json.dumps(asked).encode())
    tables = {0: ChatRequest.refused, 2: ToolMessage.refused, 4: REFUSED_IN_PARTS}
    table: Mapping[str, Any] = tables.get(len(where), {})
    if response.status_code == 200:
        written = quote(name[:64], safe="$:/@+") + "..." * (len(name) > 64) or '""'
        if name in table or (name == "detail" and where[-1:] == ("image_url",)):
            assert value in [None, False, 0, "", [], {}, *UNSUPPORTED.get(name, ()), "auto"], "it asks for something"
        else:
            assert response.headers[LISTED] == OBJECTS[where] + written
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        assert name in table
        error = refusal(response)
        assert error["param"].endswith(name)
        assert name in error["message"]
        assert error["code"] == "unsupported_parameter"


# The property: whatever is wrong, the words are ours.


def steps(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON tree."""
    yield path
    if isinstance(tree, dict | list):
        for step in tree if isinstance(tree, dict) else range(len(tree)):
            yield from steps(tree[step], (*path, step))


PATHS = [path for path in steps({**WHOLE, **{name: None for name in FIELDS if name.isidentifier()}}) if path]


@relaxed
@given(st.sampled_from(PATHS), JSON | st.just(...) | st.sampled_from(["tool", "input_image", "/x.png", "https://x"]))
def test_any_wrong_value_is_refused_in_our_own_words(served: Running, path: tuple[Any, ...], value: Any) -> None:
    asked = deepcopy(WHOLE)
    parent = at(asked, path[:-1])
    if value is ...:
        if isinstance(parent, list) or path[-1] in parent:
            del parent[path[-1]]
    else:
        parent[path[-1]] = value
    response = served.http.post(CHAT, content=json.dumps(asked).encode())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error = refusal(response, response.status_code)
        assert error["message"]
        assert error["param"] is None or error["message"].startswith(str(error["param"]))
        if isinstance(value, str) and len(value) > 3 and value not in ("tool", "input_image"):
            assert value not in error["message"], "a client's text is not repeated"


def wanted_paths(schema: dict[str, Any], whole: dict[str, Any], path: str = "") -> Iterator[str]:
    """The path of every field that a schema describes."""
    if "$ref" in schema:
        yield from wanted_paths(whole["$defs"][schema["$ref"].split("/")[-1]], whole, path)
        return
    yield path
    for one in [*schema.get("anyOf", []), *schema.get("oneOf", [])]:
        yield from wanted_paths(one, whole, path)
    for name, inner in schema.get("properties", {}).items():
        yield from wanted_paths(inner, whole, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from wanted_paths(schema["items"], whole, f"{path}[]")


@pytest.mark.parametrize("kind", [ChatRequest, AttentionRequest])
def test_every_field_of_the_schema_has_words_for_what_it_must_be(kind: type[ChatRequest | AttentionRequest]) -> None:
    schema = kind.model_json_schema()
    assert set(wanted_paths(schema, schema)) <= set(FIELDS)


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"messages": ...}, "messages", "messages: missing; give a list of 1 to 1000 messages"),
        ({"messages": "hi"}, "messages", "messages: must be a list of 1 to 1000 messages; got text"),
        ({"messages": ["hi"]}, "messages[0]", "got text"),
        ({"model": ...}, "model", "model: missing"),
        ({"temperature": "1"}, "temperature", "temperature: must be a number from 0 to 2; got text"),
        ({"temperature": 3}, "temperature", "temperature: must be a number from 0 to 2"),
        ({"max_tokens": -1}, "max_tokens", "max_tokens: must be a whole number of 1 or more; without it"),
        ({"max_tokens": 1.5}, "max_tokens", "got a decimal number"),
        ({"max_tokens": 10**9}, "max_tokens", "max_tokens: above this server's limit of 4096 tokens; lower it"),
        ({"stream": 1}, "stream", "stream: must be true or false; got a whole number"),
        ({"stop": [5]}, "stop[0]", "stop[0]: must be text of 1 to 256 characters; got a whole number"),
        ({"n": 0}, "n", "n: must be a whole number from 1 to 16"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "top_logprobs: must be a whole number from 0 to 20"),
        ({"top_logprobs": 2}, "top_logprobs", "only together with logprobs; set logprobs to true"),
        ({"logprobs": 2}, "logprobs", "logprobs: must be true or false; got a whole number"),
        ({"response_format": "json"}, "response_format", 'must be an object such as {"type": "json_schema"'),
        ({"response_format": {"type": "yaml"}}, "response_format.type", 'must be "text", "json_object" or'),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            'missing; give an object {"name": "...", "schema": {...}}',
        ),
        (
            {"response_format": {"type": "json_object", "json_schema": {"name": "x", "schema": {}}}},
            "response_format.json_schema",
            "not with the type json_object",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing; give an object: a JSON Schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wat"}}}},
            "response_format.json_schema.schema",
            "a `type` is not one of JSON Schema; write string",
        ),
        (
            {"response_format": {"type": "json_schema", "schema": {"type": "object"}}},
            "response_format.schema",
            "not supported; put it into json_schema",
        ),
        ({"stream_options": {}}, "stream_options", "stream_options: only for streams; set stream to true"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            "tools",
            "tools: not supported; this model's chat template has no tools; remove it",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing; give an object such as"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools; send tools, or remove it"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing; give system, developer, user or assistant"),
        ({"messages": said(("tool", "x"))}, "messages[0].role", "put the result of the tool into a message"),
        ({"messages": said(("user", None))}, "messages[0].content", "null; give text, or a list of"),
        ({"messages": said(("user", 5))}, "messages[0].content", "must be text, or a list of at most 256 parts; got"),
        ({"messages": said(("user", ["hi"]))}, "messages[0].content[0]", 'must be an object with a type: {"type": "te'),
        ({"messages": said(("user", [{"text": "hi"}]))}, "messages[0].content[0].type", 'missing; give "text" or'),
        ({"messages": said(("user", [{"type": "x"}]))}, "messages[0].content[0].type", 'must be "text" or "image_url"'),
        (
            {"messages": said(("user", [{"type": "input_text", "text": "hi"}]))},
            "messages[0].content[0].type",
            "'input_text' is not supported; send {\"type\": \"text\"",
        ),
        (
            {"messages": said(("user", [{"type": "image", "image": IMAGE}]))},
            "messages[0].content[0].type",
            "'image' is not supported; send {\"type\": \"image_url\"",
        ),
        (
            {"messages": said(("user", [{"type": "input_audio", "input_audio": {}}]))},
            "messages[0].content[0].type",
            "'input_audio' is not supported; this model does not read audio",
        ),
        (
            {"messages": said(("user", "hi"), images=["aGk="])},
            "messages[0].images",
            "messages[0].images: not supported; put each image into content",
        ),
        (
            {"messages": said(("user", "hi"), ("assistant", "x"))},
            "messages",
            "the last message is the assistant's; end with the user's message",
        ),
        ({"messages": said(("system", "hi"))}, "messages", "there is no message of the user"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_says_what_to_do(
    served: Running, changes: dict[str, Any], param: str, words: str
) -> None:
    error = refusal(served.ask(**changes))
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert words in error["message"]


TEXT = {"type": "text", "text": "What?"}
SEEN = {"type": "image_url", "image_url": {"url": IMAGE}}
UNREAD: dict[str, tuple[dict[str, Any], str]] = {
    "messages[0].content[0].image_url": ({"messages": said(("user", [SEEN | TEXT]))}, IMAGE_FORM),
    "messages[0].content[0].image": ({"messages": said(("user", [{**TEXT, "image": IMAGE}]))}, IMAGE_FORM),
    "messages[0].content[1].images": ({"messages": said(("user", [TEXT, {**TEXT, "images": [IMAGE]}]))}, IMAGE_FORM),
    "messages[0].content[0].video": ({"messages": said(("user", [{**TEXT, "video": "a.mp4"}]))}, "for each frame"),
    "messages[0].content[0].audio": ({"messages": said(("user", [{**TEXT, "audio": {"data": "x"}}]))}, "read audio"),
    "messages[0].content[0].text": ({"messages": said(("user", [{**SEEN, "text": "What?"}]))}, "a separate part"),
    "messages[0].text": ({"messages": said(("user", [SEEN]), text="What?")}, "put the text into content"),
    "images": ({"images": [IMAGE]}, "put it into messages"),
    "image": ({"image": IMAGE}, "put it into messages"),
    "image_url": ({"image_url": {"url": IMAGE}}, "put it into messages"),
    "system": ({"system": "Be brief."}, 'put it into messages: {"role": "system"'),
    "instructions": ({"instructions": "Be brief."}, 'put it into messages: {"role": "system"'),
    "prompt": ({"prompt": "What?"}, 'put it into messages: {"role": "user"'),
    "input": ({"input": [{"role": "user", "content": "What?"}]}, 'put it into messages: {"role": "user"'),
}  # fmt: skip


@pytest.mark.parametrize("param", UNREAD)
def test_content_where_it_would_not_be_read_is_refused_with_its_right_place(served: Running, param: str) -> None:
    changes, words = UNREAD[param]
    error = refusal(served.ask(**changes))
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: not supported; ")
    assert words in error["message"]
    if "." not in param:
        asked = {"model": "tiny", "messages": question(), "answer": "red", **changes}
        assert refusal(served.http.post("/v1/looks", json=asked))["param"] == param


@pytest.mark.parametrize("nothing", [None, "", [], {}])
def test_such_a_field_that_holds_nothing_is_neutral(served: Running, nothing: Any) -> None:
    empty = dict.fromkeys(("image", "images", "video", "audio"), nothing)
    parts = [{**TEXT, **empty, "image_url": nothing}, {**SEEN, **empty, "text": nothing}]
    response = served.ask(messages=said(("user", parts)), **empty, system=nothing, prompt=nothing, input=nothing)
    assert response.status_code == 200, response.text
    assert LISTED not in response.headers


def test_messages_of_one_role_are_answered_as_one(served: Running) -> None:
    for apart, joined in (
        (said(("user", "What"), ("user", "is it?")), said(("user", "What\n\nis it?"))),
        (
            said(("system", "a"), ("user", "What?"), ("developer", "b")),
            said(("system", "a\n\nb"), ("user", "What?")),
        ),
        (
            [*question("What?", IMAGE), *said(("user", "Where?"))],
            said(("user", [*question("What?", IMAGE)[0]["content"], {"type": "text", "text": "\n\nWhere?"}])),
        ),
        (
            said(("user", "Who?"), ("assistant", None), ("assistant", "He."), ("user", "Why?")),
            said(("user", "Who?"), ("assistant", "He."), ("user", "Why?")),
        ),
        (
            said(("assistant", "Hello!"), ("user", "Who?")),
            said(("user", ""), ("assistant", "Hello!"), ("user", "Who?")),
        ),
    ):
        assert answer(served, apart, max_tokens=12) == answer(served, joined, max_tokens=12)
    assert answer(served, [*said(("user", "Who?")), {"role": "assistant"}, *said(("user", "Why?"))]) is not None


@given(st.lists(st.sampled_from(ROLES), max_size=6))
@relaxed
def test_no_message_lists_roles_that_were_not_sent(served: Running, roles: list[str]) -> None:
    response = served.ask(messages=said(*((role, "x") for role in roles)), max_tokens=1)
    spoken = [role for role in roles if role in ("user", "assistant")]
    if spoken and spoken[-1] == "user":
        assert response.status_code == 200
        return
    message = refusal(response)["message"]
    assert "alternate" not in message
    assert "assistant" not in message or "assistant" in roles


def test_images_are_read_as_tools_write_them(served: Running) -> None:
    payload = base64.b64encode(png(side=30)).decode()
    wanted = answer(served, question("?", f"data:image/png;base64,{payload}"))
    for url in (
        "data:image/jpeg;base64," + "\n".join(textwrap.wrap(payload, 76)),
        "data:image/png;base64," + payload.rstrip("="),
        "data:image/png;base64," + quote(payload, safe=""),
        "DATA:;charset=utf-8;BASE64," + payload.replace("+", "-").replace("/", "_"),
    ):
        assert answer(served, question("?", url)) == wanted
        text = {"type": "text", "text": "?"}
        assert answer(served, said(("user", [{"type": "image_url", "image_url": url}, text]))) == wanted


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.org/x.png", "a link, and this server fetches none; send the image as"),
        ("https://example.org/x.png", "or start the server with --allow-fetch-from"),
        (IMAGE.partition(",")[2], 'put "data:image/png;base64," before it'),
        ("/srv/x.jpg", "a path; the server opens no files; send the image as"),
        ("file:///srv/x.jpg", "a path"),
        ("x", 'not a data: URL; send the image as "data:image/jpeg;base64,"'),
        (data_url(b"<html></html>"), "it is a web page (HTML); download it again"),
    ],
)
def test_a_url_that_is_not_read_is_told_what_to_send(served: Running, url: str, words: str) -> None:
    error = refusal(served.ask(messages=question("?", url)))
    assert error["code"] == "invalid_image"
    assert error["param"] == "messages[0].content[0].image_url.url"
    assert error["message"].startswith("messages[0].content[0].image_url.url: ")
    assert words in error["message"]
    assert "srv" not in error["message"]
    assert "example" not in error["message"]


@pytest.mark.parametrize(("width", "height"), [(12000, 3000), (9000, 100), (10010, 1000), (8192, 40)])
def test_the_size_of_an_image_is_told_as_it_is(served: Running, width: int, height: int) -> None:
    data = bytearray(png())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    message = refusal(served.ask(messages=question("?", data_url(bytes(data)))))["message"]
    assert f": {width}x{height} pixels" in message


def test_a_wrong_checksum_is_told_as_damage(served: Running) -> None:
    whole = png()
    damaged = whole[:33] + b"\0\0\0\5tEXta\0bcd\1\2\3\4" + whole[33:]
    message = refusal(served.ask(messages=question("?", data_url(damaged))))["message"]
    assert (
        "a damaged or cut-off PNG image: the checksum of its tEXt chunk is wrong; save or download it again" in message
    )


# Wrong routes


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/models", 404, "its routes begin with /v1"),
        ("POST", "/chat/completions", 404, "its routes begin with /v1"),
        ("GET", "/v1/completions", 405, "/v1/completions takes POST"),
        ("GET", "/v1/responses", 405, "/v1/responses takes POST"),
        ("POST", "/v1/embeddings", 404, "the embeddings API is not supported here; POST /v1/chat/completions"),
        ("POST", "/api/chat", 404, "Ollama's API is not supported here; POST /v1/chat/completions"),
        ("POST", "/api/generate", 404, "Ollama's API is not supported here; POST /v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", 404, "with one /v1 and without a route behind it"),
        ("POST", f"{CHAT}/chat/completions", 404, "with one /v1 and without a route behind it"),
        ("GET", "/v1", 404, "POST /v1/chat/completions"),
        ("GET", "/nowhere", 404, "POST /v1/chat/completions"),
        ("POST", "/", 405, "this path takes GET, HEAD; to ask the model: POST /v1/chat/completions"),
        ("GET", CHAT, 405, f"{CHAT} takes POST"),
        ("DELETE", "/v1/models/tiny", 405, "POST /v1/chat/completions"),
    ],
)
def test_a_wrong_route_says_where_to_go(served: Running, method: str, path: str, status: int, words: str) -> None:
    message = refusal(served.http.request(method, path), status)["message"]
    assert words in message
    assert f"set the client's base URL to {served.server.address}/v1" in message


def test_a_slash_at_the_end_is_served_or_named(served: Running) -> None:
    assert served.http.get("/v1/models/").json() == served.http.get("/v1/models").json()
    assert served.http.get("/v1/models/tiny/").json() == served.http.get("/v1/models/tiny").json()
    message = refusal(served.http.post(f"{CHAT}/", json=body()), 404)["message"]
    assert message.endswith(f"remove the slash at the end: POST {CHAT}")
    error = refusal(served.http.get("/v1/models/other"), 404)
    assert error["code"] == "model_not_found"
    assert "'tiny'" in error["message"]


def test_nothing_of_an_unknown_path_is_repeated(served: Running) -> None:
    message = refusal(served.http.get("/secret-canary?key=secret-canary"), 404)["message"]
    assert "canary" not in message
