"""A run that is killed, loses power or is damaged resumes, pays for nothing twice and writes the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from fake_teacher import Behaviour, FakeTeacher
from paid_runs import (
    Images,
    after_the_power_cut,
    answered,
    check_accounts,
    check_not_again,
    ended,
    exported,
    in_child,
    keep_what_is_synced,
    kill_and_go_on,
    kill_at,
    records,
    reference,
    write,
)


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
    kills = runs = 0
    while kills < 200:
        out = tmp_path / f"run-{runs}"
        runs += 1
        first, before = len(teacher.asked), kills
        for _ in range(4):
            start, known = len(teacher.asked), answered(out)
            child = in_child(lambda out=out: write(images, teacher, out, concurrency=4))  # type: ignore[misc]
            time.sleep(chance.uniform(0.01, 0.35))
            os.kill(child, signal.SIGKILL)
            kills += ended(child) != 0
            check_not_again(known, teacher.asked[start:])
        start, known = len(teacher.asked), answered(out)
        write(images, teacher, out, concurrency=4)
        check_not_again(known, teacher.asked[start:])
        assert exported(out) == wanted
        check_accounts(out, teacher.asked[first:], kills - before)
    print(f"{kills} kills in {runs} runs")


def cut_power_and_go_on(
    images: Images, teacher: FakeTeacher, root: Path, wanted: dict[str, bytes], number: int
) -> bool:
    """Cut the power at one point, go on with what is on disk; False where the run ended before that point."""
    shadow, restored = root.with_name(f"{root.name}-disk"), root.with_name(f"{root.name}-restored")
    root.mkdir()
    shadow.mkdir()

    def work() -> None:
        keep_what_is_synced(root, shadow)
        kill_at(number)
        write(images, teacher, root / "new" / "out", concurrency=4)

    first = len(teacher.asked)
    code = ended(in_child(work))
    assert code in (0, -signal.SIGKILL), f"exit {code} at point {number}"
    promised = after_the_power_cut(root, shadow, restored)
    out = restored / "new" / "out"
    assert promised <= answered(out), f"point {number}: acknowledged and lost"
    if code == 0:
        assert exported(out) == wanted, "the run ended and its files were not on disk"
    start = len(teacher.asked)
    write(images, teacher, out, concurrency=4)
    assert exported(out) == wanted
    check_not_again(promised, teacher.asked[start:])
    check_accounts(out, teacher.asked[first:], kills=1)
    return code != 0


def test_a_power_cut_loses_no_acknowledged_answer(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    wanted = reference(images[:3], teacher, tmp_path / "whole" / "new" / "out")
    for number in (5, 30, 100_000):
        cut_power_and_go_on(images[:3], teacher, tmp_path / f"cut-{number}", wanted, number)


@pytest.mark.soak
def test_a_power_cut_at_every_point_loses_no_acknowledged_answer(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    wanted = reference(images[:3], teacher, tmp_path / "whole" / "new" / "out")
    number = 1
    while cut_power_and_go_on(images[:3], teacher, tmp_path / f"cut-{number}", wanted, number):
        number += 1
    print(f"{number - 1} power cuts")
    assert number > 60


def flip(line: bytes) -> bytes:
    return line.replace(b'"t":"reply"', b'"t":"replx"')


DAMAGE = {
    "a flipped byte": (lambda lines, at: [*lines[:at], flip(lines[at]), *lines[at + 1 :]], 1, 1),
    "a hole of NUL": (lambda lines, at: [*lines[:at], b"\0" * len(lines[at]) + b"\n", *lines[at + 1 :]], 1, 1),
    "a torn tail": (lambda lines, at: [*lines[:-1], lines[-1][:-5]], 1, 0),
    "lines twice": (lambda lines, at: [*lines, lines[at], lines[at - 1]], 0, 0),
    "out of order": (lambda lines, at: [lines[0], *reversed(lines[1:])], 0, 0),
    "CRLF": (lambda lines, at: [line[:-1] + b"\r\n" for line in lines], 0, 0),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_line_is_named_and_its_question_asked_again(
    tmp_path: Path, teacher: FakeTeacher, images: Images, name: str
) -> None:
    """`asked`: questions that lost their answer with the line · `named`: lines set aside."""
    out = tmp_path / "out"
    wanted = reference(images[:3], teacher, out, concurrency=1)
    change, asked, named = DAMAGE[name]
    path = out / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if b'"t":"reply"' in line][3]
    key = json.loads(lines[at][9:])["key"]
    path.write_bytes(b"".join(change(lines, at)))
    start, kept = len(teacher.asked), len(records(out))
    made = write(images[:3], teacher, out)
    assert exported(out) == wanted
    again = [request.key.split("/")[0] for request in teacher.asked[start:]]
    assert len(again) == asked
    assert len(records(out)) == kept + 2 * asked, "a good line was dropped"
    assert made.spent.outcomes.get("damaged_line", 0) == named
    if named:
        assert again == [key]
        told = [json.loads(row) for row in (out / "journal.damaged.jsonl").read_text().splitlines()]
        assert [row["line"] for row in told] == [at + 1]


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
