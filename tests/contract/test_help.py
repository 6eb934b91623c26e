"""The help of every verb and option exists in Korean, in lines that fit."""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command

from vistune.cli import commands as help_texts
from vistune.cli.app import app
from vistune.errors import RecipeError
from vistune.translations import korean_texts

PROGRAM: Any = get_command(app)


def texts() -> dict[str, str]:
    """Every English text of the help, and where it stands."""
    found = {PROGRAM.help: "vistune"}
    for name, command in (("vistune", PROGRAM), *PROGRAM.commands.items()):
        found.setdefault(command.help, name)
        for parameter in command.get_params(command.make_context(name, [], resilient_parsing=True)):
            found.setdefault(parameter.help or "", f"{name} {parameter.opts[0]}")
    return found


def test_every_verb_and_option_has_its_korean_text() -> None:
    known, wanted = korean_texts(), texts()
    missing = [f"{place}: {text!r}" for text, place in wanted.items() if text not in known]
    assert not missing, f"write them into src/vistune/ko.json: {missing}"


def test_korean_texts_are_korean() -> None:
    assert not [text for text in texts() if not any("가" <= letter <= "힣" for letter in korean_texts()[text])]


@pytest.mark.parametrize("verb", ["", *PROGRAM.commands])
def test_korean_help_fits_eighty_columns(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program: Any = get_command(app)
    help_texts.set_language(program, "ko")
    monkeypatch.setenv("COLUMNS", "80")
    command = program.commands[verb] if verb else program
    with pytest.raises(SystemExit) as ended:
        program.main([*([verb] if verb else []), "--help"], prog_name="vistune")
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith("사용법: vistune")
    assert not [line for line in said.splitlines()[1:] if help_texts.cells(line) > 80]
    assert all(name in said for parameter in command.params if (name := parameter.opts[0]).startswith("-"))


@pytest.mark.parametrize(
    ("arguments", "environment", "wanted"),
    [
        ([], {}, "en"),
        ([], {"LANG": "ko_KR.UTF-8"}, "ko"),
        ([], {"LC_ALL": "", "LANG": "ko"}, "ko"),
        ([], {"LC_ALL": "C", "LANG": "ko_KR.UTF-8"}, "en"),
        (["--help", "--lang", "ko"], {}, "ko"),
        (["--lang=en", "train"], {"LANG": "ko_KR.UTF-8"}, "en"),
        (["report", "run", "--lang", "fr"], {}, "en"),
        ([], {"LANG": "kok_IN"}, "en"),
    ],
)
def test_the_language_is_asked_for_or_the_locales(
    arguments: list[str], environment: dict[str, str], wanted: str
) -> None:
    assert help_texts.language_of(arguments, environment) == wanted


@pytest.mark.parametrize("arguments", [["--lang", "fr"], ["--lang"], ["--lang="]])
def test_another_language_is_refused(arguments: list[str]) -> None:
    with pytest.raises(RecipeError, match="use en or ko"):
        help_texts.language_of(arguments, {})
