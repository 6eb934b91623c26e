"""No paid answer is ever lost or asked for twice: the teacher misbehaves, the run is killed, the files stay the same.

Rows G1-G18 of the reliability matrix that need a whole run; the journal's, the client's and the pace's are beside this.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import (
    TEXTS,
    Behaviour,
    FakeTeacher,
    Request,
    answer_line,
    complete_batch,
    completion,
    error,
    good,
)
from typer.testing import CliRunner

from vistune.datagen import Generated, Service, Wishes, by_service, write_generated
from vistune.errors import BudgetError, RecipeError, TeacherError, VistuneError
from vistune.remote import Journal
from vistune.types import AnnotatedImage

WISHES = Wishes(kinds=("conversation", "detail"), languages=("en", "ko"))
EXPORTED = ("samples.json", "messages.jsonl", "rejects.jsonl", "pictures.jsonl", "images.json")
CANARY = "sk-CANARY-0123456789"
Images = list[AnnotatedImage]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)


def write(images: Images, teacher: FakeTeacher, out: Path, wishes: Wishes = WISHES, **service: Any) -> Generated:
    """One run as `vistune generate` makes it."""
    prices = out.parent / "prices.yaml"
    prices.write_text("models: {fake-1: {input: 10, output: 100}}\n")
    given = {"model": "fake-1", "base_url": teacher.url, "prices": prices, "poll_seconds": 0.01, **service}
    made = by_service(images, wishes, Service(**given), out, lambda *_: None)
    write_generated(out, made, images)
    return made


def exported(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in EXPORTED}


def records(out: Path) -> list[dict[str, Any]]:
    journal = Journal(out)
    try:
        return [dict(record) for _, record in journal.records()]
    finally:
        journal.close()


def sends(out: Path, kind: str) -> Counter[str]:
    return Counter(f"{r['key']}/{r['send']}" for r in records(out) if r["t"] == kind)


def paid(out: Path) -> float:
    """Dollars that the journal's replies cost."""
    return sum(record["dollars"] for record in records(out) if record["t"] == "reply")


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a child forked here; its process id. It exits as the command line would."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except VistuneError as stopped:
            code = stopped.exit_code
        finally:
            os._exit(code)
    return child


def ended(child: int, within: float = 60) -> int:
    """The exit code of a child, or minus the signal that killed it."""
    until = time.monotonic() + within
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"still running after {within} s")
        time.sleep(0.005)


# --- kill -9 (G1, G2) ---

KILLABLE = ("write", "fsync", "replace", "ftruncate")


