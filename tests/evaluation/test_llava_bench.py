"""LLaVA-Bench and K-LLaVA-W: published figures from real GPT-4 reviews; requests are compared byte by byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_teacher import Behaviour, FakeTeacher, completion

from vistune.errors import DataError, RecipeError, TeacherError
from vistune.evaluation import score
from vistune.evaluation.judge import TRIES, RemoteJudge
from vistune.evaluation.task import Reply
from vistune.evaluation.tasks.judged import LlavaBench, read_pair, read_two_numbers
from vistune.evaluation.tasks.korean import KLlavaW, Koffvqa
from vistune.llm_client import Endpoint


@pytest.fixture(scope="session")
def vectors(shared: Path) -> Path:
    return shared / "vectors" / "llava_bench"


@pytest.fixture
def endpoint() -> Iterator[FakeTeacher]:
    fake = FakeTeacher()
    yield fake
    fake.close()


def test_real_reviews_have_the_published_figures(vectors: Path) -> None:
    expected = json.loads((vectors / "open" / "expected.json").read_text())
    overall = []
    for path in sorted((vectors / "open").glob("reviews_*.jsonl")):
        found = score("llava-bench", LlavaBench(vectors / "shared"), path).scored
        sides = ("", "_gpt4", "_model")
        assert found.metrics == {
            f"{k}{s}": v for k, row in expected[path.name].items() for s, v in zip(sides, row, strict=True)
        }
        overall.append(found.metrics["all"])
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [list(read_pair(row["content"]) or ()) for row in rows] == [row["tuple"] for row in rows]
    assert round(sum(overall) / len(overall), 2) == expected["mean_all"]


def test_every_request_is_the_official_one(vectors: Path) -> None:
    task = LlavaBench(vectors / "shared")
    said = {p.id: p.text for p in task.read(vectors / "open" / "answers_llava-v1.5-13b.jsonl")}
    lines = (vectors / "open" / "expected_judge_request_sha256.jsonl").read_text().splitlines()
    wanted = {str(row["question_id"]): (row["chars"], row["sha256"]) for row in map(json.loads, lines)}
    requests = task.requests([Reply(question, said[question.id]) for question in task.questions()])
    assert {k: (len(r), hashlib.sha256(r.encode()).hexdigest()) for k, r in requests.items()} == wanted


def test_the_parse_table(vectors: Path) -> None:
    table = json.loads((vectors / "open" / "parse_table.json").read_text())
    assert [list(read_pair(row["review"]) or (-1, -1)) for row in table] == [row["tuple"] for row in table]


@pytest.mark.parametrize(
    ("review", "pair"),
    [
        (" 8 9\ntext", (8, 9)),
        ("\n7.5,  8\nx", (7.5, 8)),
        ("**8 / 9**", (8, 9)),
        ("8\t9", (8, 9)),
        ("Assistant 1: 8", None),
        ("8 9 10", None),
        ("nan 8", None),
        ("", None),
    ],
)
def test_the_lenient_rule_wants_two_numbers_and_no_word(review: str, pair: tuple[float, float] | None) -> None:
    assert read_two_numbers(review) == pair


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two questions on one image with all that a judge is shown."""
    rows = {
        "questions.jsonl": [
            {"question_id": 0, "image": "1.jpg", "text": "What?", "category": "conv"},
            {"question_id": 1, "image": "1.jpg", "text": "Describe.", "category": "detail"},
        ],
        "context.jsonl": [{"id": "1", "image": "1.jpg", "caption": "A hill."}],
        "answers_gpt4.jsonl": [{"question_id": 0, "text": "A hill."}, {"question_id": 1, "text": "It is a hill."}],
        "said.jsonl": [{"question_id": 0, "text": "Hill."}, {"question_id": 1, "text": "A green hill."}],
    }
    for name, lines in rows.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    rule = {f"llava_bench_{c}": {"role": "Assistant", "prompt": f"Rate {c}."} for c in ("conv", "detail")}
    (tmp_path / "rule.json").write_text(json.dumps(rule))
    return tmp_path


def test_a_judge_rates_both_answers(data: Path, endpoint: FakeTeacher) -> None:
    replies = {"Rate conv.": ["8 6\nFine."], "Rate detail.": ["Scores: 9 and 9", "10 5\nGood."]}

    def answer(text: str) -> str:
        [found] = [said for rule, said in replies.items() if text.endswith(f"[System]\n{rule}\n\n")]
        return found.pop(0)

    endpoint.behave = lambda request: Behaviour(body=completion(answer(request.tree["messages"][1]["content"])))
    judge = RemoteJudge(Endpoint("fake-1", endpoint.url, concurrency=1), data / "judge")
    found = score("llava-bench", LlavaBench(data), data / "said.jsonl", judge=judge).scored
    assert (found.metrics["all"], found.metrics["all_gpt4"], found.metrics["all_model"]) == (61.1, 90.0, 55.0)
    assert (found.metrics["llava_bench_conv"], found.metrics["llava_bench_detail"]) == (75.0, 50.0)
    sent = endpoint.chats[0].tree
    assert (sent["temperature"], sent["max_tokens"], sent["messages"][0]["role"]) == (0.2, 1024, "system")
    assert len(endpoint.chats) == 3
    assert found.notes["judge"]["parameters"] == {"temperature": 0.2, "max_tokens": 1024}


