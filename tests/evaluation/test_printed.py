"""What the terminal shows: figures by type and language, no empty tables, and who else gives the figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from releases import RELEASES
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.errors import RecipeError
from vistune.files import read_json, write_json, write_jsonl
from vistune.scenes import write_world


def shown(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_scenes_are_told_by_question_type_and_language(tmp_path: Path, model: Path) -> None:
    write_world(tmp_path, count=1, seed=0, tests=4)
    words = ("evaluate", model, "--task", "scenes", "--data", tmp_path, "--out", tmp_path / "out", "--limit", "16")
    output = shown(*words)
    for group in ("colour", "count", "existence", "en", "ko"):
        assert f"│ {group} " in output
    assert shown(*words) == output  # from what is kept


def test_a_task_without_types_has_no_table_of_them(tmp_path: Path, model: Path) -> None:
    RELEASES["gqa"](tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("n1.jpg", "n2.jpg"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / "images" / name)
    output = shown("evaluate", model, "--task", "gqa", "--data", tmp_path, "--out", tmp_path / "out")
    assert "right, per cent" not in output


def test_answers_that_nobody_could_score_later_are_not_asked(tmp_path: Path, model: Path) -> None:
    RELEASES["vizwiz"](tmp_path)
    done = CliRunner().invoke(app, ["evaluate", str(model), "--task", "vizwiz", "--data", str(tmp_path)])
    assert isinstance(done.exception, RecipeError)
    assert "the answers would be lost" in str(done.exception)


def test_a_table_that_the_data_cannot_fill_is_left_out(tmp_path: Path) -> None:
    write_json(
        tmp_path / "problems.json", {"1": {"question": "?", "choices": ["a", "b"], "answer": 0, "split": "test"}}
    )
    write_jsonl(tmp_path / "said.jsonl", [{"question_id": 1, "text": "A"}])
    output = shown("score", "scienceqa", "--data", tmp_path, "--predictions", tmp_path / "said.jsonl")
    assert "breakdown" not in output
    assert "topic" not in output


def test_popes_confusion_is_of_each_split(tmp_path: Path) -> None:
    right = RELEASES["pope"](tmp_path)
    write_jsonl(tmp_path / "said.jsonl", [{"question_id": int(name), "text": "Yes"} for name in right])
    output = shown("score", "pope", "--data", tmp_path, "--predictions", tmp_path / "said.jsonl")
    assert "│ random FP      │ 50.00 │ 1         │" in output


def test_what_only_a_server_scores_says_so(tmp_path: Path) -> None:
    right = RELEASES["vizwiz"](tmp_path)
    write_jsonl(tmp_path / "said.jsonl", [{"question_id": name, "text": text} for name, text in right.items()])
    output = shown("score", "vizwiz", "--data", tmp_path, "--predictions", tmp_path / "said.jsonl")
    assert "no figure here" in output
    assert "--submission" in output
    korean = shown("score", "vizwiz", "--data", tmp_path, "--predictions", tmp_path / "said.jsonl", "--lang", "ko")
    assert "여기서는 점수를 낼 수 없음" in korean
    assert "no figure" not in korean


@pytest.mark.parametrize("task", ["scenes", "vizwiz"])
def test_a_model_that_is_not_there_is_said_first(tmp_path: Path, task: str) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "none"), "--task", task, "--data", str(tmp_path)])
    assert "none" in str(done.exception)


def test_replies_that_cannot_be_parsed_are_shown(tmp_path: Path, model: Path) -> None:
    """What a model of random weights says to a yes-no question is neither."""
    RELEASES["pope"](tmp_path)
    (tmp_path / "val2014").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "val2014" / "a.jpg")
    output = shown("evaluate", model, "--task", "pope", "--data", tmp_path, "--out", tmp_path / "out")
    kept = read_json(tmp_path / "out" / "pope.json")
    assert kept["unparsed"] > 0
    told_count = f"{kept['unparsed']} answers cannot be parsed; the benchmark's rules decide how they count."
    assert f"{told_count} Examples:" in output
    assert f"    {kept['examples'][0]['question_id']}: " in output
