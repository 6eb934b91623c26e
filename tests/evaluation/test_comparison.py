"""Several models and tasks in one call: the table of figures, the pairs of models, published figures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from releases import RELEASES
from typer.testing import CliRunner

from vistune import api
from vistune.cli.app import app
from vistune.cli.evaluation import folder_of
from vistune.cli.evaluation_tables import print_comparison
from vistune.cli.log import using
from vistune.cli.settings import Settings
from vistune.errors import DataError, RecipeError
from vistune.evaluation import (
    TASKS,
    AnsweredQuestion,
    EvaluationRequest,
    EvaluationResult,
    compare,
    figures_tables,
    labels_of,
    remarks,
)
from vistune.evaluation.comparison import headlines, published, published_on
from vistune.evaluation.results import evaluation_result
from vistune.evaluation.task import make_question
from vistune.files import read_json, write_json, write_jsonl
from vistune.report import write_comparison
from vistune.scenes import write_world


def questions(folder: Path, count: int) -> Path:
    for k in range(count):
        Image.new("RGB", (40, 40), (9 * k, 30, 30)).save(folder / f"{k}.png")
    rows = [
        {"question_id": k, "text": f"<b>Which</b> {k}?", "answer": "red", "image": f"{k}.png"} for k in range(count)
    ]
    write_jsonl(folder / "questions.jsonl", rows)
    return folder


def measurement(folder: Path, name: str, right: set[int], count: int = 20) -> EvaluationResult:
    """Return the result of a model that says "red" to some of the questions, whatever it is shown."""
    task = TASKS["file"](questions(folder, count))
    rows = {
        condition: [
            AnsweredQuestion(question, condition, said, float(said == "red"))
            for k, question in enumerate(task.questions())
            for said in ["red" if k in right else "blue"]
        ]
        for condition in ("with_image", "without_image")
    }
    return replace(evaluation_result("file", task, rows), model=name)


def test_a_pair_says_who_answers_what_better(tmp_path: Path) -> None:
    good, bad = measurement(tmp_path, "good", set(range(18))), measurement(tmp_path, "bad", {0, 1, 19})
    comparison = compare({"good": [good], "bad": [bad]})
    tree = comparison.to_dict()
    [task] = tree["tasks"]
    [pair] = task["pairs"]
    assert task["models"]["good"]["metrics"] == {"accuracy": 0.9}
    assert [row["question_id"] for row in pair["wins"]] == [str(k) for k in range(2, 18)]
    assert [row["question_id"] for row in pair["losses"]] == ["19"]
    assert pair["wins"][0]["said"] == {"good": "red", "bad": "blue"}
    assert pair["difference"]["value"] == pytest.approx(0.75)
    assert pair["words"] == "good is better: the interval is above zero"
    (table,) = figures_tables(comparison)
    assert (table.task, table.count, table.columns[0]) == ("file", 20, "accuracy")
    assert {name: values[0] for name, values in table.rows.items()} == {"good": "0.9000", "bad": "0.1500"}
    text = "\n".join(map(str, remarks(comparison)))
    assert "good answers 16 better than bad, 1 worse; +75.0 points" in text
    assert "file, good: no sign that the model uses the image: the 95 % interval of the gain includes zero" in text
    even = compare({"a": [good], "b": [good]}).to_dict()["tasks"][0]["pairs"][0]
    assert (even["wins"], even["losses"]) == ([], [])
    assert even["words"] == "no sign that either is better: the interval includes zero"


@pytest.mark.parametrize("labels", [("good",), ("good", "bad"), ("bad", "good"), ("good", "same")])
def test_a_comparison_is_printed_in_korean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: tuple[str, ...]
) -> None:
    right = {"good": set(range(18)), "bad": {0, 1, 19}, "same": set(range(18))}
    comparison = compare({label: [measurement(tmp_path, label, right[label])] for label in labels})
    with using(Settings(language="ko")):
        print_comparison(comparison, tmp_path if len(labels) > 1 else None)
    printed = capsys.readouterr().out.replace(str(tmp_path), "")
    assert "질문 20개" in printed
    assert set(re.findall("[A-Za-z]{3,}", printed)) <= {*labels, "file", "accuracy", "comparison", "html", "all"}


def test_the_page_shows_images_questions_answers_and_gold(tmp_path: Path) -> None:
    good, bad = measurement(tmp_path, "good", {0, 1, 2}), measurement(tmp_path, "bad", {19})
    write_json(tmp_path / "comparison.json", compare({"good": [good], "bad": [bad]}).to_dict())
    page = write_comparison(tmp_path).read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert "&lt;b&gt;Which&lt;/b&gt; 19?" in page
    assert "<b>Which" not in page
    assert "Questions that good answers better than bad: 3" in page
    assert api.write_report(tmp_path, language="ko") == tmp_path / "comparison.html"
    assert "모델 비교" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="neither a run, a comparison"):
        api.write_report(tmp_path.parent)


def test_replies_that_never_change_are_said_where_only_a_judge_gives_figures(tmp_path: Path) -> None:
    rows = {
        condition: [
            AnsweredQuestion(make_question(str(k), "?", Path(f"{k}.png")), condition, said(k), 0.0) for k in range(30)
        ]
        for condition, said in {
            "with_image": str,
            "without_image": lambda k: "same" if k % 2 else str(k),
            "wrong_image": str,
        }.items()
    }
    result = evaluation_result("vizwiz", TASKS["vizwiz"](tmp_path), rows)
    assert (result.metrics, result.changed["without_image"].share.value) == ({}, 0.5)
    assert "depend on the image" in result.changed["without_image"].words
    assert "no sign that the model uses the image" in result.changed["wrong_image"].words


def test_published_figures_name_their_source_and_a_figure_of_the_task() -> None:
    for name, model in published()["models"].items():
        assert model["source"], name
        assert set(model["figures"]) <= set(TASKS)
    assert published_on("pope")["LLaVA-v1.5 7B"].figures["mean_f1"] == 85.9
    assert published_on("k-pope") == {}
    assert headlines("mme", ["existence", "Perception", "Cognition"]) == ["Perception", "Cognition"]
    assert headlines("file", ["accuracy"]) == ["accuracy"]


def test_models_have_short_names_of_their_own(tmp_path: Path) -> None:
    a, b = tmp_path / "a" / "checkpoints" / "last", tmp_path / "b" / "checkpoints" / "last"
    assert labels_of([a, b]) == ["a-checkpoints-last", "b-checkpoints-last"]
    assert labels_of([a]) == ["last"]
    assert labels_of([tmp_path / "a", a]) == ["a", "checkpoints-last"]
    with pytest.raises(RecipeError, match="named twice"):
        labels_of([a, a.parent / "last"])


def test_two_models_on_two_tasks_in_one_call(tmp_path: Path, model: Path, other_model: Path) -> None:
    data = tmp_path / "data"
    for name in ("pope", "file"):
        (data / name).mkdir(parents=True)
        RELEASES[name](data / name)
    (data / "pope" / "val2014").mkdir()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(data / "pope" / "val2014" / "a.jpg")
    out = tmp_path / "out"
    arguments = ["evaluate", str(model), str(other_model), "--task", "pope,file", "--data", str(data)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    names = labels_of([model, other_model])
    shown = done.stdout.splitlines()
    assert [line.strip() for line in shown if "questions" in line][:2] == ["pope, 6 questions", "file, 3 questions"]
    assert all(any(line.startswith(f"│ {name}") for line in shown) for name in (*names, "LLaVA-v1.5 7B"))
    assert any("LLaVA-v1.5 7B" in line and "85.90" in line for line in shown)
    assert max(len(line) for line in shown if line.startswith(("┏", "│"))) <= 80
    assert "- LLaVA-v1.5 7B: arXiv 2310.03744" in done.stdout
    assert {path.name for path in out.iterdir()} == {"comparison.json", "comparison.html", *names}
    tree = read_json(out / "comparison.json")
    assert [task["task"] for task in tree["tasks"]] == ["pope", "file"]
    own = read_json(out / names[0] / "pope.json")
    assert own["asked_with"]["template"]
    assert own["asked_with"]["decoding"] == {"greedy": True, "max_tokens": 128, "letters": False}
    assert set(own["asked_with"]["versions"]) == {"vistune", "torch", "transformers"}
    assert own["asked_with"]["prompts"] == tree["tasks"][0]["models"][names[1]]["asked_with"]["prompts"]
    again = CliRunner().invoke(app, [*arguments, "--out", str(out), "--json"])
    assert [row["task"] for row in json.loads(again.stdout)] == ["pope", "file"] * 2
    refused = CliRunner().invoke(app, ["evaluate", str(model), str(other_model), "--task", "file"])
    assert isinstance(refused.exception, RecipeError)
    assert "same questions" in str(refused.exception)


def test_what_a_later_task_lacks_is_said_before_the_first_is_asked(tmp_path: Path, model: Path) -> None:
    questions(tmp_path, 2)
    with pytest.raises(DataError, match=r"mm-vet\.json: no such file"):
        api.evaluate_all([model], {"file": tmp_path, "mmvet": tmp_path}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_drawn_worlds_tasks_share_one_folder(tmp_path: Path) -> None:
    write_world(tmp_path, count=1, seed=0, tests=1)
    (tmp_path / "pope").mkdir()
    assert folder_of(tmp_path, "combinations", many=True) == folder_of(tmp_path, "scenes", many=True) == tmp_path
    assert folder_of(tmp_path, "pope", many=True) == tmp_path / "pope"


def test_blind_runs_are_on_a_subset_unless_told_otherwise(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vistune.api.evaluation.BLIND_QUESTIONS", 4)
    result = api.evaluate(model, task="file", data=questions(tmp_path, 12))
    assert {name: interval.count for name, interval in result.intervals.items()} == {
        "with_image": 12,
        "without_image": 4,
        "wrong_image": 4,
    }
    assert result.gap is not None
    assert EvaluationRequest("file", tmp_path).blind_limit is None
