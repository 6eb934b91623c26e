"""`recipes` and `init`: shipped recipes are listed and printed, and a copy reads back as the same recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vistune.cli.app import app, run
from vistune.errors import VistuneError
from vistune.recipe import known_recipes, load_recipe
from vistune.recipe.starting import StartingValues, start_recipe

OWN_MODELS = {"vision": "towers/one: two", "language": "언어 모델 #1"}  # names that YAML would read otherwise


@pytest.mark.parametrize("name", known_recipes())
def test_a_copy_has_a_comment_at_each_key_and_reads_back_as_the_recipe(name: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(start_recipe(name, StartingValues()), encoding="utf-8")
    assert load_recipe(str(path)) == load_recipe(name)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert "# Trainable parts and their peak learning rates" in path.read_text(encoding="utf-8")
    assert lines[lines.index("stages:") - 1].startswith("# ")


@pytest.mark.parametrize("name", known_recipes())
def test_data_and_models_are_filled_in(name: str, tmp_path: Path) -> None:
    data = tmp_path / "my data, 1.json"
    data.write_text("[]")
    has_origin = load_recipe(name).origin is not None
    models = {"start_from": "towers/one: two"} if has_origin else OWN_MODELS
    path = tmp_path / "copy.yaml"
    path.write_text(
        start_recipe(name, StartingValues(data=(data, tmp_path), images=tmp_path, **models)), encoding="utf-8"
    )
    recipe = load_recipe(str(path))
    assert [(source.file, source.images) for source in recipe.data] == [(data, tmp_path), (tmp_path, tmp_path)]
    assert all(stage.data is None for stage in recipe.stages)
    if recipe.origin is not None:
        assert str(recipe.origin.model) == "towers/one: two"
    else:
        assert recipe.model.backbones == OWN_MODELS
    changed = {"data", "model", "origin", "stages"}
    assert recipe.model_dump(exclude=changed) == load_recipe(name).model_dump(exclude=changed)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("quickstrat", StartingValues(), "did you mean 'quickstart'"),
        ("smol", StartingValues(images=Path()), "--images needs --data"),
        ("smol", StartingValues(data=(Path("nothere.json"),)), "nothere.json: no such file or folder"),
        ("smol", StartingValues(start_from="model"), "smol starts from backbones"),
        ("llava-v1.5-7b-task-lora", StartingValues(vision="model"), "starts from a model with its own backbones"),
    ],
)
def test_values_without_a_place_are_refused(name: str, values: StartingValues, message: str) -> None:
    with pytest.raises(VistuneError, match=message):
        start_recipe(name, values)


def test_init_writes_a_file_once_and_names_the_next_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["init", "quickstart", "--out", "mine.yaml"])
    assert made.exit_code == 0
    assert "  vistune train mine.yaml data=FILE --out runs/mine\n" in made.stdout
    assert load_recipe("mine.yaml") == load_recipe("quickstart")
    again = CliRunner().invoke(app, ["init", "quickstart", "--out", "mine.yaml"])
    assert "mine.yaml: already exists" in str(again.exception)


def test_recipes_lists_each_recipe_and_prints_one() -> None:
    listed = CliRunner().invoke(app, ["recipes"]).stdout
    assert all(f"  {name} " in listed for name in known_recipes())
    printed = CliRunner().invoke(app, ["recipes", "smol-ko"]).stdout
    assert printed.startswith("# A small model that answers in Korean and English")
    found = json.loads(CliRunner().invoke(app, ["recipes", "--json"]).stdout)
    assert [entry["name"] for entry in found] == known_recipes()


@pytest.mark.parametrize(
    ("arguments", "english", "korean"),
    [
        (["recipes", "smoll"], "unknown recipe 'smoll'. Fix: did you mean", "'smoll': 그런 레시피가 없습니다"),
        (["init", "--out", "x"], "--out x: a recipe is a YAML file. Fix: give it", "이름을 .yaml로 끝내세요"),
        (["train"], "train needs a recipe. Fix: name a recipe", "train에는 레시피가 필요합니다"),
        (["train", "--resume"], "train needs a recipe. Fix: name a recipe", "--resume 폴더로 이어서"),
        (["train", "--resume", "smol"], "--resume smol: a recipe, not a run folder", "실행 폴더가 아니라"),
        (["train", "--resume", "nothere"], "nothere: no run to resume. Fix: name", "이어서 할 실행이 없습니다"),
        (["trian"], "no such command: trian. Fix: did you mean 'train'?", "혹시 'train'?"),
        (["train", "--ot", "x"], "no such option: --ot. Fix: did you mean --out?", "그런 옵션이 없습니다: --ot"),
        (["scenes", "w", "--count", "x"], "--count x: must be a whole number", "정수여야 합니다"),
        (["scenes", "w", "--count", "0"], "--count 0: must be 1 or more", "1 이상이어야 합니다"),
        (["scenes"], "OUT is missing. Fix: see vistune scenes --help", "vistune scenes --help를 보세요"),
        (["scenes", "w", "--seed"], "--seed needs a value", "--seed에는 값이 필요합니다"),
        (["scenes", "w", "x"], "too many arguments: x", "인자가 너무 많습니다: x"),
        (["check", "--log-format", "xml"], "--log-format 'xml': not supported", "text, json"),
        (["check", "-q", "-v"], "-q and -v contradict each other", "-q와 -v는 함께 쓸 수 없습니다"),
    ],
)
def test_a_mistake_is_one_line_in_the_language_asked_for(
    arguments: list[str], english: str, korean: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for language, words in (("en", english), ("ko", korean)):
        assert run([*arguments[:1], "--lang", language, *arguments[1:]]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert words in said.err


def test_a_language_that_does_not_exist_is_refused_in_the_locales(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    assert run(["check", "--lang", "fr"]) == 2
    assert "지원하지 않는 언어입니다. 고치는 법: 다음 중에서 고르세요: en, ko" in capsys.readouterr().err


def test_an_error_in_json_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--resume", "nothere", "--log-format", "json"]) == 2
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["exit_code"]) == ("error", "error", 2)
    assert line["message"].startswith("vistune: nothere: no run to resume")
