"""The page of a real run, tiny: everything that it learnt, saw, said and came from, in both languages."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from vistune import api
from vistune._quickstart import Size, quickstart
from vistune.errors import DataError, RecipeError
from vistune.evaluation import compare_stored
from vistune.files import read_json
from vistune.recipe import load_recipe
from vistune.report import write_run_report
from vistune.report.comparison_pages import differences
from vistune.report.run_page import Answers, read_evaluations
from vistune.report.training_section import read_metrics, stage_summary

SMALL = Size(scenes=40, tests=12, steps=4, blind_questions=30, descriptions=2)
OVERRIDES = ["stages.align.steps=2", "validation={share: 0.1, every: 2, answers: 2, answer_tokens: 6}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reported") / "run"
    quickstart(out, size=SMALL, overrides=OVERRIDES)
    return out


def sections(path: Path) -> dict[str, str]:
    html = path.read_text(encoding="utf-8")
    return dict(re.findall(r'<section id="([\w-]+)">(.*?)</section>', html, re.DOTALL))


def test_the_page_has_all_of_a_run(run: Path) -> None:
    found = sections(run / "report.html")
    assert list(found) == [
        "result", "diagrams", "training", "training-samples", "evaluations", "over-training", "answers", "mistakes",
        "descriptions", "cost", "run",
    ]  # fmt: skip
    assert found["diagrams"].count("data:image/svg+xml;base64,") == 2
    assert found["training"].count("<svg") == 4 + 5  # loss, rate, speed, memory of both; by source: captions have one
    for kind in ("conversation", "detail", "reasoning"):
        assert f"data/samples.json {kind}" in found["training"]
    assert found["training-samples"].count("<mark>") >= 8
    assert "ASSISTANT:<mark>" in found["training-samples"].replace(" <mark>", "<mark>").replace("\n", "")
    assert "validation loss with grey images" in found["training"]
    assert found["over-training"].count('class="when">tune') == 2 * 2  # two questions, after two and four steps
    assert "recipe quickstart" in " ".join(found["run"].lower().split())
    assert "unchanged" in found["run"]


def test_every_task_has_its_figures_with_intervals_and_gap(run: Path) -> None:
    told = read_json(run / "evals" / "scenes.json")
    table = sections(run / "report.html")["evaluations"]
    assert f"{told['metrics']['accuracy']:.4f}" in table
    assert f"{100 * told['gap']['value']:+.1f}" in table
    spans = told["intervals"]["without_image"]
    assert f"{100 * spans['low']:.1f} – {100 * spans['high']:.1f}" in table
    assert "held-out scenes" in table
    assert "unseen combinations" in table


def test_answers_carry_what_was_said_after_the_stage_before(run: Path) -> None:
    found = Answers(run, read_evaluations(run), ["align"], seed=0)
    earlier = [json.loads(line) for line in (run / "evals" / "align.predictions.jsonl").open(encoding="utf-8")]
    said = {row["question_id"]: row["text"] for row in earlier}
    cards = [card for card in found.chosen() or () if card["before"]]
    assert cards
    assert all(card["before"] == [("align", said[card["question_id"]])] for card in cards)


def test_the_worst_mistakes_are_of_the_kinds_most_often_wrong(run: Path) -> None:
    told = Answers(run, read_evaluations(run), ["align"], seed=0).mistakes()
    assert told is not None
    shares = [card["wrong"] / card["of"] for card in told["cards"]]
    assert shares == sorted(shares, reverse=True)
    assert not [card for card in told["cards"] if card["right"]]
    rows = [json.loads(line) for line in (run / "evals" / "scenes.predictions.jsonl").open(encoding="utf-8")]
    for card in (card for card in told["cards"] if card["source"] == "scenes"):
        kind = [row for row in rows if row["condition"] == "with_image" and row["type"] == card["type"]]
        assert (card["wrong"], card["of"]) == (sum(not row["right"] for row in kind), len(kind))


def test_answers_that_a_judge_has_to_mark_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    (tmp_path / "evals").mkdir()
    told = {"task": "llava-bench", "metrics": {}, "count": 1}
    (tmp_path / "evals" / "llava-bench.json").write_text(json.dumps(told))
    row = {"question_id": "1", "prompt": "?", "text": "a", "answer": "", "right": 0.0, "condition": "with_image"}
    (tmp_path / "evals" / "llava-bench.predictions.jsonl").write_text(json.dumps(row) + "\n")
    found = Answers(tmp_path, read_evaluations(tmp_path), [], seed=0)
    assert found.chosen() is None
    assert found.mistakes() is None
    assert "scored by a judge" in write_run_report(tmp_path).read_text(encoding="utf-8")


def test_a_moved_run_finds_its_data_and_one_without_data_says_so(run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "elsewhere"))
    shutil.move(run / "data" / "samples.json", tmp_path / "kept.json")
    try:
        assert "training-samples" in sections(api.write_report(moved))
        (moved / "data" / "samples.json").unlink()
        page = sections(api.write_report(moved))
        assert "training-samples" not in page
        assert "samples.json" in page["run"].split("<details>")[0]
        assert "not found" in page["run"]
    finally:
        shutil.move(tmp_path / "kept.json", run / "data" / "samples.json")


def test_the_korean_page_has_no_english_heading(run: Path) -> None:
    html = api.write_report(run, language="ko").read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert len(headings) == 11
    assert all(re.search("[가-힣]", heading) for heading in headings)
    api.write_report(run)


def test_a_stages_figures_are_those_of_its_lines(run: Path) -> None:
    rows = read_metrics(run / "metrics.jsonl")["tune"]
    told: dict[str, Any] = stage_summary(rows)
    assert told["steps"] == 4
    assert told["loss"] == rows[-1]["loss"]
    assert told["tokens"] == sum(row["tokens"] for row in rows)
    assert told["padding_waste"] == pytest.approx(0)
    assert told["peak_memory_mb"] == max(row["peak_memory_mb"] for row in rows)
    assert told["validation_loss"] == rows[-1]["validation_loss"]
    assert stage_summary([{**rows[0], "padding_waste": 0.25}])["padding_waste"] == pytest.approx(0.25)


@pytest.fixture(scope="module")
def other(run: Path) -> Path:
    """The same data, another seed and a stage of its own."""
    out = run.parent / "other"
    changes = ["seed=1", "stages.align.steps=3", "stages.tune.steps=2", "keep_checkpoints=1"]
    api.train(load_recipe("quickstart", [f"data={run / 'data'}", *changes]), out)
    api.evaluate(out, task="scenes", data=run / "world", out=out / "evals", blind_limit=30)
    return out


def test_two_runs_stand_beside_each_other(run: Path, other: Path) -> None:
    page = api.write_report(run, other)
    assert page == run / "report-beside-other.html"
    html = page.read_text(encoding="utf-8")
    found = sections(page)
    assert list(found) == ["differences", "stage-align", "stage-tune", "task-scenes"]
    told = dict(differences([run / "recipe.yaml", other / "recipe.yaml"]))
    assert told["seed"] == ["0", "1"]
    assert told["stages.align.steps"] == ["2", "3"]
    assert told["validation.share"] == ["0.1", None]
    assert "model.vision" not in told
    assert found["stage-tune"].count("<svg") == 3  # loss, validation loss of the one that has it, speed
    for folder in (run, other):
        spans = read_json(folder / "evals" / "scenes.json")["intervals"]["with_image"]
        assert f"{100 * spans['low']:.1f} – {100 * spans['high']:.1f}" in found["task-scenes"]
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)


def test_their_answers_are_compared_as_if_both_were_asked_now(run: Path, other: Path) -> None:
    comparison = compare_stored({"one": run / "evals", "two": other / "evals"})
    (task,) = comparison.to_dict()["tasks"]
    (pair,) = task["pairs"]
    shares = [read_json(folder / "evals" / "scenes.json")["metrics"]["accuracy"] for folder in (run, other)]
    assert pair["difference"]["value"] == pytest.approx(shares[0] - shares[1])
    assert len(pair["wins"]) - len(pair["losses"]) == round((shares[0] - shares[1]) * task["count"])


def test_tasks_asked_with_other_questions_are_not_compared(run: Path, other: Path, tmp_path: Path) -> None:
    fewer = Path(shutil.copytree(other, tmp_path / "fewer"))
    file = fewer / "evals" / "scenes.predictions.jsonl"
    file.write_text("".join(file.open(encoding="utf-8").readlines()[1:]), encoding="utf-8")
    page = api.write_report(run, fewer, out=tmp_path / "page.html", language="ko")
    assert "모든 실행에서 같은 질문으로 평가한 과제가 없습니다" in page.read_text(encoding="utf-8")
    with pytest.raises(DataError, match="not a run folder"):
        api.write_report(run, tmp_path)
    with pytest.raises(RecipeError, match="named twice"):
        api.write_report(run, run)
