"""Asking a model: official figures by condition, and conditions that cannot be asked are reported."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from PIL import Image
from releases import RELEASES

import vistune
from vistune import api
from vistune.evaluation import TASKS, score
from vistune.files import read_jsonl, write_jsonl
from vistune.scenes import write_world

EXAMPLE = Path(__file__).parents[2] / "examples" / "add_a_task.py"


def test_a_limit_that_leaves_one_image_leaves_the_wrong_image_out(tmp_path: Path, model: Path) -> None:
    write_world(tmp_path, count=1, seed=0, tests=3)
    result = api.evaluate(model, task="scenes", data=tmp_path, limit=2, out=tmp_path / "evals")
    assert "needs two different" in result.left_out["wrong_image"]
    assert "wrong_image" not in result.intervals
    assert result.gap is not None
    assert result.gap.against == "without_image"
    assert {row["condition"] for _, row in read_jsonl(tmp_path / "evals" / "scenes.predictions.jsonl")} == {
        "with_image",
        "without_image",
    }


@pytest.mark.parametrize("name", ["pope", "textvqa", "mme"])
def test_a_benchmark_is_asked_and_its_kept_answers_score_the_same(tmp_path: Path, model: Path, name: str) -> None:
    RELEASES[name](tmp_path)
    for question in TASKS[name](tmp_path).questions():
        place = Path(str(question.sample.images[0].source))
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (200, 30, 30)).save(place)
    result = api.evaluate(model, task=name, data=tmp_path, out=tmp_path / "evals")
    kept = tmp_path / "evals" / f"{name}.predictions.jsonl"
    assert score(name, TASKS[name](tmp_path), kept).metrics == result.metrics
    assert result.without_image is not None
    assert result.without_image.keys() == result.metrics.keys()


def test_the_example_task(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 40
    shutil.copy(EXAMPLE, tmp_path / "add_a_task.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.util.find_spec("add_a_task") is not None
    rows = [{"id": k, "image": f"{k}.png", "thing": "cats" if k else "dogs", "count": k} for k in range(3)]
    write_jsonl(tmp_path / "counts.jsonl", rows)
    for k in range(3):
        Image.new("RGB", (40, 40), (80 * k, 30, 30)).save(tmp_path / f"{k}.png")
    said = ["There are 0 dogs.", "3", "one or 2 or 3"]
    write_jsonl(tmp_path / "said.jsonl", [{"question_id": k, "text": text} for k, text in enumerate(said)])
    scored = vistune.score("add_a_task:Counting", tmp_path, tmp_path / "said.jsonl").scored
    assert scored.metrics == {"accuracy": pytest.approx(100 / 3), "mean_error": 1.0}
    assert (scored.count, scored.unparsed, scored.examples) == (3, 1, (("2", "one or 2 or 3"),))
    assert scored.tables["thing"] == {"cats": (0.0, 2), "dogs": (100.0, 1)}
    assert api.evaluate(model, task="add_a_task:Counting", data=tmp_path).count == 3


def test_the_lmms_eval_task_asks_and_marks_as_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("lmms_utils", EXAMPLE.parent / "lmms_eval" / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    write_world(tmp_path, count=1, seed=0, tests=2)
    monkeypatch.chdir(tmp_path)
    task = TASKS["scenes"](tmp_path)
    rows = [row for _, row in read_jsonl(tmp_path / "questions_heldout.jsonl")]
    for row, question in zip(rows, task.questions(), strict=True):
        assert theirs.doc_to_text(row) == question.sample.messages[0].text
        assert theirs.doc_to_visual(row)[0].mode == "RGB"
        for reply in (f" {row['answer'].upper()}. ", "no such thing", ""):
            assert theirs.process_results(row, [reply])["accuracy"] == task.mark(question, reply).points
