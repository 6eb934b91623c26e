"""Every status, header and body has one outcome, and none raises."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
import zlib
from pathlib import Path

import pytest
from fake_teacher import TEXTS, Behaviour, FakeTeacher, completion
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paid_runs import ended, in_child

from vistune.datagen import GenerationConfig, make_requests
from vistune.datagen.teachers.remote import check_answer
from vistune.errors import RecipeError
from vistune.llm_client import Client, RequestResult, read_completion, read_key
from vistune.llm_client.client import LARGEST_BODY, Outcome, classify, retry_after
from vistune.types import AnnotatedImage, Box


def error_body(code: str) -> str:
    return json.dumps({"error": {"message": "m", "type": code, "code": code}})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "{}", "reply"),
        (429, "", "limited"),
        (429, error_body("rate_limit_exceeded"), "limited"),
        (429, error_body("insufficient_quota"), "stop_quota"),
        (402, "", "stop_quota"),
        (400, error_body("billing_hard_limit_reached"), "stop_quota"),
        (401, error_body("invalid_api_key"), "stop_recipe"),
        (403, "", "stop_recipe"),
        (404, error_body("model_not_found"), "stop_recipe"),
        (301, "", "stop_recipe"),
        (500, "", "failed"),
        (502, "<html>", "failed"),
        (503, "", "failed"),
        (529, "", "failed"),
        (408, "", "failed"),
        (400, error_body("content_policy_violation"), "refused"),
        (413, "", "refused"),
        (422, '{"error": "text"}', "refused"),
    ],
)
def test_statuses(status: int, body: str, kind: str) -> None:
    assert classify(status, {}, body).kind == kind


NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0),
        ("0.5", 0.5),
        ("600", 600.0),
        ("-3", 0.0),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90.0),
        (email.utils.formatdate(NOW - 90, usegmt=True), 0.0),
        ("1e300", 86_400.0),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("", "empty_body"),
        ("<html><body>OK</body></html>", "not_json"),
        ('{"choices": [{"mess', "not_json"),
        ("[" * 100_000, "not_json"),
        ("[]", "not_json"),
        ("{}", "no_choices"),
        ('{"choices": []}', "no_choices"),
        ('{"choices": {}}', "no_choices"),
        ('{"choices": [{"message": null}]}', "no_choices"),
        (completion(None).decode(), "no_content"),
        (completion(["x"]).decode(), "no_content"),
        (completion("half a sen", finish_reason="length").decode(), "cut_off"),
        (completion("", finish_reason="content_filter").decode(), "content_filter"),
        ('{"choices": [{"message": {"content": null, "refusal": "no"}}]}', "refusal"),
    ],
)
def test_bodies_without_an_answer(body: str, fault: str) -> None:
    read = read_completion(body)
    assert (read.text, read.fault) == (None, fault)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": "9"}, {"prompt_tokens": -1}, [], {"prompt_tokens": True}]
)
def test_usage_that_is_none(usage: object) -> None:
    read = read_completion(completion("text", usage=usage).decode())
    assert (read.text, read.prompt_tokens, read.completion_tokens) == ("text", None, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "error", "code", "x"]), inner)
    ),
    max_leaves=12,
)


# fmt: off
PIECES = [*TEXTS["en"].values(), *TEXTS["ko"].values(), "Question:\n", "===", "Answer:\n", "질문:", "답변:", "```json",
          "<image>", "</s>", "{", "0.5", "\ud800", "\0", "As an AI"]
# fmt: on
texts = st.text() | st.lists(st.sampled_from(PIECES)).map("\n".join)
bodies = (
    st.text()
    | st.binary().map(lambda raw: raw.decode("utf-8", "backslashreplace"))
    | json_values.map(json.dumps)
    | texts.map(lambda text: completion(text).decode())
)
ORDERS = make_requests(
    [AnnotatedImage("1", Path("1.jpg"), ("A dog.",), (Box("dog", 0.1, 0.1, 0.5, 0.5),))],
    GenerationConfig(kinds=("conversation", "detail", "reasoning", "caption"), languages=("en", "ko")),
)


def read_and_judge(body: str) -> None:
    """Nothing raises, and what is no answer has a reason."""
    read = read_completion(body)
    assert (read.text is None) == bool(read.fault)
    for order in ORDERS:
        checked = check_answer(order, RequestResult(read, 0))
        assert bool(checked.turns) or bool(checked.failures)
    for status in (200, 400, 429, 500):
        assert isinstance(classify(status, {}, body), Outcome)


@settings(max_examples=300, deadline=None)
@given(body=bodies)
def test_no_body_raises(body: str) -> None:
    read_and_judge(body)


@pytest.mark.soak
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies)
def test_no_body_of_ten_thousand_raises(body: str) -> None:
    read_and_judge(body)


def ask(teacher: FakeTeacher, *, deadline_seconds: float = 10.0, key: str | None = None) -> Outcome:
    async def work() -> Outcome:
        client = Client(teacher.url, key, concurrency=2, deadline_seconds=deadline_seconds)
        try:
            return await client.complete(b"{}")
        finally:
            await client.close()

    return asyncio.run(work())


@pytest.mark.parametrize(
    "behaviour", [Behaviour(body=b"x" * 100, drip=0.5), Behaviour(body=b"x", hang=True), Behaviour(body=b"x", delay=30)]
)
def test_the_deadline_is_for_the_whole_answer(teacher: FakeTeacher, behaviour: Behaviour) -> None:
    teacher.behave = lambda request: behaviour
    began = time.monotonic()
    outcome = ask(teacher, deadline_seconds=1.0)
    assert outcome.kind == "unknown"
    assert 0.9 < time.monotonic() - began < 5


def test_a_reset_in_the_middle_may_have_been_billed(teacher: FakeTeacher) -> None:
    teacher.behave = lambda request: Behaviour(body=completion("text"), cut=20)
    assert ask(teacher).kind == "unknown"


def test_nobody_there_is_a_failure_that_cost_nothing(teacher: FakeTeacher) -> None:
    teacher.close()
    assert ask(teacher).kind == "failed"


def bomb(packed: int = 1 << 20) -> bytes:
    """About 1 MB of gzip that unpacks to 1 GB, made without holding that."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(bytes(packed)) for _ in range(1024)), packer.flush()])