def test_a_review_without_ratings_is_never_averaged_in(data: Path, endpoint: FakeTeacher) -> None:
    endpoint.behave = lambda request: Behaviour(body=completion("Both are fine."))
    judge = RemoteJudge(Endpoint("fake-1", endpoint.url), data / "judge")
    with pytest.raises(TeacherError, match="2 of 2 judgements"):
        score("llava-bench", LlavaBench(data), data / "said.jsonl", judge=judge)
    assert len(endpoint.chats) == 2 * TRIES
    stored = [{"question_id": k, "content": "Both are fine.", "tuple": [-1, -1]} for k in (0, 1)]
    (data / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stored))
    with pytest.raises(DataError, match="question 0: the review does not have two ratings"):
        score("llava-bench", LlavaBench(data), data / "reviews.jsonl")
    (data / "reviews.jsonl").write_text(json.dumps({"question_id": 0, "content": "8 9"}))
    with pytest.raises(DataError, match="question 1"):
        score("llava-bench", LlavaBench(data), data / "reviews.jsonl")
    with pytest.raises(RecipeError, match="judge"):
        score("llava-bench", LlavaBench(data), data / "said.jsonl")


def test_a_rule_that_lacks_a_category_is_named(data: Path) -> None:
    (data / "rule.json").write_text('{"llava_bench_conv": {"role": "Assistant", "prompt": "Rate."}}')
    with pytest.raises(DataError, match="no role and prompt for 'llava_bench_detail'"):
        score("llava-bench", LlavaBench(data), data / "said.jsonl", judge=lambda bodies: ["8 8"] * len(bodies))


def test_korean_answers_before_a_judge(tmp_path: Path, endpoint: FakeTeacher) -> None:
    row = {"question_id": 0, "question": "무엇?", "caption": "언덕.", "gpt_answer": "언덕입니다.", "category": "conv"}
    (tmp_path / "k-llava-w.jsonl").write_text(json.dumps(row))
    (tmp_path / "rule_ko.json").write_text('{"llava_bench_conv": {"role": "어시스턴트", "prompt": "평가."}}')
    (tmp_path / "said.jsonl").write_text('{"question_id": 0, "text": "산입니다."}')
    endpoint.behave = lambda request: Behaviour(body=completion("10 7\n좋습니다."))
    judge = RemoteJudge(Endpoint("fake-1", endpoint.url), tmp_path / "judge")
    found = score("k-llava-w", KLlavaW(tmp_path), tmp_path / "said.jsonl", judge=judge).scored
    assert found.metrics["all"] == 70.0
    assert endpoint.chats[0].tree["messages"][0]["content"].startswith("당신은 답변의 품질을")


def test_koffvqa_asks_with_the_users_template(tmp_path: Path, endpoint: FakeTeacher) -> None:
    (tmp_path / "KOFFVQA.tsv").write_text("index\tquestion\tanswer\tcategory\n1\t몇 {2} 개?\t두 개 (10점)\t수\n")
    (tmp_path / "judges.py").write_text("base_judge_prompt = '''\n질문 {0}\n답 {1}\n기준 {2}\n'''.strip()\n")
    (tmp_path / "said.jsonl").write_text('{"index": 1, "prediction": "{0} 두 개입니다."}')
    endpoint.behave = lambda request: Behaviour(body=completion("최종 점수: 10점 만점에 9점"))
    judge = RemoteJudge(Endpoint("gemma", endpoint.url), tmp_path / "judge")
    found = score("koffvqa", Koffvqa(tmp_path), tmp_path / "said.jsonl", judge=judge).scored
    assert found.metrics == {"overall": 90.0}
    [asked] = endpoint.chats
    assert asked.tree["messages"] == [
        {"role": "user", "content": "질문 몇 {2} 개?\n답 {0} 두 개입니다.\n기준 두 개 (10점)"}
    ]
    assert (asked.tree["temperature"], asked.tree["max_tokens"]) == (0.0, 1024)
    assert found.notes["judge"]["without_a_score"] == 0
    (tmp_path / "judges.py").write_text("base_judge_prompt = '{0} {1}'\n")
    with pytest.raises(DataError, match=r"has no \{2\}"):
        score("koffvqa", Koffvqa(tmp_path), tmp_path / "said.jsonl", judge=judge)