def kill_at(number: int) -> None:
    """From now on the process kills itself at its `number`-th write, fsync, rename or HTTP call, before or after it."""
    from vistune.remote.client import Client

    count = 0

    def reached() -> bool:
        nonlocal count
        count += 1
        return count >= number

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hooked(real: Callable[..., Any], half: bool) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if reached():
                if half:
                    real(given[0], given[1][: len(given[1]) // 2])
                die()
            result = real(*given, **named)
            if reached():
                die()
            return result

        return call

    for name in KILLABLE:
        setattr(os, name, hooked(getattr(os, name), name == "write"))
    real_request = Client.request

    async def request(self: Client, *given: Any, **named: Any) -> Any:
        if reached():
            die()
        outcome = await real_request(self, *given, **named)
        if reached():
            die()
        return outcome

    Client.request = request  # type: ignore[method-assign]


def kill_and_go_on(
    images: Images, teacher: FakeTeacher, out: Path, wanted: dict[str, bytes], number: int, **service: Any
) -> bool:
    """Kill a run at one point, go on, compare all; False where the run ended before that point."""
    first = len(teacher.asked)

    def work() -> None:
        kill_at(number)
        write(images, teacher, out, concurrency=4, **service)

    code = ended(in_child(work))
    assert code in (0, -signal.SIGKILL), f"exit {code} at kill point {number}"
    killed = len(teacher.asked)
    known = sends(out, "reply") if (out / "journal.jsonl").exists() else Counter[str]()
    write(images, teacher, out, concurrency=4, **service)
    assert exported(out) == wanted, f"kill point {number}: the files differ"
    again = [request for request in teacher.asked[killed:] if request.path.endswith("completions")]
    keys = {key.split("/")[0] for key in known}
    assert not [request for request in again if request.key.split("/")[0] in keys], "asked what was answered"
    assert sends(out, "reply").most_common(1)[0][1] == 1
    accounted = sends(out, "reply") + sends(out, "intent")
    billed = [request.key for request in teacher.asked[first:] if request.billed]
    assert all(accounted[key] for key in billed), f"kill point {number}: billed and not in the journal"
    # What is billed and has no reply was under way when the run was killed: one a worker, 1.5 workers a slot and one.
    assert len([key for key in billed if key not in sends(out, "reply")]) <= 7
    return code != 0


def reference(images: Images, teacher: FakeTeacher, out: Path, **service: Any) -> dict[str, bytes]:
    write(images, teacher, out, **service)
    return exported(out)


def test_a_killed_run_goes_on_and_writes_the_same_bytes(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    wanted = reference(images[:3], teacher, tmp_path / "whole")
    chance = random.Random(0)
    for number in (2, 9, *sorted(chance.sample(range(12, 60), 3))):
        assert kill_and_go_on(images[:3], teacher, tmp_path / f"killed-{number}", wanted, number)


@pytest.mark.soak
def test_a_run_killed_at_every_point_goes_on(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    """Every write (torn in half), fsync, rename and HTTP call, before and after."""
    wanted = reference(images[:3], teacher, tmp_path / "whole")
    number = 1
    while kill_and_go_on(images[:3], teacher, tmp_path / f"killed-{number}", wanted, number):
        number += 1
    print(f"{number - 1} kill points")
    assert number > 60


@pytest.mark.soak
def test_a_run_killed_at_random_times_goes_on(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    """200 random times, each run killed again and again until it ends."""
    teacher.behave = lambda request: Behaviour(delay=0.01 * (request.number % 5))
    wanted = reference(images, teacher, tmp_path / "whole")
    chance = random.Random(1)
    kills = 0
    for number in range(90):
        out = tmp_path / f"run-{number}"
        first = len(teacher.asked)
        for _ in range(4):
            child = in_child(lambda out=out: write(images, teacher, out, concurrency=4))  # type: ignore[misc]
            time.sleep(chance.uniform(0.01, 0.35))
            os.kill(child, signal.SIGKILL)
            kills += ended(child) != 0
        write(images, teacher, out, concurrency=4)
        assert exported(out) == wanted
        accounted = sends(out, "reply") + sends(out, "intent")
        assert all(accounted[request.key] for request in teacher.asked[first:] if request.billed)
    print(f"{kills} kills")
    assert kills >= 200


def test_a_finished_run_asks_nothing_again(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    wanted = reference(images, teacher, tmp_path / "out")
    count = len(teacher.asked)
    assert count == 48
    teacher.close()
    write(images, teacher, tmp_path / "out")
    assert exported(tmp_path / "out") == wanted


def test_the_order_of_answers_changes_nothing(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    wanted = reference(images, teacher, tmp_path / "one", concurrency=1)
    teacher.behave = lambda request: Behaviour(delay=random.Random(request.number).random() * 0.1)
    assert reference(images, teacher, tmp_path / "many", concurrency=16) == wanted


# --- limits, failures, garbage (G5-G11) ---


@pytest.mark.parametrize("value", ["1", "date", "soon", None])
def test_a_429_is_waited_out(tmp_path: Path, teacher: FakeTeacher, images: Images, value: str | None) -> None:
    limited_at: list[float] = []

    def behave(request: Request) -> Behaviour:
        if request.number == 10:
            limited_at.append(request.at)
            header = formatdate(time.time() + 2, usegmt=True) if value == "date" else value
            return error(429, "rate_limit_exceeded", **({"Retry-After": header} if header else {}))
        return Behaviour(delay=0.02)

    teacher.behave = behave
    made = write(images, teacher, tmp_path / "out", concurrency=2)
    assert len(made.rows) == 48
    later = [request.at - limited_at[0] for request in teacher.chats if request.number > 11]  # 11 was on its way
    assert min(later) > 0.9


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


def test_a_request_that_is_refused_is_set_aside_alone(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    def behave(request: Request) -> Behaviour:
        filtered = "Scene number 5." in request.body.decode()
        return error(400, "content_policy_violation", "no") if filtered else Behaviour()

    teacher.behave = behave
    made = write(images, teacher, tmp_path / "out")
    assert len(made.rows) == 44
    assert Counter(reject.reason for reject in made.rejects) == {"refused_by_service": 4}
    assert len(teacher.asked) == 48
    write(images, teacher, tmp_path / "out")
    assert len(teacher.asked) == 48, "a refused request was sent again"


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
    made = write(images[:1], teacher, tmp_path / "out", Wishes(kinds=("conversation",)), tries=2)
    assert [reject.reason for reject in made.rejects] == [reason]
    kept = [record for record in records(tmp_path / "out") if record["t"] == "reply"]
    assert len(kept) == len(teacher.asked) == 2
    assert kept[0]["body"] == GARBAGE[reason].decode()[: 1 << 16 if reason == "body_too_large" else None]
    teacher.behave = lambda request: Behaviour()
    write(images[:1], teacher, tmp_path / "out", Wishes(kinds=("conversation",)), tries=2)
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


# --- money (G13) ---


@pytest.mark.parametrize("concurrency", [1, 16])
def test_the_budget_holds_and_a_larger_one_goes_on(
    tmp_path: Path, teacher: FakeTeacher, images: Images, concurrency: int
) -> None:
    """A reply costs 900 x $10 + 120 x $100 a million tokens = $0.021."""
    wanted = reference(images, teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda request: Behaviour(delay=0.01)
    with pytest.raises(BudgetError) as caught:
        write(images, teacher, tmp_path / "out", budget=0.5, concurrency=concurrency)
    assert caught.value.exit_code == 4
    billed = sum(request.billed for request in teacher.asked[start:])
    assert billed >= 10
    assert billed * 0.021 <= 0.5
    write(images, teacher, tmp_path / "out", budget=1.5, concurrency=concurrency)
    assert exported(tmp_path / "out") == wanted
    assert len(teacher.asked) - start == 48
    assert paid(tmp_path / "out") == pytest.approx(48 * 0.021)


def test_usage_that_is_missing_counts_at_its_worst(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.behave = lambda request: Behaviour(body=completion(TEXTS["en"]["detail"], usage=None))
    write(images[:2], teacher, tmp_path / "out", Wishes(kinds=("detail",)))
    replies = [record for record in records(tmp_path / "out") if record["t"] == "reply"]
    assert all(record["dollars"] > 768 * 100 / 1e6 for record in replies)


# --- drift, a second process, disks, signals (G14-G17) ---


def test_another_model_is_refused_with_what_changed(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    write(images[:2], teacher, tmp_path / "out")
    before = len(teacher.asked)
    with pytest.raises(RecipeError, match=r'(?s)-  ?"temperature": 0\.7.*\+ +"temperature": 0\.2|--allow-drift'):
        write(images[:2], teacher, tmp_path / "out", temperature=0.2)
    assert len(teacher.asked) == before
    write(images[:2], teacher, tmp_path / "out", temperature=0.2, allow_drift=True)
    assert len(teacher.asked) == 2 * before, "keys of another question are other keys"


def test_a_service_that_changes_its_model_is_noticed(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.behave = lambda request: Behaviour(
        body=completion(json.loads(good(request.tree))["choices"][0]["message"]["content"], model="fake-2")
        if request.number > 10
        else None
    )
    with pytest.raises(RecipeError, match="answers as 'fake-2' now, before as 'fake-1'"):
        write(images, teacher, tmp_path / "out", concurrency=2)
    write(images, teacher, tmp_path / "out", allow_drift=True)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.behave = lambda request: Behaviour(delay=0.5)
    out = tmp_path / "out"
    child = in_child(lambda: write(images, teacher, out, concurrency=1))
    try:
        until = time.monotonic() + 10
        while not teacher.asked and time.monotonic() < until:
            time.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(RecipeError, match=f"process {child}"):
            write(images, teacher, out)
        assert time.monotonic() - began < 2
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_stops_the_sending_and_loses_nothing(
    tmp_path: Path, teacher: FakeTeacher, images: Images, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda request: Behaviour(delay=0.05)
    real, since = os.fsync, 0.0

    def fsync(handle: int) -> None:
        nonlocal since
        if len(teacher.asked) - start >= 20:
            since = since or time.monotonic()
            if time.monotonic() - since < 0.6:
                raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(TeacherError, match="cannot be written"):
        write(images, teacher, tmp_path / "out", concurrency=4)
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert len(teacher.asked) - start <= 20 + 2 * 4
    billed = {request.key for request in teacher.asked[start:] if request.billed}
    assert billed == set(sends(tmp_path / "out", "reply")), "an answer that was in memory is lost"
    assert reference(images, teacher, tmp_path / "out") == wanted
    assert len(teacher.asked) - start == 48


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_the_run_when_what_is_under_way_has_ended(
    tmp_path: Path, teacher: FakeTeacher, images: Images, name: str
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda request: Behaviour(delay=0.3)
    out = tmp_path / "out"
    child = in_child(lambda: write(images, teacher, out, concurrency=4))
    while len(teacher.asked) - start < 9:
        time.sleep(0.005)
    os.kill(child, getattr(signal, name))
    sent = len(teacher.asked)
    assert ended(child, 35) == 75
    assert len(teacher.asked) <= sent + 1, "sent after it was told to stop"
    assert len(sends(out, "reply")) == len(teacher.asked) - start, "what was under way is in the journal"
    teacher.behave = lambda request: Behaviour()
    assert reference(images, teacher, out) == wanted
    assert len(teacher.asked) - start == 48


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.behave = lambda request: Behaviour(delay=0 if request.number == 0 else 20)
    child = in_child(lambda: write(images, teacher, tmp_path / "out", concurrency=4))
    while len(teacher.asked) < 5:
        time.sleep(0.005)
    os.kill(child, signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    os.kill(child, signal.SIGINT)
    assert ended(child, 5) == 75
    assert time.monotonic() - began < 1
    kinds = Counter(record["kind"] for record in records(tmp_path / "out") if record["t"] == "failure")
    assert kinds["unknown"] == 4, "each that was under way has its outcome in the journal"


def test_the_grace_ends(tmp_path: Path, teacher: FakeTeacher, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vistune.datagen.teacher.GRACE_SECONDS", 0.5)
    teacher.behave = lambda request: Behaviour(delay=0 if request.number == 0 else 30)
    child = in_child(lambda: write(images, teacher, tmp_path / "out"))
    while len(teacher.asked) < 5:
        time.sleep(0.005)
    os.kill(child, signal.SIGTERM)
    assert ended(child, 10) == 75


# --- the Batch API (G18) ---


def test_a_batch_writes_what_single_requests_write_at_half_the_price(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    wanted = reference(images, teacher, tmp_path / "single")
    made = write(images, teacher, tmp_path / "batch", batch=True)
    assert exported(tmp_path / "batch") == wanted
    assert len(teacher.batches) == 1
    assert made.spent["dollars"] == pytest.approx(48 * 0.021 / 2)


def test_a_batch_run_killed_anywhere_finds_its_own_batch(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    wanted = reference(images[:3], teacher, tmp_path / "whole")
    for number in (8, 12, 16, 20, 30):
        before = len(teacher.batches)
        assert kill_and_go_on(images[:3], teacher, tmp_path / f"killed-{number}", wanted, number, batch=True)
        assert len(teacher.batches) == before + 1, f"kill point {number}: a second batch"


@pytest.mark.soak
def test_a_batch_run_killed_at_every_point_finds_its_own_batch(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    wanted = reference(images[:3], teacher, tmp_path / "whole")
    number, more = 1, True
    while more:
        before = len(teacher.batches)
        more = kill_and_go_on(images[:3], teacher, tmp_path / f"killed-{number}", wanted, number, batch=True)
        assert len(teacher.batches) == before + 1, f"kill point {number}: a second batch"
        number += 1
    print(f"{number - 1} kill points")


def partial(given: dict[str, Any], keep: Callable[[int], bool], status: str) -> None:
    seen = iter(range(1000))
    complete_batch(given, lambda asked: answer_line(asked) if keep(next(seen)) else None)
    given["batch"]["status"] = status


@pytest.mark.parametrize("status", ["expired", "completed", "cancelled"])
def test_what_a_batch_left_out_is_asked_in_another_one(
    tmp_path: Path, teacher: FakeTeacher, images: Images, status: str
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    steps = iter([lambda given: partial(given, lambda k: k % 3 > 0, status), complete_batch])
    teacher.batch_step = lambda given: next(steps)(given) if given["batch"]["status"] == "validating" else None
    assert reference(images, teacher, tmp_path / "batch", batch=True) == wanted
    assert [len(lines_of(teacher, batch)) for batch in teacher.batches.values()] == [48, 16]


def lines_of(teacher: FakeTeacher, batch: dict[str, Any]) -> list[bytes]:
    return [line for line in teacher.files[batch["input_file_id"]]["content"].split(b"\n") if line.strip()]


def test_lines_that_are_no_answers_are_passed_over(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    """Twice the same id, an id nobody asked for, broken JSON, an answer that is an error."""
    wanted = reference(images, teacher, tmp_path / "whole")

    def messy(given: dict[str, Any]) -> None:
        if given["batch"]["status"] != "validating":
            return
        complete_batch(given)
        file = given["files"][given["batch"]["output_file_id"]]
        lines = [line for line in file["content"].split(b"\n") if line]
        broken = json.loads(lines[1]) | {"response": {"status_code": 500, "body": {}}}
        stranger = json.loads(lines[2]) | {"custom_id": "nobody"}
        lines = [
            lines[0],
            lines[0],
            json.dumps(broken).encode(),
            b"{half",
            b"",
            json.dumps(stranger).encode(),
            *lines[2:],
        ]
        file["content"] = b"\n".join(lines)

    steps = iter([messy, complete_batch])
    teacher.batch_step = lambda given: next(steps)(given) if given["batch"]["status"] == "validating" else None
    assert reference(images, teacher, tmp_path / "batch", batch=True) == wanted
    assert [len(lines_of(teacher, batch)) for batch in teacher.batches.values()] == [48, 1]


def test_a_batch_that_answers_nothing_ends_the_run(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.batch_step = lambda given: partial(given, lambda k: False, "expired")
    with pytest.raises(TeacherError, match="answered nothing"):
        write(images, teacher, tmp_path / "out", batch=True)
    assert len(teacher.batches) == 1


def test_a_batch_keeps_to_the_budget(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    with pytest.raises(BudgetError):
        write(images, teacher, tmp_path / "out", batch=True, budget=0.3)
    assert 0 < len(sends(tmp_path / "out", "reply")) < 48
    assert paid(tmp_path / "out") <= 0.3


def test_a_batch_that_the_service_cannot_read_is_made_anew(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    errors = {"data": [{"code": "invalid_json_line", "line": 3}]}
    teacher.batch_step = lambda given: given["batch"].update(status="failed", errors=errors)
    with pytest.raises(RecipeError, match="invalid_json_line"):
        write(images, teacher, tmp_path / "out", batch=True)
    teacher.batch_step = complete_batch
    assert len(write(images, teacher, tmp_path / "out", batch=True).rows) == 48


# --- the command line, and secrets (S14) ---


def arguments(teacher: FakeTeacher, shared: Path, out: Path, *more: str) -> list[str]:
    source = str(shared / "data" / "coco-mini")
    asked = [
        "--teacher",
        "openai",
        "--model",
        "fake-1",
        "--base-url",
        teacher.url,
        "--limit",
        "4",
        "--split",
        "val2017",
    ]
    return ["generate", source, "--out", str(out), *asked, *more]


def test_the_key_is_nowhere(
    tmp_path: Path, teacher: FakeTeacher, images: Images, capfd: pytest.CaptureFixture[str]
) -> None:
    """After every kind of failure no file holds the key and nothing prints it."""
    failures: Sequence[Behaviour] = (
        error(401, "invalid_api_key"), error(429, "insufficient_quota"), error(400, "x"), Behaviour(body=b"<html>"),
        Behaviour(),
    )  # fmt: skip
    for number, behaviour in enumerate(failures):
        teacher.behave = lambda request, behaviour=behaviour: behaviour  # type: ignore[misc]
        with suppress(VistuneError):
            write(images[:1], teacher, tmp_path / f"out-{number}", tries=1)
    assert all(request.headers["authorization"] == f"Bearer {CANARY}" for request in teacher.asked)
    assert CANARY not in "".join(capfd.readouterr())
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_the_command_line_writes_data_that_check_accepts(
    tmp_path: Path, teacher: FakeTeacher, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vistune.cli import app

    out = tmp_path / "out"
    done = CliRunner().invoke(app, [*arguments(teacher, shared, out, "--language", "en,ko"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rejected"] == 0
    checked = CliRunner().invoke(app, ["check", str(out)])
    assert checked.exit_code == 0, checked.output
    rows = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    korean = [row for row in rows if row["kind"] == "detail" and row["language"] == "ko"]
    questions = {row["conversations"][0]["value"].replace("<image>", "").strip() for row in korean}
    assert all("가" <= char <= "힣" for question in questions for char in question if char.isalpha())
