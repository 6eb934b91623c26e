"""The help of every verb and option exists in both languages, in lines that fit, with nothing cut off."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from vistune.cli.app import GROUPS, VERBS, app
from vistune.cli.help import EXIT_CODES, cells
from vistune.cli.settings import Settings, language_of, read_settings
from vistune.errors import RecipeError
from vistune.recipe import known_recipes
from vistune.recipe.starting import about_recipe
from vistune.translations import in_language, korean_texts

PROGRAM: Any = get_command(app)


def texts() -> dict[str, str]:
    """Every English text of the help, and where it stands."""
    found = {PROGRAM.help: "vistune", **dict.fromkeys(EXIT_CODES.values(), "exit codes")}
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
    assert not [text for text in texts() if not re.search("[가-힣]", korean_texts()[text])]


def test_every_recipe_is_described_in_korean() -> None:
    assert [name for name in known_recipes() if about_recipe(name) not in korean_texts()] == []


def test_every_verb_is_in_one_group_of_the_help() -> None:
    assert sorted(verb for verbs in GROUPS.values() for verb in verbs) == sorted(VERBS)


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("verb", ["", *PROGRAM.commands])
def test_help_fits_and_cuts_nothing(verb: str, columns: int, language: str) -> None:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    shown = runner.invoke(app, [*([verb] if verb else []), "-h", "--lang", language], prog_name="vistune")
    assert shown.exit_code == 0
    command = PROGRAM.commands[verb] if verb else PROGRAM
    lines, words = shown.stdout.splitlines(), shown.stdout.split()
    too_long = [line for line in lines if cells(line) > min(columns, 80) and len(line.split()) > 1]
    assert not [line for line in too_long if " " in line.strip()], "only a single word may be wider"
    descriptions = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    for text in filter(None, descriptions):
        assert " ".join(in_language(text, language).split()) in " ".join(words)
    assert all(name in shown.stdout for parameter in command.params for name in parameter.opts if name[0] == "-")
    assert not re.search(r"x>=|<int|<path|<str|list\[", shown.stdout)


@pytest.mark.parametrize(
    ("arguments", "environment", "wanted"),
    [
        ([], {}, "en"),
        ([], {"LANG": "ko_KR.UTF-8"}, "ko"),
        ([], {"LC_ALL": "", "LANG": "ko"}, "ko"),
        ([], {"LC_ALL": "C", "LANG": "ko_KR.UTF-8"}, "en"),
        (["--help", "--lang", "ko"], {}, "ko"),
        (["--lang=en", "train"], {"LANG": "ko_KR.UTF-8"}, "en"),
        (["report", "run", "--lang", "ko"], {}, "ko"),
        (["report", "--lang=ko", "run"], {}, "ko"),
        (["show", "--", "--lang", "ko"], {}, "en"),
        ([], {"LANG": "kok_IN"}, "en"),
    ],
)
def test_the_language_is_asked_for_or_the_locales(
    arguments: list[str], environment: dict[str, str], wanted: str
) -> None:
    assert language_of(arguments, environment) == wanted


@pytest.mark.parametrize("arguments", [["--lang", "fr"], ["--lang"], ["--lang="], ["check", "--lang", "fr"]])
def test_another_language_is_refused(arguments: list[str]) -> None:
    with pytest.raises(RecipeError, match="en, ko"):
        language_of(arguments, {})


def test_options_of_every_command_may_be_anywhere() -> None:
    arguments = ["-v", "train", "quickstart", "--log-format=json", "--out", "run", "--lang", "ko", "--", "-q"]
    settings, rest = read_settings(arguments, {})
    assert settings == Settings(language="ko", level="verbose", log_format="json")
    assert rest == ["train", "quickstart", "--out", "run", "--", "-q"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--log-format", "xml"], "text, json"),
        (["--log-format"], "text, json"),
        (["-q", "-v"], "one of them"),
    ],
)
def test_bad_options_of_every_command_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_settings(["check", *arguments], {})
