"""MM-Vet: published figures from real GPT-4 grades; requests are compared byte by byte; a judge on loopback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import Behaviour, FakeTeacher, Request, completion

from vistune import api
from vistune.errors import DataError, RecipeError, TeacherError
from vistune.evaluation import score
from vistune.evaluation.judge import RemoteJudge
from vistune.evaluation.tasks.judged import AGAIN, PROMPT_SHA256, MMVet, again, read_grade, request_of
from vistune.llm_client import Endpoint


@pytest.fixture(scope="session")
def vectors(shared: Path) -> Path:
    return shared / "vectors" / "mmvet"


@pytest.mark.parametrize("runs", [1, 3])
def test_real_grades_have_the_published_figures(vectors: Path, runs: int) -> None:
    path = vectors / "open" / f"llava-v1.5-13b_gpt-4-grade-{runs}runs.json"
    wanted = json.loads((vectors / "open" / "expected.json").read_text())[path.name]
    found = score("mmvet", MMVet(vectors / "shared"), path).scored
    assert found.metrics == {**wanted["cap"], "std": wanted["std"]}
    assert found.notes["runs"] == wanted["per_run"]
    table = found.tables["capability integration"]
    assert {name: value for name, (value, _) in table.items()} == wanted["cap_integration"]
    assert (found.count, sum(count for _, count in table.values())) == (wanted["items"], wanted["items"])
    assert found.notes["judge"] == {"answered_as": "gpt-4", "stored": True}


def test_every_request_is_the_official_one(shared: Path, vectors: Path) -> None:
    prompt = (shared / "data" / "interface" / "mmvet_judge_prompt.txt").read_text()
    assert hashlib.sha256(prompt.encode()).hexdigest() == PROMPT_SHA256
    task = MMVet(vectors / "shared")
    said = {task.identify(p): p.text for p in task.read(vectors / "open" / "answers_llava-v1.5-13b.jsonl")}
    assert said == json.loads((vectors / "open" / "expected_results_llava-v1.5-13b.json").read_text())
    lines = (vectors / "open" / "expected_judge_request_sha256.jsonl").read_text().splitlines()
    wanted = {row["id"]: (row["chars"], row["sha256"]) for row in map(json.loads, lines)}
    requests = {q.id: request_of(prompt, q, said[q.id]) for q in task.questions()}
    assert {k: (len(r), hashlib.sha256(r.encode()).hexdigest()) for k, r in requests.items()} == wanted


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("0.5", 0.5),
        ("1.0 |", 1.0),
        ("0.3\n", 0.3),
        ("1.1", None),
        ("-0.1", None),
        ("nan", None),
        ("", None),
        ("ok", None),
    ],
)
def test_a_grade_is_the_number_before_the_first_blank(reply: str, grade: float | None) -> None:
    assert read_grade(reply) == grade


def test_asking_again_grows_plainer_and_warmer() -> None:
    body = {"messages": [{"role": "user", "content": "q"}], "temperature": 0.0, "max_tokens": 3}
    assert [again(body, attempt)["temperature"] for attempt in (1, 2, 3, 4)] == [0.0, 0.5, 1.0, 1.5]
    assert again(body, 1)["messages"] == [{"role": "user", "content": f"q{AGAIN}"}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two questions, a prompt inside the official script's form, answers to both."""
    tree = {
        "v1_0": {"imagename": "0.png", "question": "x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
        "v1_1": {"imagename": "1.png", "question": "y?", "answer": "3<OR>three", "capability": ["ocr"]},
    }
    (tmp_path / "mm-vet.json").write_text(json.dumps(tree))
    (tmp_path / "mm-vet_evaluator.py").write_text(
        'import os\nprompt = """Compare.\n"""\nraise SystemExit("never run")\n'
    )
    (tmp_path / "said.jsonl").write_text('{"question_id": 0, "text": "-1"}\n{"question_id": 1, "text": "3"}\n')
    return tmp_path


@pytest.fixture
def endpoint() -> Iterator[FakeTeacher]:
    fake = FakeTeacher()
    yield fake
    fake.close()


def grade_by(endpoint: FakeTeacher, grades: dict[str, list[str]]) -> None:
    """Replies by the request's last lines, in turn."""

    def behave(request: Request) -> Behaviour:
        content: str = request.tree["messages"][0]["content"]
        for end, replies in grades.items():
            if content.endswith(end):
                return Behaviour(body=completion(replies.pop(0), finish_reason="length"))
        raise AssertionError(content)

    endpoint.behave = behave


def test_a_judge_grades_and_is_asked_again_where_it_chats(data: Path, endpoint: FakeTeacher) -> None:
    grade_by(
        endpoint,
        {"x? | -1 <AND> -5 | -1 | ": ["0.5", "0.6"], "y? | 3 <OR> three | 3 | ": ["Sure", "1.0"], AGAIN: ["hm", "0.9"]},
    )
    task = MMVet(data)
    task.judge_runs = 2
    judge = RemoteJudge(Endpoint("fake-1", endpoint.url, concurrency=1), data / "judge")
    found = score("mmvet", task, data / "said.jsonl", judge=judge).scored
    assert found.metrics == {"math": 55.0, "ocr": 75.0, "total": 75.0, "std": 5.0}
    assert found.notes["runs"] == [70.0, 80.0]
    assert found.notes["judge"]["prompt_sha256"] == hashlib.sha256(b"Compare.\n").hexdigest()
    assert found.notes["judge"]["prompt_as_published"] is False
    assert endpoint.chats[0].tree["messages"][0]["content"] == "Compare.\n\nx? | -1 <AND> -5 | -1 | "
    assert [request.tree["temperature"] for request in endpoint.chats] == [0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
    again_found = score("mmvet", task, data / "said.jsonl", judge=judge).scored
    assert (again_found.metrics, len(endpoint.chats)) == (found.metrics, 6)


def test_a_judge_that_never_grades_gives_no_figure(data: Path, endpoint: FakeTeacher) -> None:
    endpoint.behave = lambda request: Behaviour(body=completion("good"))
    judge = RemoteJudge(Endpoint("fake-1", endpoint.url), data / "judge")
    with pytest.raises(TeacherError, match="2 of 2 judgements"):
        score("mmvet", MMVet(data), data / "said.jsonl", judge=judge)


def test_a_missing_answer_has_no_points_and_is_not_sent(data: Path, endpoint: FakeTeacher) -> None:
    (data / "said.jsonl").write_text('{"question_id": 1, "text": "3"}\n')
    grade_by(endpoint, {"3 | ": ["1.0"]})
    judge = RemoteJudge(Endpoint("fake-1", endpoint.url), data / "judge")
    found = score("mmvet", MMVet(data), data / "said.jsonl", judge=judge).scored
    assert (found.metrics["total"], found.missing, len(endpoint.chats)) == (50.0, 1, 1)


def test_what_is_needed_is_said(data: Path) -> None:
    def refuse(bodies: Any) -> list[str]:
        raise AssertionError("nothing may be asked")

    with pytest.raises(RecipeError, match="judge"):
        score("mmvet", MMVet(data), data / "said.jsonl")
    (data / "grades.json").write_text(json.dumps({"v1_0": {"score": [0.5]}, "v1_1": {"score": [2]}}))
    with pytest.raises(DataError, match="v1_1: score"):
        score("mmvet", MMVet(data), data / "grades.json")
    (data / "grades.json").write_text(json.dumps({"v1_0": {"score": [0.5]}, "v1_1": {"score": [1, 1]}}))
    with pytest.raises(DataError, match="equally many grades"):
        score("mmvet", MMVet(data), data / "grades.json")
    (data / "mm-vet_evaluator.py").write_text("prompt = open('x').read()\n")
    with pytest.raises(DataError, match="does not assign a text to 'prompt'"):
        score("mmvet", MMVet(data), data / "said.jsonl", judge=refuse)
    (data / "mm-vet_evaluator.py").unlink()
    with pytest.raises(DataError, match="judge_prompt"):
        score("mmvet", MMVet(data), data / "said.jsonl", judge=refuse)


def test_the_verb_keeps_the_judges_replies_and_names_it(data: Path, endpoint: FakeTeacher) -> None:
    grade_by(endpoint, {"-1 | ": ["0.2", "0.4"], "3 | ": ["1.0", "1.0"]})
    service = Endpoint("fake-1", endpoint.url, concurrency=1)
    found = api.score("mmvet", data, data / "said.jsonl", judge=service, opinions=2).to_dict()
    assert (found["metrics"]["total"], found["runs"]) == (65.0, [60.0, 70.0])
    assert (found["judge"]["answered_as"], found["judge"]["base_url"]) == ("fake-1", endpoint.url)
    assert found["judge"]["parameters"] == {"temperature": 0.0, "max_tokens": 3}
    assert (data / "said.jsonl.judge" / "journal.jsonl").is_file()
    with pytest.raises(RecipeError, match="uses no repeated judgements"):
        api.score("llava-bench", data, data / "said.jsonl", judge=service, opinions=2)
