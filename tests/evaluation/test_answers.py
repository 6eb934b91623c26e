"""Stored answers: a killed run resumes and ends in the same bytes; other settings are refused; several processes."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import Behaviour, FakeTeacher, completion
from paid_runs import answered, check_not_again, ended, in_child, kill_at
from typer.testing import CliRunner

from vistune import api
from vistune.cli.app import app
from vistune.errors import DataError, RecipeError
from vistune.evaluation import TASKS, EvaluationResult, conditions, score
from vistune.evaluation.answers import AnswerFile, Ranks, differences, read_answers
from vistune.evaluation.judge import RemoteJudge
from vistune.files import read_json, read_jsonl, write_json, write_jsonl
from vistune.generation import Assistant
from vistune.llm_client import Endpoint
from vistune.runs.checkpoint import load
from vistune.scenes import write_world

pytestmark = pytest.mark.usefixtures("forkable", "_small_blocks")
KEPT = ("scenes.predictions.jsonl", "scenes.predictions.jsonl.asked.json", "scenes.json")


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "BLOCK", 16)  # so that a few images make several


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, count=1, seed=0, tests=5)
    return folder


class Counted:
    """A progress bar that remembers how much there was to do."""

    def __init__(self) -> None:
        self.totals: list[int] = []

    @contextmanager
    def __call__(self, label: str, total: int) -> Iterator[Any]:
        self.totals.append(total)
        yield lambda count=1, note="": None


def evaluate(model: Path, world: Path, out: Path, **options: Any) -> EvaluationResult:
    return api.evaluate(model, task="scenes", data=world, out=out, **options)


def kept(out: Path) -> dict[str, bytes]:
    """Every file of a finished run; nothing else may be left."""
    assert {path.name for path in out.iterdir()} == set(KEPT)
    return {name: (out / name).read_bytes() for name in KEPT}


def kill_and_go_on(model: Path, world: Path, out: Path, expected: dict[str, bytes], number: int) -> bool:
    """Kill a run at one write, fsync or rename, go on, compare; False where it ended before."""

    def work() -> None:
        kill_at(number)
        evaluate(model, world, out)

    code = ended(in_child(work))
    assert code in (0, -signal.SIGKILL), f"exit {code} at point {number}"
    known = len(read_answers(out / KEPT[0]))
    counted = Counted()
    evaluate(model, world, out, progress=counted)
    assert counted.totals == [len(expected[KEPT[0]].splitlines()) - known], "asked what was answered"
    assert kept(out) == expected, f"point {number}: the files differ"
    return code != 0


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, model: Path, world: Path) -> None:
    evaluate(model, world, tmp_path / "whole")
    expected = kept(tmp_path / "whole")
    assert len(expected[KEPT[0]].splitlines()) > 60
    for number in (4, 9, 24):
        assert kill_and_go_on(model, world, tmp_path / f"killed-{number}", expected, number)


@pytest.mark.soak
def test_a_run_killed_at_every_point_goes_on(tmp_path: Path, model: Path) -> None:
    world = tmp_path / "world"
    write_world(world, count=1, seed=0, tests=2)
    evaluate(model, world, tmp_path / "whole")
    expected = kept(tmp_path / "whole")
    number = 1
    while kill_and_go_on(model, world, tmp_path / f"killed-{number}", expected, number):
        number += 1
    print(f"{number - 1} kill points")
    assert number > 20


@pytest.mark.soak
def test_a_run_killed_50_times_at_random_goes_on(tmp_path: Path, model: Path, world: Path) -> None:
    evaluate(model, world, tmp_path / "whole")
    expected = kept(tmp_path / "whole")
    chance = random.Random(2)
    kills = runs = 0
    while kills < 50:
        out = tmp_path / f"run-{runs}"
        runs += 1
        for _ in range(5):
            child = in_child(lambda out=out: evaluate(model, world, out))  # type: ignore[misc]
            time.sleep(chance.uniform(0.05, 1.0))
            os.kill(child, signal.SIGKILL)
            kills += ended(child) != 0
        evaluate(model, world, out)
        assert kept(out) == expected
    print(f"{kills} kills in {runs} runs")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_keeps_its_answers(
    tmp_path: Path, model: Path, world: Path, number: signal.Signals
) -> None:
    @contextmanager
    def stopping(label: str, total: int) -> Iterator[Any]:
        yield lambda count=1, note="": os.kill(os.getpid(), number)

    assert ended(in_child(lambda: evaluate(model, world, tmp_path, limit=20, progress=stopping))) == 75
    counted, known = Counted(), len(read_answers(tmp_path / KEPT[0]))
    assert known > 0
    evaluate(model, world, tmp_path, limit=20, progress=counted)
    assert counted.totals == [len((tmp_path / KEPT[0]).read_bytes().splitlines()) - known]


def test_a_torn_last_line_is_cut_off_and_a_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    with AnswerFile(path, {"task": "x"}) as file:
        file.add([{"question_id": "1", "text": "red"}, {"question_id": "2", "text": "blue"}])
    with path.open("ab") as torn:
        torn.write(b'{"question_id": "3", "te')
    with AnswerFile(path, {"task": "x"}) as file:
        assert {name for _, name in file.known} == {"1", "2"}
        file.add([{"question_id": "3", "text": "green"}])
    assert [row["question_id"] for _, row in read_jsonl(path)] == ["1", "2", "3"]
    path.write_bytes(path.read_bytes().replace(b'"blue"', b"5"))
    with pytest.raises(DataError, match=r"said\.jsonl:2: is not an answer"):
        AnswerFile(path, {"task": "x"})


def test_answers_of_another_run_are_refused_with_what_differs(
    tmp_path: Path, model: Path, other_model: Path, world: Path
) -> None:
    evaluate(model, world, tmp_path, limit=4)
    with pytest.raises(RecipeError, match=r"another run: model was '\w+', now '\w+'.*--again"):
        evaluate(other_model, world, tmp_path, limit=4)
    with pytest.raises(RecipeError, match=r"another run: prompts\.with_image\.count was \d+, now \d+"):
        evaluate(model, world, tmp_path, limit=40)
    with pytest.raises(RecipeError, match=r"decoding\.letters was False, now True"):
        evaluate(model, world, tmp_path, limit=4, letters=True)
    with pytest.raises(
        RecipeError,
        match=r"prompts\.without_image was .*, now None.*also ask without_image",
    ):
        evaluate(model, world, tmp_path, limit=4, blind=False)
    before = (tmp_path / KEPT[0]).read_bytes()
    evaluate(other_model, world, tmp_path, limit=4, again=True)
    assert (tmp_path / KEPT[0]).read_bytes() != before
    (tmp_path / KEPT[1]).unlink()
    with pytest.raises(RecipeError, match="an older vistune wrote them, or the file was lost"):
        evaluate(other_model, world, tmp_path, limit=4)


def test_conditions_may_be_added_to_what_is_there(tmp_path: Path, model: Path, world: Path) -> None:
    evaluate(model, world, tmp_path / "whole")
    evaluate(model, world, tmp_path / "grown", blind=False)
    counted = Counted()
    evaluate(model, world, tmp_path / "grown", progress=counted)
    lines = (tmp_path / "whole" / KEPT[0]).read_bytes().splitlines()
    assert counted.totals == [sum(b'"condition": "with_image"' not in line for line in lines)]
    assert kept(tmp_path / "grown") == kept(tmp_path / "whole")


def test_what_differs_is_named_by_its_path() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}) == [
        "a.c was 2, now 4",
        "d was 3, now None",
    ]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with (
        AnswerFile(tmp_path / "said.jsonl", {}),
        pytest.raises(RecipeError, match="another process is writing it"),
    ):
        AnswerFile(tmp_path / "said.jsonl", {}, again=True)


def test_a_file_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('{"question_id": 1, "text": "red"}')  # no line's end: nothing may be cut off
    for _ in range(2):
        with pytest.raises(RecipeError, match="with their settings is missing"):
            AnswerFile(path, {})
    assert path.read_text() == '{"question_id": 1, "text": "red"}'


def test_in_half_precision_a_block_that_was_cut_off_is_asked_whole(tmp_path: Path, model: Path, world: Path) -> None:
    """There an answer depends on who shares its batch; finished blocks stay."""
    evaluate(model, world, tmp_path / "whole", dtype="bf16")
    out = tmp_path / "cut"
    out.mkdir()
    lines = (tmp_path / "whole" / KEPT[0]).read_bytes().splitlines(keepends=True)
    blocks = conditions.plan_blocks(*[TASKS["scenes"](world).questions()] * 2, conditions.CONDITIONS)
    half = [f'"question_id": "{q.id}"'.encode() for q in (*blocks[0].questions, *blocks[1].questions[:3])]
    (out / KEPT[0]).write_bytes(b"".join(line for line in lines[: len(lines) // 3] if line.split(b",")[0][1:] in half))
    (out / KEPT[1]).write_bytes((tmp_path / "whole" / KEPT[1]).read_bytes())
    counted = Counted()
    evaluate(model, world, out, dtype="bf16", progress=counted)
    assert counted.totals == [len(lines) - len(blocks[0].questions)]
    assert kept(out) == kept(tmp_path / "whole")


def test_two_processes_write_what_one_does(tmp_path: Path, model: Path, world: Path) -> None:
    evaluate(model, world, tmp_path / "one")
    expected = kept(tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def as_rank(rank: int, out: Path) -> int:
        def work() -> None:
            os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            counted = Counted()
            result = evaluate(model, world, out, progress=counted)
            assert result.to_dict() == read_json(tmp_path / "one" / "scenes.json")
            assert rank or 0 < counted.totals[0] < len(expected[KEPT[0]].splitlines()), "the first asked all"

        return in_child(work)

    assert [ended(child) for child in [as_rank(rank, tmp_path / "two") for rank in (0, 1)]] == [0, 0]
    assert kept(tmp_path / "two") == expected


def test_what_killed_processes_wrote_is_taken_up_by_one(tmp_path: Path, model: Path, world: Path) -> None:
    evaluate(model, world, tmp_path / "whole")
    expected = kept(tmp_path / "whole")
    out = tmp_path / "killed"
    out.mkdir()
    lines = expected[KEPT[0]].splitlines(keepends=True)
    (out / KEPT[0]).write_bytes(b"".join(lines[:5]))
    (out / f"{KEPT[0]}.rank1").write_bytes(b"".join(lines[5:9]) + b'{"torn')
    (out / KEPT[1]).write_bytes(expected[KEPT[1]])
    counted = Counted()
    evaluate(model, world, out, progress=counted)
    assert counted.totals == [len(lines) - 9]
    assert kept(out) == expected


def test_one_process_is_nobody_else() -> None:
    assert Ranks().gathered(3) == [3]
    with pytest.raises(RecipeError, match="no"), Ranks().together():
        raise RecipeError("no")


def own_questions(folder: Path, world: Path) -> Path:
    images = sorted((world / "heldout").glob("*.jpg"))
    rows = [{"question_id": k, "text": f"What is number {k}?", "image": image.name} for k, image in enumerate(images)]
    rows += [{"question_id": "text", "text": "1 + 1?"}]
    write_jsonl(folder / "q.jsonl", rows)
    return folder / "q.jsonl"


def test_a_users_own_questions_are_answered_and_scored(tmp_path: Path, model: Path, world: Path) -> None:
    questions = own_questions(tmp_path, world)
    images = ["--images", str(world / "heldout")]
    arguments = ["answer", str(model), str(questions), "--out", str(tmp_path / "said.jsonl"), "--max-tokens", "5"]
    done = CliRunner().invoke(app, [*arguments, *images])
    assert done.exit_code == 0, done.output
    assert "6 answers" in done.output
    rows = [row for _, row in read_jsonl(tmp_path / "said.jsonl")]
    assert [row["question_id"] for row in rows] == ["0", "1", "2", "3", "4", "text"]
    assistant = Assistant(*load(model))
    image = world / "heldout" / sorted(p.name for p in (world / "heldout").glob("*.jpg"))[2]
    assert rows[2]["text"] == assistant.ask(image, "What is number 2?", max_tokens=5)
    assert rows[2]["finish_reason"] == "length"
    counted = Counted()
    kept_before = (tmp_path / "said.jsonl").read_bytes()
    api.answer(
        model, questions, tmp_path / "said.jsonl", images=world / "heldout", max_tokens=5, progress=counted
    )  # all is there
    assert counted.totals == [0]
    assert (tmp_path / "said.jsonl").read_bytes() == kept_before
    with pytest.raises(DataError, match=r"q\.jsonl:1:answer: is missing"):
        score("file", TASKS["file"](questions), tmp_path / "said.jsonl")
    gold = [{**row, "answer": said["text"]} for (_, row), said in zip(read_jsonl(questions), rows, strict=True)]
    write_jsonl(questions, gold)
    assert score("file", TASKS["file"](questions), tmp_path / "said.jsonl").scored.metrics == {"accuracy": 1.0}


def test_a_judge_marks_what_the_file_says_it_should(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-nobody-at-all")
    rows = [
        {"question_id": 1, "text": "What is it?", "answer": "a cat", "match": "judge"},
        {"question_id": 2, "text": "And this {answer}?", "answer": "a dog", "match": "judge"},
        {"question_id": 3, "text": "Colour?", "answer": "red"},
        {"question_id": 4, "text": "Who?", "answer": "a man", "match": "judge"},
    ]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    said = {"1": "A small cat {reply}.", "2": "A horse", "3": "red"}
    write_json(tmp_path / "said.json", said)
    task = TASKS["file"](tmp_path)
    with pytest.raises(RecipeError, match="3 of the questions are marked by a judge"):
        score("file", task, tmp_path / "said.json")
    fake = FakeTeacher()
    fake.behave = lambda request: Behaviour(
        body=completion("Correct." if "A small cat {reply}." in request.tree["messages"][0]["content"] else "wrong")
    )
    judge = RemoteJudge(Endpoint("fake-1", fake.url), tmp_path / "judge")
    found = score("file", task, tmp_path / "said.json", judge=judge).scored
    fake.close()
    assert found.metrics == {"accuracy": 0.5}  # the missing one is wrong, and is not sent
    assert found.missing == 1
    assert len(fake.chats) == 2
    asked = [request.tree["messages"][0]["content"] for request in fake.chats]
    assert any("And this {answer}?" in text and "a dog" in text and "A horse" in text for text in asked)
    assert found.notes["judge"]["prompt"] == "vistune"
    counted = api.evaluate(model, task="file", data=tmp_path, out=tmp_path / "evals")
    assert counted.metrics == {}
    (tmp_path / "judge_prompt.txt").write_text("{question} {reply}")
    with pytest.raises(DataError, match=r"judge_prompt\.txt: has no \{answer\}"):
        score("file", task, tmp_path / "said.json", judge=judge)
    write_jsonl(tmp_path / "questions.jsonl", rows[2:3])
    write_json(tmp_path / "said.json", {"3": "red"})
    with pytest.raises(RecipeError, match="file does not use a judge"):
        score("file", TASKS["file"](tmp_path), tmp_path / "said.json", judge=judge)


@pytest.mark.parametrize("points", [(3, 12, 25), pytest.param(range(1, 200), marks=pytest.mark.soak)])
def test_a_killed_judging_asks_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-nobody-at-all")
    bodies = [{"messages": [{"role": "user", "content": f"text {k}"}], "max_tokens": 8} for k in range(6)]
    fake = FakeTeacher()
    fake.behave = lambda request: Behaviour(body=completion(request.tree["messages"][0]["content"].upper()))
    killed = 0
    for number in points:
        folder = tmp_path / f"judge-{number}"

        def work(folder: Path = folder, number: int = number) -> None:
            kill_at(number)
            RemoteJudge(Endpoint("fake-1", fake.url, concurrency=2), folder)(bodies)

        code = ended(in_child(work))
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        known, start = answered(folder), len(fake.asked)
        assert RemoteJudge(Endpoint("fake-1", fake.url, concurrency=2), folder)(bodies) == [
            f"TEXT {k}" for k in range(6)
        ]
        check_not_again(known, fake.asked[start:])
        if code == 0:
            break
    fake.close()
    print(f"{killed} kills")
    assert killed >= 3
