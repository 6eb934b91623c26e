"""Error bodies of real services are parsed and classified, without exceptions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_teacher import completion
from hypothesis import given, settings
from hypothesis import strategies as st

from vistune.llm_client import Dialect, ServiceError, read_completion, read_error
from vistune.llm_client.client import classify
from vistune.llm_client.refusals import subject_of, without_details

SUBJECTS = [
    (400, "Incorrect API key provided: sk-1. You can find your API key at …", "key"),
    (400, "API key not valid. Please pass a valid API key.", "key"),
    (400, "invalid_api_key", "key"),
    (422, "No API key provided", "key"),
    (403, "Your API key has expired", "key"),
    (400, "유효하지 않은 키입니다: 인증에 실패했습니다", "key"),
    (400, "The model `gpt-9` does not exist or you do not have access to it.", "model"),
    (404, "model 'llava' not found, try pulling it first", "model"),
    (400, "gpt-9 is not a valid model ID", "model"),
    (400, "Model Not Exist", "model"),
    (400, "Your request was rejected as a result of our safety system.", "content"),
    (400, "Input data may contain inappropriate content.", "content"),
    (403, "Your input was flagged by moderation", "content"),
    (400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", "context"),
    (400, "prompt is too long: 210000 tokens > 200000 maximum", "context"),
    (400, "the request exceeds the available context size (512 tokens)", "context"),
    (413, "", "context"),
    (400, "Insufficient Balance", "quota"),
    (402, "", "quota"),
    (400, "Unsupported parameter: 'max_tokens' is not supported with this model.", ""),
    (400, "model names are case-sensitive strings", ""),
    (400, "messages.0.content: Input should be a valid string", ""),
]


@pytest.mark.parametrize(("status", "message", "subject"), SUBJECTS)
def test_a_refusal_is_put_under_its_subject(status: int, message: str, subject: str) -> None:
    assert subject_of(status, ServiceError(message)) == subject


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (200, {"error": {"code": 429, "message": "m"}}, "limited"),
        (200, {"error": {"code": "429", "message": "m"}}, "limited"),
        (200, {"error": {"code": 401, "message": "m"}}, "stop_recipe"),
        (200, {"error": {"code": 402, "message": "m"}}, "stop_quota"),
        (200, {"error": {"code": 500, "message": "m"}}, "failed"),
        (200, {"error": {"code": 400, "message": "m"}}, "refused"),
        (200, {"error": "overloaded"}, "refused"),
        (200, {"error": {"type": "server_error", "message": "m"}}, "failed"),
        (200, [{"error": {"code": 429, "message": "m"}}], "limited"),
        (200, {"object": "error", "code": 429, "message": "m"}, "limited"),
        (200, {"error": None, "choices": [{"message": {"content": "x"}}]}, "reply"),
        (200, {"error": {"code": 500}, "choices": [{"message": {"content": "x"}}]}, "reply"),
        (200, {"choices": [{"message": {"content": '{"error": {"code": 429}}'}}]}, "reply"),
        (200, {"errors": None, "error_file_id": None}, "reply"),
        (403, {"error": {"message": "Your input was flagged"}}, "refused"),
        (403, {"error": {"message": "no access"}}, "stop_recipe"),
        (
            429,
            {"error": {"message": "You exceeded your current quota", "code": "exceeded_current_quota_error"}},
            "stop_quota",
        ),
        (429, {"error": {"message": "Rate limit reached for requests"}}, "limited"),
    ],
)
def test_a_body_is_classified_by_what_it_says(status: int, words: Any, kind: str) -> None:
    assert classify(status, {}, json.dumps(words)).kind == kind


def test_the_words_are_one_line_without_markup_and_without_end() -> None:
    page = "<html><head><title>502</title><script>x()</script></head><body><h1>Bad\n gateway</h1></body></html>"
    assert read_error(page).message == "502 Bad gateway"
    assert len(read_error("x" * 10_000).message) <= 600
    assert read_error(json.dumps({"error": {"message": "a\n\x1b[31mb"}})).message == "a [31mb"
    listed = {"detail": [{"loc": ["body", "a"], "msg": "x"}, {"loc": ["body", "b"], "msg": "y"}]}
    assert read_error(json.dumps(listed)).message == "body.a: x; body.b: y"


def test_the_same_refusal_of_another_request_has_the_without_details() -> None:
    first = "400 You requested 1234 tokens (request id: req_1a2b) for 'Scene one'"
    second = "400 You requested 77 tokens (request id: req_9z8y) for 'Scene two'"
    assert without_details(first) == without_details(second)
    assert without_details(first) != without_details("400 You requested nothing")


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "detail", "loc", "msg", "errors", "metadata", "raw", "param"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(body=st.text() | trees.map(json.dumps), status=st.sampled_from([200, 400, 401, 403, 404, 422, 429, 500]))
def test_no_error_body_raises_and_its_words_are_one_short_line(body: str, status: int) -> None:
    error = read_error(body)
    assert len(error.message) <= 600
    assert "\n" not in error.message
    classify(status, {}, body)
    request = json.dumps({"model": "m", "messages": [], "max_tokens": 1, "temperature": 0.5}).encode()
    adapted = Dialect().adapted(error, request)
    assert json.loads(adapted.apply(request))["messages"] == []


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens must be at most 512",
        "temperature must be between 0 and 1",
        "Input should be less than or equal to 2: temperature",
        "This model's maximum context length is 2048 tokens, max_tokens 1024 exceeds it",
        "streaming is not supported",
        "You described a thermometer whose temperature is high",
        "Unknown field: foo",
        "temperature must be 2 or less",
        "temperature: must be 0 or more",
        "Invalid value for temperature: 0.7",
        "temperature is invalid: expected a float in [0, 2]",
        "temperature is invalid",
        "temperature 0.7 is not supported",
        "temperature should be in (0, 1]",
        "invalid parameter temperature: must be from 0 to 0.5",
        "temperature of 0.7 is not allowed, supported: 0-0.5",
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 0.5, but got 0.7 instead.",
        "Invalid type for 'temperature': expected a decimal, but got a string instead.",
        "Invalid 'max_tokens': integer above maximum value. Expected a value <= 5, but got 9 instead.",
        "max_tokens is invalid: 9",
        "max_tokens must be positive",
        "max_tokens must be 5 or lower",
        "max_tokens = 9 is not supported",
        "max_tokens 값은 5 이하만 지원하지 않는 경우",
    ],
)
@pytest.mark.parametrize("param", ["", "temperature", "max_tokens"])
def test_a_refusal_of_a_value_or_of_something_else_changes_no_parameter(message: str, param: str) -> None:
    body = json.dumps({"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.7}).encode()
    error = ServiceError(message, "invalid_request_error", param if param in message else "")
    assert Dialect().adapted(error, body) == Dialect()


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) is supported.",
        "invalid temperature: only 1 is allowed for this model",
        "Invalid parameter: temperature",
        "Unsupported parameter: 'temperature' is not supported with this model.",
        "temperature is not supported by o1-2024-12-17",
        "temperature is fixed at 1",
    ],
)
def test_a_default_that_a_service_does_not_take_is_left_out_and_a_value_of_the_users_never(message: str) -> None:
    body = json.dumps({"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.7}).encode()
    error = ServiceError(message, "invalid_request_error")
    assert Dialect().adapted(error, body) == Dialect(omitted=("temperature",))
    assert Dialect().adapted(error, body, kept=("temperature",)) == Dialect()


def test_a_list_of_the_parameters_that_a_service_takes_is_no_refusal_of_them() -> None:
    message = "Unrecognized parameter enable_thinking. Allowed: model, messages, max_tokens, temperature"
    body = json.dumps(
        {"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.7, "enable_thinking": 1}
    ).encode()
    assert Dialect().adapted(ServiceError(message), body, kept=("enable_thinking",)) == Dialect()


names = st.text(min_size=1, max_size=12).filter(
    lambda name: (
        name
        not in {
            *("id", "model", "choices", "usage", "error", "object", "message", "finish_reason", "content", "refusal"),
            *("type", "text", "reasoning", "reasoning_content", "reasoning_details", "thinking", "thought"),
        }
    )
)
extras = st.dictionaries(names, trees, max_size=3)


@settings(max_examples=200, deadline=None)
@given(top=extras, choice=extras, message=extras, part=extras, other=extras, parts=st.booleans())
def test_no_unknown_field_of_a_reply_changes_its_text(
    top: Any, choice: Any, message: Any, part: Any, other: Any, parts: bool
) -> None:
    tree = json.loads(completion("The text."))
    plain = read_completion(json.dumps(tree))
    if parts:
        text = [{**other, "type": "thinking"}, {**part, "type": "text", "text": "The text."}, {**other, "type": "x"}]
        tree["choices"][0]["message"]["content"] = text
    tree["choices"][0]["message"] = {**message, **tree["choices"][0]["message"]}
    tree["choices"][0] = {**choice, **tree["choices"][0]}
    body = json.dumps({**top, **tree})
    assert read_completion(body) == plain
    assert classify(200, {}, body).kind == "reply"
