"""`/v1/responses`: the same answers as a chat, in the Responses API's form, through the official client."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx2
import openai
import pytest
from pydantic import BaseModel, ConfigDict
from running_servers import Running, data_url, png, question, until

from vistune.serving.api.responses_schema import RESPONSES_FIELDS, ResponsesRequest

PATH = "/v1/responses"
IMAGE = data_url(png())
SHOWN = [
    {
        "role": "user",
        "content": [{"type": "input_image", "image_url": IMAGE}, {"type": "input_text", "text": "What colour is it?"}],
    }
]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "blue"]
    round: bool


def ask(served: Running, **changes: Any) -> httpx2.Response:
    asked = {"model": "tiny", "input": "Where?", "max_output_tokens": 8, "temperature": 0, **changes}
    return served.http.post(PATH, json={name: value for name, value in asked.items() if value is not ...})


def chat(served: Running, messages: list[dict[str, Any]], **changes: Any) -> str:
    response = served.ask(messages=messages, **{"max_tokens": 8, **changes})
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_a_response_is_the_answer_of_a_chat(served: Running) -> None:
    client = served.client()
    common: dict[str, Any] = {"model": "tiny", "max_output_tokens": 8, "temperature": 0}
    text = client.responses.create(input="Where is it?", **common)
    assert text.output_text == chat(served, question("Where is it?"))
    system = {"role": "system", "content": "Be brief."}
    shown = client.responses.create(input=SHOWN, instructions="Be brief.", **common)  # type: ignore[arg-type]
    assert shown.output_text == chat(served, [system, *question("What colour is it?", IMAGE)])
    assert shown.instructions == "Be brief."
    assert shown.usage is not None
    assert shown.usage.total_tokens == shown.usage.input_tokens + shown.usage.output_tokens
    # The client's own output goes back as input.
    again: list[Any] = [*SHOWN, *shown.output, {"role": "user", "content": "Sure?"}]
    spoken = [*question("What colour is it?", IMAGE), {"role": "assistant", "content": shown.output_text}]
    answered = client.responses.create(input=again, **common)
    assert answered.output_text == chat(served, [*spoken, {"role": "user", "content": "Sure?"}])
    until(served.idle)


def test_status_and_usage_tell_whether_the_answer_was_cut(served: Running) -> None:
    cut = ask(served, max_output_tokens=1, metadata={"a": "b"}).json()
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (cut["output"][0]["status"], cut["usage"]["output_tokens"]) == ("incomplete", 1)
    assert cut["metadata"] == {"a": "b"}


def test_a_stream_has_the_events_of_the_responses_api(served: Running) -> None:
    client = served.client()
    asked: dict[str, Any] = {
        "model": "tiny", "input": SHOWN, "max_output_tokens": 12, "temperature": 0, "top_logprobs": 2,
        "include": ["message.output_text.logprobs"],
    }  # fmt: skip
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:-1] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done"
    ]  # fmt: skip
    assert kinds[-1] == f"response.{whole.status}"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text
    final: Any = events[-1]
    assert final.response.output_text == whole.output_text
    assert final.response.usage.output_tokens == whole.usage.output_tokens
    listed: Any = whole.output[0]
    logprobs = listed.content[0].logprobs
    assert [entry.logprob for event in deltas for entry in event.logprobs] == [entry.logprob for entry in logprobs]
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs)
    with client.responses.stream(model="tiny", input="Where?", max_output_tokens=8, temperature=0) as stream:
        said = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(said) == chat(served, question("Where?"))


def test_parse_returns_the_pydantic_class(served: Running) -> None:
    client = served.client()
    asked: dict[str, Any] = {"model": "tiny", "input": SHOWN, "max_output_tokens": 300, "text_format": Shape}
    for temperature in (0, 1.5):
        parsed = client.responses.parse(**asked, temperature=temperature)
        assert parsed.status == "completed"
        assert isinstance(parsed.output_parsed, Shape)
    with client.responses.stream(**asked, temperature=0) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Shape)


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"input": ...}, "input", "missing; give text, or a list of 1 to 1000 messages"),
        ({"input": []}, "input", "must be text, or a list of"),
        ({"input": 5}, "input", "got a whole number"),
        ({"input": ["hi"]}, "input[0]", "got text"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", 'must be "message"'),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "put the result of the tool"),
        ({"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "input[0].content[0].type",
         "'text' is not supported; send {\"type\": \"input_text\""),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type", "a file"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f", "image_url": IMAGE}]}]},
         "input[0].content[0].file_id", "files are not stored here"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/x.png"}]}]},
         "input[0].content[0].image_url", "a link, and this server fetches none"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input", "the last message is the assistant's"),
        ({"input": [{"role": "system", "content": "x"}]}, "input", "there is no message of the user"),
        ({"input": "word " * 2000}, "input", "the model reads at most 1024"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation as input"),
        ({"conversation": "conv_1"}, "conversation", "send the whole conversation as input"),
        ({"store": True}, "store", "responses are not stored here; set it to false"),
        ({"background": True}, "background", "not supported; remove it"),
        ({"truncation": "auto"}, "truncation", "shorten the conversation"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "not supported; remove it"),
        ({"messages": question()}, "messages", "send it to /v1/chat/completions, or put it into input"),
        ({"max_tokens": 5}, "max_tokens", "use max_output_tokens"),
        ({"n": 2}, "n", "send it to /v1/chat/completions"),
        ({"stop": "x"}, "stop", "send it to /v1/chat/completions"),
        ({"response_format": {"type": "json_object"}}, "response_format", 'use text: {"format": {...}}'),
        ({"include": ["file_search_call.results"]}, "include[0]", 'must be "message.output_text.logprobs"'),
        ({"top_logprobs": 2}, "top_logprobs", "add include"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "missing"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "missing"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "wat"}}}}, "text.format.schema",
         "a `type` is not one of JSON Schema"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type", 'must be "text", "json_object" or "json_schema"'),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "not supported; remove it"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field(served: Running, changes: dict[str, Any], param: str, words: str) -> None:
    response = ask(served, **changes)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert words in error["message"]
    assert error["message"].startswith(param) or "the model reads" in error["message"]


def test_what_changes_nothing_is_taken_or_listed(served: Running) -> None:
    neutral: dict[str, Any] = {
        "store": False, "truncation": "disabled", "background": False, "tools": [], "previous_response_id": None,
        "reasoning": None, "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto",
    }  # fmt: skip
    response = ask(served, **neutral, user="me", service_tier="auto")
    assert response.status_code == 200, response.text
    assert response.headers["x-ignored-parameters"] == "user, service_tier"
    with pytest.raises(openai.NotFoundError):
        served.client().responses.create(model="other", input="x")


def paths_of(schema: dict[str, Any], whole: dict[str, Any], path: str = "") -> set[str]:
    if "$ref" in schema:
        return paths_of(whole["$defs"][schema["$ref"].split("/")[-1]], whole, path)
    found = {path}
    for one in [*schema.get("anyOf", []), *schema.get("oneOf", [])]:
        found |= paths_of(one, whole, path)
    for name, inner in schema.get("properties", {}).items():
        found |= paths_of(inner, whole, f"{path}.{name}" if path else name)
    if "items" in schema:
        found |= paths_of(schema["items"], whole, f"{path}[]")
    return found


def test_every_field_of_the_schema_has_words_for_what_it_must_be() -> None:
    schema = ResponsesRequest.model_json_schema()
    assert paths_of(schema, schema) <= set(RESPONSES_FIELDS)


def test_an_error_in_a_stream_is_its_last_event(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(served.service.engine.batch, "_decode", fails)
    response = ask(served, stream=True)
    last = [line for line in response.text.split("\n") if line.startswith("data: ")][-1]
    error = json.loads(last.removeprefix("data: "))
    assert (error["type"], error["code"]) == ("error", "internal_error")
    assert "secret" not in response.text
    until(served.idle)
