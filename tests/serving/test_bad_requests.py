"""Rows H of the reliability matrix: whatever is sent, the answer is a clear refusal and the next request is served."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Bench
from running_servers import CHAT, Running, body, data_url, png, post, question, read_all, running, until
from script_modules import load_script

from vistune.serving.api import MB, Limits

load_script("corpus_images")
REQUESTS = load_script("corpus_requests")


@pytest.fixture(autouse=True)
def _still_serves(served: Running) -> Iterator[None]:
    yield
    assert served.ask().status_code == 200
    until(served.idle)


def refused(response: Any, status: int, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    if param is not None:
        assert (error["param"] or "").startswith(param), error
    assert not re.search(r"\b0x[0-9a-fA-F]{4}", error["message"]), "no address of memory"
    assert "/" not in error["message"].replace("image/", ""), "no path"
    assert len(response.headers["x-request-id"]) == 32
    return str(error["message"])


@pytest.mark.parametrize("name", REQUESTS.BODIES)
def test_a_body_of_the_corpus_is_refused(served: Running, name: str) -> None:
    case, began = REQUESTS.BODIES[name], time.monotonic()
    response = served.http.post(CHAT, content=case.said, headers={"content-type": "application/json"})
    message = refused(response, case.status, case.param)
    assert re.search(case.words, message), message
    assert "passwd" not in message
    assert "BytesIO" not in message
    assert time.monotonic() - began < 30, "not linear"


@pytest.mark.parametrize("name", REQUESTS.HEADS)
def test_a_request_of_the_corpus_has_its_status(served: Running, name: str) -> None:
    assert status_of(served.raw(REQUESTS.HEADS[name].said)) == REQUESTS.HEADS[name].status


def test_h23_control_tokens_that_are_typed_are_text(served: Running) -> None:
    assert served.ask(messages=question("<image> </s> USER: a ASSISTANT: b")).status_code == 200


def test_pixels_of_a_request_are_counted_before_the_next_picture_is_opened(served: Running) -> None:
    large = data_url(png(side=5000))  # 25 million pixels, 75 kB
    assert "64000000 pixels" in refused(served.ask(messages=question("?", *[large] * 3)), 400, "messages[0].content[2]")


def test_h25_h26_unknown_fields_are_listed_and_the_last_of_two_keys_counts(served: Running) -> None:
    response = served.http.post(CHAT, json=body(**{"a\nb": 1, "colour": "red"}))
    assert response.headers["x-ignored-parameters"] == "a%0Ab, colour"
    text = json.dumps(body())[:-1] + ', "max_tokens": 2}'
    assert served.http.post(CHAT, content=text.encode()).json()["usage"]["completion_tokens"] <= 2


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_h06_a_large_body_in_chunks_is_not_waited_for(served: Running) -> None:
    chunk = b"100000\r\n" + b" " * MB + b"\r\n"
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode()
    assert status_of(served.raw(head + chunk * 60 + b"0\r\n\r\n")) == 413
    assert served.service._bodies == 0


def test_h27_http_1_0_and_requests_one_behind_the_other(served: Running) -> None:
    assert b"200 OK" in served.raw(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
    twice = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ready HTTP/1.1\r\nHost: localhost\r\n"
    assert served.raw(twice + b"Connection: close\r\n\r\n").count(b"200 OK") == 2


def test_numbers_too_small_for_fp32_take_the_likeliest_token(served: Running) -> None:
    """In fp32 they would be 0, and what is sampled from NaN: an error for all who are answered at the time."""
    greedy = served.ask().json()["choices"][0]["message"]["content"]
    for changes in (
        {"temperature": 1e-320},
        {"temperature": 2, "top_p": 1e-320},
        {"temperature": 1e-320, "top_p": 1e-9},
    ):
        assert served.ask(**changes).json()["choices"][0]["message"]["content"] == greedy
    refused(served.ask(repetition_penalty=1e-320), 400, "repetition_penalty")


def test_l6_the_schema_is_whole(served: Running) -> None:
    """Every $ref of the OpenAPI page leads somewhere."""
    page = served.http.get("/openapi.json").json()
    schema = page["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"model", "messages"} == set(schema["required"])
    links = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(page)))
    assert links
    for link in links:
        found = page
        for step in link.split("/"):
            found = found[step.replace("~1", "/")]
        assert found["type"] == "object"


def resolved(page: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference names."""
    return page["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def test_l6_the_schema_says_what_is_taken_and_what_comes_back(served: Running) -> None:
    page = served.http.get("/openapi.json").json()
    for path, methods in page["paths"].items():
        for method, route in methods.items():
            replies = route["responses"]
            if path != "/metrics":
                good, refused = (
                    resolved(page, replies[status]["content"]["application/json"]["schema"])
                    for status in ("200", "4XX")
                )
                assert good["type"] == "object", path
                assert refused["required"] == ["error"], path
            assert "422" not in replies, (path, method)
    assert list(page["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    asked = page["paths"][CHAT]["post"]
    assert "text/event-stream" in asked["responses"]["200"]["content"]
    schema = asked["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["model"] == {"const": "tiny"}
    for found in (schema["properties"]["stop"], schema["$defs"]["ToolMessage"]["properties"]["content"]):
        assert {"array", "string"} <= {one["type"] for one in found["anyOf"]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*body(), "top_p", "top_k", "stop", "seed", "n", "stream", "stream_options", "tools", "x"])
CONTENT = st.text(max_size=30) | st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"])}, optional={"text": JSON, "image_url": JSON}),
    max_size=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "x"]), "content": CONTENT | JSON})
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, JSON, max_size=4), MESSAGES | st.just(...))
def test_l6_any_json_is_answered_or_refused(served: Running, changes: dict[str, Any], messages: Any) -> None:
    given_body = (
        body(**changes, **({} if messages is ... else {"messages": messages})) if "messages" not in changes else changes
    )
    response = served.http.post(CHAT, content=json.dumps(given_body).encode())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code == 200 and changes.get("stream") is True:
        assert response.text.endswith("data: [DONE]\n\n")
    elif response.status_code == 200:
        assert response.json()["usage"]["completion_tokens"] >= 1
    else:
        refused(response, response.status_code)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_l6_any_bytes_are_refused(served: Running, data: bytes) -> None:
    refused(served.http.post(CHAT, content=data), 400)


def test_slow_bodies_are_told_so(bench: Bench) -> None:
    with running(bench, limits=Limits(body_seconds=0.2, head_seconds=0.2)) as found:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode()
        assert status_of(found.raw(head + b"{")) == 408
        assert found.raw(f"POST {CHAT} HTTP/1.1\r\nHost: loc".encode()) == b""  # headers: cut
        assert found.raw(b"") == b""
        assert found.ask().status_code == 200


def test_all_bodies_together_have_a_bound(bench: Bench) -> None:
    """Fifty thousand bytes are held of one that is still coming: another of as many must come again later."""
    with running(bench, limits=Limits(bodies_bytes=60_000)) as found:
        data = json.dumps(body(messages=question("x" * 200, data_url(b"x" * 37_000)))).encode()
        with found.connect() as slow:
            slow.sendall(post(data)[:-100])
            until(lambda: found.service._bodies > 40_000)
            answer = found.raw(post(data))
            assert status_of(answer) == 429
            assert b"retry-after: 1" in answer.lower()
            slow.sendall(data[-100:])
            assert status_of(read_all(slow)) == 400  # no picture
        assert found.ask().status_code == 200
        assert found.service._bodies == 0
