"""A judge behind a loopback endpoint: asked once, journaled, asked again if unreadable, an error if it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import Behaviour, FakeTeacher, Request, completion, error

from vistune.errors import BudgetError, RecipeError, TeacherError
from vistune.evaluation.judge import TRIES, RemoteJudge, judgements
from vistune.llm_client import Endpoint


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTeacher]:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-nobody-at-all")
    fake = FakeTeacher()
    yield fake
    fake.close()


def body(text: str, **parameters: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **parameters}


def judge_at(endpoint: FakeTeacher, folder: Path, **settings: Any) -> RemoteJudge:
    return RemoteJudge(Endpoint("fake-1", endpoint.url, **settings), folder)


def says(endpoint: FakeTeacher, *replies: str) -> None:
    """Each request for a text gets the next of these replies, the last one again and again."""
    seen: dict[bytes, int] = {}

    def behave(request: Request) -> Behaviour:
        number = seen[request.body] = seen.get(request.body, -1) + 1
        return Behaviour(body=completion(replies[min(number, len(replies) - 1)]))

    endpoint.behave = behave


def test_answers_come_in_order_and_are_asked_once(tmp_path: Path, endpoint: FakeTeacher) -> None:
    endpoint.behave = lambda request: Behaviour(body=completion(request.tree["messages"][0]["content"].upper()))
    bodies = [body(f"text {k}") for k in range(40)]
    wanted = [f"TEXT {k}" for k in range(40)]
    assert judge_at(endpoint, tmp_path)(bodies) == wanted
    assert len(endpoint.chats) == 40
    assert judge_at(endpoint, tmp_path)(bodies) == wanted
    assert len(endpoint.chats) == 40
    sent = endpoint.chats[0].tree
    assert (sent["model"], sent["max_tokens"]) == ("fake-1", 8)


def test_the_same_body_twice_asks_for_two_opinions(tmp_path: Path, endpoint: FakeTeacher) -> None:
    says(endpoint, "0.1", "0.2", "0.3")
    assert judge_at(endpoint, tmp_path, concurrency=1)([body("x")] * 3) == ["0.1", "0.2", "0.3"]
    assert judge_at(endpoint, tmp_path)([body("x")] * 2) == ["0.1", "0.2"]
    assert len(endpoint.chats) == 3


def test_a_grade_that_ends_at_the_limit_is_read(tmp_path: Path, endpoint: FakeTeacher) -> None:
    endpoint.behave = lambda request: Behaviour(body=completion("0.5", finish_reason="length"))
    assert judge_at(endpoint, tmp_path)([body("x", max_tokens=3)]) == ["0.5"]


def test_unreadable_judgements_are_asked_again_and_then_fail_loudly(tmp_path: Path, endpoint: FakeTeacher) -> None:
    def number(reply: str) -> int | None:
        return int(reply) if reply.isdigit() else None

    says(endpoint, "hm", "well", "7")
    judge = judge_at(endpoint, tmp_path, concurrency=1)
    assert judgements(judge, {"a": body("x"), "b": body("y")}, number) == {"a": 7, "b": 7}
    assert len(endpoint.chats) == 6
    says(endpoint, "never")
    with pytest.raises(TeacherError, match=r"1 of 1 judgements are unreadable, such as that of c: 'never'"):
        judgements(judge, {"c": body("z")}, number)
    assert len(endpoint.chats) == 6 + TRIES


def test_a_reply_without_text_is_no_judgement(tmp_path: Path, endpoint: FakeTeacher) -> None:
    endpoint.behave = lambda request: Behaviour(body=completion(None))
    with pytest.raises(TeacherError, match="no text for 1 of 1 requests: no_content") as caught:
        judge_at(endpoint, tmp_path)([body("x")])
    assert caught.value.exit_code == 5
    asked = len(endpoint.chats)
    says(endpoint, "fine")
    assert judge_at(endpoint, tmp_path)([body("x")]) == ["fine"]  # the stored faults are no tries of this run
    assert len(endpoint.chats) == asked + 1


def test_refusals_and_wrong_keys_stop(tmp_path: Path, endpoint: FakeTeacher) -> None:
    endpoint.behave = lambda request: error(400, "invalid_request")
    with pytest.raises(TeacherError, match="refused_by_service"):
        judge_at(endpoint, tmp_path / "a")([body("x")])
    endpoint.behave = lambda request: error(401, "invalid_api_key")
    with pytest.raises(RecipeError, match="401"):
        judge_at(endpoint, tmp_path / "b")([body(str(k)) for k in range(30)])


def test_a_thinking_judge_is_read_and_its_thoughts_are_kept(tmp_path: Path, endpoint: FakeTeacher) -> None:
    says(endpoint, "<think>8 of 10? No.</think>\n<answer>0.5</answer>")
    assert judge_at(endpoint, tmp_path)([body("x")]) == ["0.5"]
    assert "8 of 10? No." in (tmp_path / "journal.jsonl").read_text()
    says(endpoint, "0.2</think>0.7")
    endpoint.behave = lambda request: Behaviour(body=completion("0.2</think>0.7", finish_reason="length"))
    assert judge_at(endpoint, tmp_path)([body("y")]) == ["0.7"]


def test_a_judge_that_is_cut_off_while_thinking_gives_no_grade_and_says_why(
    tmp_path: Path, endpoint: FakeTeacher
) -> None:
    endpoint.behave = lambda request: Behaviour(body=completion("<think>0.5 or", finish_reason="length"))
    with pytest.raises(TeacherError, match=r"no text for 1 of 1 requests: cut_off .*cut off while thinking"):
        judge_at(endpoint, tmp_path)([body("x", max_tokens=3)])
    endpoint.behave = lambda request: Behaviour(body=completion("0.5"))
    settings = {"extra_body": {"enable_thinking": False}, "max_tokens": 99, "allow_drift": True}
    assert judge_at(endpoint, tmp_path, **settings)([body("x", max_tokens=3)]) == ["0.5"]
    sent = endpoint.chats[-1].tree
    assert (sent["enable_thinking"], sent["max_tokens"]) == (False, 99)


def test_a_judge_that_refuses_parameters_is_adapted(tmp_path: Path, endpoint: FakeTeacher) -> None:
    def behave(request: Request) -> Behaviour:
        if "max_tokens" in request.tree:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return error(400, "unsupported_parameter", message)
        if "temperature" in request.tree:
            return error(400, "unsupported_value", "'temperature' does not support 0.2 with this model")
        return Behaviour(body=completion("1"))

    endpoint.behave = behave
    bodies = [body(str(k), temperature=0.2) for k in range(8)]
    assert judge_at(endpoint, tmp_path)(bodies) == ["1"] * 8
    assert len(endpoint.chats) == 8 + 2


def test_a_judge_that_refuses_everything_stops_in_its_own_words_and_is_asked_again(
    tmp_path: Path, endpoint: FakeTeacher
) -> None:
    bodies = [body(str(k)) for k in range(30)]
    endpoint.behave = lambda request: error(400, "bad", "the words of this judge")
    with pytest.raises(RecipeError, match="the words of this judge"):
        judge_at(endpoint, tmp_path)(bodies)
    assert len(endpoint.chats) <= 5
    says(endpoint, "1")
    assert judge_at(endpoint, tmp_path)(bodies) == ["1"] * 30


def test_a_budget_is_kept(tmp_path: Path, endpoint: FakeTeacher) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 8}
    endpoint.behave = lambda request: Behaviour(body=completion("1", usage=usage))
    (tmp_path / "prices.yaml").write_text("models: {fake-1: {input: 1000, output: 1000}}\n")
    judge = judge_at(endpoint, tmp_path / "j", budget=0.3, prices=tmp_path / "prices.yaml", concurrency=1)
    with pytest.raises(BudgetError):
        judge([body(str(k)) for k in range(20)])
    assert 0 < judge.spent["dollars"] <= 0.3
    assert judge.spent["dollars"] == pytest.approx(0.028 * len(endpoint.chats))


def test_a_run_that_stops_goes_on_where_it_stopped(tmp_path: Path, endpoint: FakeTeacher) -> None:
    def runs_dry(request: Request) -> Behaviour:
        return error(402, "insufficient_quota") if request.number >= 5 else Behaviour(body=completion("1"))

    endpoint.behave = runs_dry
    bodies = [body(str(k)) for k in range(12)]
    with pytest.raises(BudgetError):
        judge_at(endpoint, tmp_path, concurrency=1)(bodies)
    asked = len(endpoint.chats)
    says(endpoint, "2")
    assert judge_at(endpoint, tmp_path, concurrency=1)(bodies) == ["1"] * 5 + ["2"] * 7
    assert len(endpoint.chats) == asked + 7


def test_the_judge_names_itself(tmp_path: Path, endpoint: FakeTeacher) -> None:
    says(endpoint, "1")
    judge = judge_at(endpoint, tmp_path)
    judge([body("x")])
    found = judge.describe()
    assert (found["model"], found["answered_as"], found["base_url"]) == ("fake-1", "fake-1", endpoint.url)
    assert json.dumps(found)
    with pytest.raises(RecipeError, match="contains answers that were given with another model"):
        RemoteJudge(Endpoint("fake-2", endpoint.url), tmp_path)([body("x")])


def test_options_of_a_judge_without_a_judge_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vistune", "score", "mmvet", "--data", str(tmp_path), "--predictions", "p.jsonl"]
    found = subprocess.run(
        [*command, "--extra-body", "{}", "--budget", "3"], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 2
    assert "--budget, --extra-body: only used with --judge. Fix: add --judge MODEL" in found.stderr
