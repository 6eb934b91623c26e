"""A task of the user's own: mistakes are refused in one line, and evaluate and score show its figures and tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from typer.testing import CliRunner

from vistune import api
from vistune.cli.app import app
from vistune.errors import DataError, RecipeError
from vistune.evaluation import Benchmark, Facts, Marked
from vistune.evaluation.comparison import read_results
from vistune.evaluation.task import make_question, mean, mean_by, questions_of
from vistune.evaluation.tasks import open_task
from vistune.files import read_json, write_jsonl
from vistune.types import Question


class Own(Benchmark):
    facts = Facts("own", (), "own", "own", "2")
    max_tokens = 2

    def questions(self) -> Sequence[Question]:
        return [
            make_question(name, "Which?", self.folder / f"{name}.png", answer="red", thing=thing)
            for name, thing in (("a", "cats"), ("b", "dogs"))
        ]

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"accuracy": mean(rows)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, dict[str, tuple[float, int]]]:
        return {"thing": mean_by(rows, "thing")}


class Bare(Benchmark):
    facts = Own.facts


class IntegerAnswer(Own):
    def questions(self) -> Sequence[Question]:
        return [make_question("a", "How many?", answer=1)]  # type: ignore[arg-type]


class Records(Own):
    def questions(self) -> Sequence[Question]:
        return [{"question": "Which?"}]  # type: ignore[list-item]


class Twice(Own):
    def questions(self) -> Sequence[Question]:
        return [make_question("a", "Which?"), make_question("a", "Who?")]


class Percent(Own):
    def points(self, question: Question, answer: str) -> float:
        return 5.0


class ParsesNumbers(Own):
    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return 3  # type: ignore[return-value]


class FloatTable(Own):
    def tables(self, rows: Sequence[Marked]) -> dict[str, dict[str, tuple[float, int]]]:
        return {"thing": {"cats": 0.5}}  # type: ignore[dict-item]


class TextMetric(Own):
    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"accuracy": "high"}  # type: ignore[dict-item]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own_tasks")
    vars(module).update({task.__name__: task for task in (Own, Bare)}, function=lambda folder: Own(folder), three=3)
    monkeypatch.setitem(sys.modules, "own_tasks", module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("function", "is function. Fix: name a class derived from vistune.evaluation.Benchmark"),
        ("three", "is int"),
        ("Path", "cannot be imported"),
        ("Bare", "does not define metrics, questions"),
    ],
)
def test_what_is_not_a_complete_task_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"task 'own_tasks:{name}' {message}"):
        open_task(f"own_tasks:{name}", tmp_path)


def test_an_answer_that_is_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"question a: answer: expected text, got 1. Fix: convert it with str\(\)"):
        IntegerAnswer(tmp_path).questions()
    with pytest.raises(DataError, match=r"c.jsonl:7: name: expected text, got 7"):
        make_question(7, "Which?", origin="c.jsonl:7")  # type: ignore[arg-type]


def test_questions_are_a_list_of_questions_with_unique_ids(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Records.questions returned .*Which.* Fix: return a list of questions"):
        questions_of(Records(tmp_path))
    with pytest.raises(DataError, match="1 question ids occur twice"):
        questions_of(Twice(tmp_path))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Percent, "Percent.points returned 5.0. Fix: return a number from 0 to 1"),
        (ParsesNumbers, "ParsesNumbers.parse returned 3. Fix: return text, or None"),
        (FloatTable, "FloatTable.tables returned 0.5 for the group 'cats'"),
        (TextMetric, "TextMetric.metrics returned .*high.*a dict of numbers"),
    ],
)
def test_what_a_task_computes_is_checked(task: type[Benchmark], message: str, tmp_path: Path) -> None:
    from vistune.evaluation import Reply

    own = task(tmp_path)
    with pytest.raises(RecipeError, match=message):
        own.score([Reply(question, "red") for question in own.questions()])


def test_evaluate_and_score_show_the_tables_of_a_task(tmp_path: Path, model: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{name}.png")
    out = tmp_path / "evals"
    command = ["evaluate", str(model), "--task", "own_tasks:Own", "--data", str(tmp_path), "--out", str(out)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "│ cats  │" in shown.stdout
    assert "too few images" in shown.stdout
    assert "│ accuracy  " not in shown.stdout.replace("accuracy with", "")
    assert {path.name for path in out.iterdir()} >= {"own_tasks.Own.json", "own_tasks.Own.predictions.jsonl"}
    assert set(read_json(out / "own_tasks.Own.json")["tables"]["thing"]) == {"cats", "dogs"}
    assert list(read_results(out)) == ["own_tasks:Own"]
    scored = api.score("own_tasks:Own", tmp_path, out / "own_tasks.Own.predictions.jsonl")
    assert set(scored.scored.tables["thing"]) == {"cats", "dogs"}


def test_a_missing_image_is_named_with_its_question(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match=r"^question a: .*a\.png: No such file"):
        api.evaluate(model, task="own_tasks:Own", data=tmp_path)


def test_a_prediction_scores_the_same_with_a_table(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "said.jsonl", [{"question_id": "a", "text": "red"}, {"question_id": "b", "text": "blue"}])
    scored = api.score("own_tasks:Own", tmp_path, tmp_path / "said.jsonl").scored
    assert scored.metrics == {"accuracy": 50.0}
    assert scored.tables == {"thing": {"cats": (100.0, 1), "dogs": (0.0, 1)}}