def memory(field: str) -> int:
    """KiB of this process, from the kernel: VmRSS now, VmHWM at most."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no peak of a process")
@pytest.mark.parametrize("packed", [True, False])
def test_a_gigabyte_is_cut_off(teacher: FakeTeacher, packed: bool) -> None:
    """A gzip bomb of 1 MB and a body of 50 MB: a few megabytes are read, and the answer says so."""
    content = bomb() if packed else b"x" * (50 << 20)
    assert not packed or len(content) < 2 << 20
    headers = {"Content-Encoding": "gzip"} if packed else {}
    teacher.behave = lambda request: Behaviour(body=content, headers=headers)

    def work() -> None:
        before = memory("VmRSS")
        outcome = ask(teacher, deadline_seconds=60)
        grown = memory("VmHWM") - before
        assert (outcome.kind, outcome.reason) == ("reply", "body_too_large")
        assert len(outcome.body) <= LARGEST_BODY
        assert read_completion(outcome.body, outcome.reason).fault == "body_too_large"
        assert grown < 64 << 10, f"{grown} KiB more than before"

    assert ended(in_child(work)) == 0  # a child of its own: its peak begins with it


def test_bytes_that_are_no_text_are_kept_readable(teacher: FakeTeacher) -> None:
    teacher.behave = lambda request: Behaviour(body=b'{"choices": "\xff\xfe"}')
    outcome = ask(teacher)
    assert outcome.kind == "reply"
    assert "\\xff\\xfe" in outcome.body


def test_a_redirect_takes_the_key_nowhere(teacher: FakeTeacher) -> None:
    other = FakeTeacher()
    teacher.behave = lambda request: Behaviour(
        status=307, body=b"", headers={"Location": f"{other.url}/chat/completions"}
    )
    try:
        assert ask(teacher, key="sk-secret").kind == "stop_recipe"
        assert teacher.asked[0].headers["authorization"] == "Bearer sk-secret"
        assert not other.asked
    finally:
        other.close()


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-file\n")
    assert read_key({"OPENAI_API_KEY": "sk-env"}, tmp_path / "key") == "sk-file"
    assert read_key({"OPENAI_API_KEY": " sk-env "}, None) == "sk-env"
    assert read_key({}, None) is None
    (tmp_path / "key").write_text("two words")
    with pytest.raises(RecipeError, match="does not contain a key"):
        read_key({}, tmp_path / "key")
