"""The Batch API under kills and failures: one batch per chunk, finished parts are kept, the rest is sent again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import Behaviour, FakeTeacher, Request, answer_line, complete_batch
from paid_runs import Images, exported, kill_and_go_on, paid, reference, sends, write

from vistune.errors import BudgetError, RecipeError, TeacherError


def test_a_batch_writes_what_single_requests_write_at_half_the_price(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    wanted = reference(images, teacher, tmp_path / "single")
    made = write(images, teacher, tmp_path / "batch", batch=True)
    assert exported(tmp_path / "batch") == wanted
    assert len(teacher.batches) == 1
    assert made.spent.dollars == pytest.approx(48 * 0.021 / 2)


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


def test_a_batch_for_an_address_where_nobody_is_ends_in_seconds(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    teacher.close()
    with pytest.raises(TeacherError, match=f"cannot connect to {teacher.url}.*check --base-url"):
        write(images, teacher, tmp_path / "out", batch=True)


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


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
def test_a_post_whose_answer_was_lost_makes_no_second_batch(
    tmp_path: Path, teacher: FakeTeacher, images: Images, path: str
) -> None:
    """The service took it, the line broke: there is one batch after all."""
    wanted = reference(images[:3], teacher, tmp_path / "whole")
    lost: list[str] = []

    def behave(request: Request) -> Behaviour:
        if request.method == "POST" and request.path == path and not lost:
            lost.append(path)
            return Behaviour(cut=5)
        return Behaviour()

    teacher.behave = behave
    with pytest.raises(TeacherError):
        write(images[:3], teacher, tmp_path / "out", batch=True)
    assert reference(images[:3], teacher, tmp_path / "out", batch=True) == wanted
    assert len(teacher.batches) == 1
    assert len(lines_of(teacher, teacher.batches["batch-0"])) == 12


def refusing(refused: Callable[[dict[str, Any]], str], status: int = 400) -> Callable[[dict[str, Any]], None]:
    """A batch whose lines are refused in these words; where there are none the line is answered."""

    def line(asked: dict[str, Any]) -> dict[str, Any]:
        words = refused(asked["body"])
        body = {"error": {"message": words, "code": None}}
        answer = {"custom_id": asked["custom_id"], "response": {"status_code": status, "body": body}, "error": None}
        return answer if words else answer_line(asked)

    return lambda given: complete_batch(given, line)


PARAMETERS = {
    "max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
    "temperature": "'temperature' does not support 0.7 with this model.",
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_batch_whose_parameter_is_refused_is_followed_by_one_without_it(
    tmp_path: Path, teacher: FakeTeacher, images: Images, name: str
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    teacher.batch_step = refusing(lambda body: PARAMETERS[name] if name in body else "")
    lines: list[str] = []
    assert reference(images, teacher, tmp_path / "out", batch=True, report=lines.append) == wanted
    assert len(lines) == 1
    assert name in lines[0]
    assert len(teacher.batches) == 2
    assert reference(images, teacher, tmp_path / "out", batch=True, report=lines.append) == wanted
    assert len(teacher.batches) == 2
    assert len(lines) == 1, "nothing is sent"


@pytest.mark.parametrize(
    ("words", "hint"), [("nothing today", "run the same command"), ("API key not valid", "the key")]
)
def test_a_batch_that_is_refused_whole_ends_in_the_services_words_and_is_asked_again(
    tmp_path: Path, teacher: FakeTeacher, images: Images, words: str, hint: str
) -> None:
    teacher.batch_step = refusing(lambda body: words)
    with pytest.raises(RecipeError, match=f"{words}.*{hint}"):
        write(images, teacher, tmp_path / "out", batch=True)
    teacher.batch_step = complete_batch
    assert len(write(images, teacher, tmp_path / "out", batch=True).rows) == 48
    assert len(teacher.batches) == 2


def test_lines_of_a_batch_that_are_refused_are_asked_again_by_the_next_run(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    teacher.batch_step = refusing(lambda body: "not this one" if "Scene number 5." in json.dumps(body) else "")
    made = write(images, teacher, tmp_path / "out", batch=True)
    assert len(made.rows) == 44
    assert {reject.detail for reject in made.rejects} == {"400 not this one"}
    teacher.batch_step = complete_batch
    assert len(write(images, teacher, tmp_path / "out", batch=True).rows) == 48
    assert [len(lines_of(teacher, batch)) for batch in teacher.batches.values()] == [48, 4]
