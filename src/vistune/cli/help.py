"""Show the help in the reader's language.

Korean help is laid out here, because typer counts Korean letters as one cell wide while terminals show them in two.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from vistune.cli.options import remember_given
from vistune.errors import RecipeError
from vistune.translations import LANGUAGES, catalogue

HEADINGS = {"Usage": "사용법", "Arguments": "인자", "Options": "옵션", "Commands": "명령"}
REMARKS = {"default: ": "기본값: ", "required": "필수"}
INDENT, GAP = 2, 2
MAX_WIDTH = 80  # cells
MAX_NAME_WIDTH = 28  # cells; the help of a longer option begins on the next line


def language_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the language that `--lang` before the verb names, else Korean for a Korean locale, else English.

    Raises RecipeError for another language.
    """
    for index, argument in enumerate(arguments):
        if not argument.startswith("-"):
            break
        name, _, value = argument.partition("=")
        if name == "--lang":
            language = value or next(iter(arguments[index + 1 :]), "")
            if language not in LANGUAGES:
                raise RecipeError(f"--lang {language!r}: not supported", f"use {' or '.join(LANGUAGES)}")
            return language
    locale = next((setting for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (setting := environment.get(name))), "")
    return "ko" if locale.lower().split(".")[0].split("_")[0] == "ko" else "en"


def current_language() -> str:
    """Return the language of this process's command line."""
    return language_of(sys.argv[1:], os.environ)


class TranslatedHelp:
    """Mixin of typer's commands: `get_help` in `language`."""

    language = "en"

    def get_help(self, ctx: Any) -> str:
        if self.language == "en":
            english: str = super().get_help(ctx)  # type: ignore[misc]
            return english
        return "\n".join(korean_page(self, ctx))


class Verb(TranslatedHelp, TyperCommand):
    """A command that also remembers which options were given."""

    def invoke(self, ctx: Any) -> Any:
        with remember_given(ctx):
            return super().invoke(ctx)


class Program(TranslatedHelp, TyperGroup):
    """The group of all verbs."""


def set_language(program: Any, language: str) -> None:
    """Set the language of the program's help and of its verbs' help."""
    for command in (program, *program.commands.values()):
        command.language = language


def korean_page(command: Any, ctx: Any) -> Iterator[str]:
    """Yield the lines of the Korean help of a verb or of the program."""
    width = min(int(os.environ.get("COLUMNS") or MAX_WIDTH), ctx.terminal_width or MAX_WIDTH)
    yield f"{HEADINGS['Usage']}: {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}"
    for paragraph in korean(command.help or "").split("\n\n"):
        yield ""
        yield from (" " * INDENT + line for line in wrapped(paragraph, width - INDENT))
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            name, about = record
            english = getattr(parameter, "help", None) or ""
            remarks = about.removeprefix(english)
            for remark, translation in REMARKS.items():
                remarks = remarks.replace(remark, translation)
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections[kind].append((name, korean(english) + remarks))
    verbs = getattr(command, "commands", {})
    sections["Commands"] = [(name, korean(verb.help or "").split("\n\n")[0]) for name, verb in verbs.items()]
    for heading, rows in sections.items():
        if rows:
            yield from ("", f"{HEADINGS[heading]}:", *table(rows, width))


def korean(english: str) -> str:
    """Return the Korean help text, or the English one if there is none."""
    return str(catalogue("cli/help", "ko").get(english, english))


def table(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield lines with names in the left column and texts in the right; a text starts below a name that is too long."""
    fitting = [cells(name) for name, _ in rows if cells(name) <= MAX_NAME_WIDTH]
    left = INDENT + max(fitting, default=0) + GAP
    for name, about in rows:
        lines = list(wrapped(about, max(width - left, 20)))
        first = " " * INDENT + name
        if cells(first) + GAP > left:
            yield first
        elif lines:
            yield first + " " * (left - cells(first)) + lines.pop(0)
        yield from (" " * left + line for line in lines)


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yield lines of at most `width` cells, broken at spaces if possible."""
    line = ""
    for word in text.split():
        if line and cells(line) + 1 + cells(word) > width:
            yield line
            line = ""
        line = f"{line} {word}" if line else word
    if line:
        yield line


def cells(text: str) -> int:
    """Return the width of a text in a terminal; a Korean letter takes two cells."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
