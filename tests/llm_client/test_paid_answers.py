"""Whole runs with a faulty service: rate limits, failures, garbage."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_teacher import TEXTS, Behaviour, FakeTeacher, Request, completion, error
from paid_runs import CANARY, Images, records, reference, sends, write

from vistune.datagen import GenerationConfig
from vistune.errors import BudgetError, RecipeError, TeacherError


@pytest.mark.parametrize(
    ("status", "code"), [(429, "insufficient_quota"), (402, ""), (400, "billing_hard_limit_reached")]
)
def test_a_spent_quota_stops_the_run(
    tmp_path: Path, teacher: FakeTeacher, images: Images, status: int, code: str
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda r: error(status, code) if r.number >= start + 20 else Behaviour(delay=0.01)
    with pytest.raises(BudgetError) as caught:
        write(images, teacher, tmp_path / "out", concurrency=4)
    assert caught.value.exit_code == 4
    assert len(teacher.asked) - start <= 20 + 4
    teacher.behave = lambda request: Behaviour()
    assert reference(images, teacher, tmp_path / "out") == wanted
    assert len(teacher.asked) - start <= 48 + 4, "answers were asked for again"


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (403, ""), (404, "model_not_found")])
def test_a_wrong_key_or_model_costs_one_call(
    tmp_path: Path, teacher: FakeTeacher, images: Images, status: int, code: str
) -> None:
    teacher.behave = lambda request: error(status, code, "Incorrect API key provided")
    began = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        write(images, teacher, tmp_path / "out")
    assert time.monotonic() - began < 5
    assert len(teacher.asked) == 1
    assert caught.value.exit_code == 2
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("status", [401, 403])
def test_where_no_key_was_given_that_is_what_is_said(
    tmp_path: Path, teacher: FakeTeacher, images: Images, monkeypatch: pytest.MonkeyPatch, status: int, batch: bool
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    teacher.behave = lambda request: error(status, "", "You didn't provide an API key")
    with pytest.raises(RecipeError, match=r"no key was given \(OPENAI_API_KEY is not set\).*--api-key-file"):
        write(images, teacher, tmp_path / "out", batch=batch)
    assert len(teacher.asked) == 1


def test_every_fifth_answer_is_a_500_and_all_is_done(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    chance = random.Random(3)
    teacher.behave = lambda request: (
        error(chance.choice((500, 502, 503, 529))) if chance.random() < 0.2 else Behaviour()
    )
    start = len(teacher.asked)
    assert reference(images, teacher, tmp_path / "out") == wanted
    tried = Counter(request.key.split("/")[0] for request in teacher.asked[start:])
    assert len(teacher.asked) - start > 48
    assert max(tried.values()) <= 6


def test_a_service_that_is_down_ends_the_run_and_nothing_is_lost(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda r: error(503) if r.number >= start + 20 else Behaviour()
    with pytest.raises(TeacherError) as caught:
        write(images, teacher, tmp_path / "out", concurrency=8, patience_seconds=1.0)
    assert caught.value.exit_code == 5
    teacher.behave = lambda request: Behaviour()
    assert reference(images, teacher, tmp_path / "out") == wanted


@pytest.mark.parametrize(("status", "code"), [(400, "content_policy_violation"), (400, "bad_request"), (413, "")])
def test_a_request_that_is_refused_is_set_aside_alone(
    tmp_path: Path, teacher: FakeTeacher, images: Images, status: int, code: str
) -> None:
    def behave(request: Request) -> Behaviour:
        return error(status, code) if "Scene number 5." in request.body.decode() else Behaviour()

    teacher.behave = behave
    made = write(images, teacher, tmp_path / "out")
    assert len(made.rows) == 44
    assert Counter(reject.reason for reject in made.rejects) == {"refused_by_service": 4}
    assert len(teacher.asked) == 48
    again = write(images, teacher, tmp_path / "out")
    assert len(teacher.asked) == 48 + 4, "the refused requests are asked again, and nothing else is"
    assert again.rows == made.rows
    teacher.behave = lambda request: Behaviour()
    assert len(write(images, teacher, tmp_path / "out").rows) == 48, "the same command after the cause is gone"


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(body=b"x" * 100, drip=0.2), Behaviour(body=b"x", hang=True), Behaviour(body=completion("x"), cut=9)],
    ids=["drip", "stall", "reset"],
)
def test_a_broken_line_is_tried_again(
    tmp_path: Path, teacher: FakeTeacher, images: Images, behaviour: Behaviour
) -> None:
    wanted = reference(images[:3], teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda r: behaviour if (r.number - start) % 4 == 3 else Behaviour()
    assert reference(images[:3], teacher, tmp_path / "out", deadline_seconds=1.0) == wanted
    kinds = Counter(r.get("kind") for r in records(tmp_path / "out") if r["t"] == "failure")
    assert kinds["unknown"] >= 3


GARBAGE = {
    "empty_body": b"",
    "not_json": b"<html>busy</html>",
    "no_choices": b'{"choices": []}',
    "no_content": completion(None),
    "cut_off": completion("Question:\nIs it", finish_reason="length"),
    "shape": completion("Question:\nIs it calm?"),
    "turn_order": completion("Question:\nA?\n===\nQuestion:\nB?\n===\nAnswer:\nC\n===\nAnswer:\nD"),
    "refusal": completion("I'm sorry, I cannot see the image."),
    "special_tokens": completion(TEXTS["en"]["conversation"] + "</s>"),
    "language": completion(TEXTS["ko"]["conversation"]),
    "body_too_large": b"x" * (5 << 20),
}


@pytest.mark.parametrize("reason", GARBAGE)
def test_what_was_paid_for_is_kept_and_named(tmp_path: Path, teacher: FakeTeacher, images: Images, reason: str) -> None:
    teacher.behave = lambda request: Behaviour(body=GARBAGE[reason])
    made = write(images[:1], teacher, tmp_path / "out", GenerationConfig(kinds=("conversation",)), tries=2)
    assert [reject.reason for reject in made.rejects] == [reason]
    kept = [record for record in records(tmp_path / "out") if record["t"] == "reply"]
    assert len(kept) == len(teacher.asked) == 2
    assert kept[0]["body"] == GARBAGE[reason].decode()[: 1 << 16 if reason == "body_too_large" else None]
    teacher.behave = lambda request: Behaviour()
    write(images[:1], teacher, tmp_path / "out", GenerationConfig(kinds=("conversation",)), tries=2)
    assert len(teacher.asked) == 2, "parsing old replies again cost a call"


def test_a_rejected_reply_is_asked_for_again(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    seen: set[str] = set()

    def behave(request: Request) -> Behaviour:
        first = request.key.split("-")[0] not in seen
        seen.add(request.key.split("-")[0])
        return Behaviour(body=completion("As an AI, I cannot see it.")) if first else Behaviour()

    teacher.behave = behave
    assert reference(images, teacher, tmp_path / "out") == wanted
    assert len(sends(tmp_path / "out", "reply")) == 96
