"""The typer commands: their help in the user's language, and the options that were given.

Korean help is laid out here, because typer counts Korean letters as one cell wide while terminals show them in two.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from typer._click.exceptions import NoArgsIsHelpError
from typer.core import TyperCommand, TyperGroup

from vistune.errors import RecipeError
from vistune.translations import LANGUAGES, in_language

if TYPE_CHECKING:
    from typer._click.core import Context
    from typer._click.exceptions import UsageError

_GIVEN: ContextVar[Mapping[str, str]] = ContextVar("given", default={})  # noqa: B039 - never changed
HEADINGS = {"Usage": "사용법", "Arguments": "인자", "Options": "옵션", "Commands": "명령"}
REMARKS = {"default: ": "기본값: ", "required": "필수"}
INDENT, GAP = 2, 2
MAX_WIDTH = 80  # cells
MAX_NAME_WIDTH = 28  # cells; the help of a longer option begins on the next line


class Verb(TyperCommand):
    """A command whose help is in `language`, and which remembers the options that were given."""

    language = "en"

    def get_help(self, ctx: Context) -> str:
        return korean_page(self, ctx) if self.language == "ko" else super().get_help(ctx)

    def invoke(self, ctx: Context) -> object:
        sources = {parameter: ctx.get_parameter_source(parameter.name or "") for parameter in self.params}
        given = {
            parameter.name or "": parameter.opts[0]
            for parameter, source in sources.items()
            if source is not None and source.name == "COMMANDLINE"
        }
        token = _GIVEN.set(given)
        try:
            return super().invoke(ctx)
        finally:
            _GIVEN.reset(token)


class Program(TyperGroup):
    """The group of all commands."""

    language = "en"

    def get_help(self, ctx: Context) -> str:
        return korean_page(self, ctx) if self.language == "ko" else super().get_help(ctx)


def set_language(program: Program, language: str) -> None:
    """Set the language of the program's help and of its commands' help."""
    for command in (program, *program.commands.values()):
        if isinstance(command, Verb | Program):
            command.language = language


def show_usage_error(error: UsageError, language: str) -> None:
    """Print an error in the arguments on stderr, with the usage of the command, in a language."""
    if language == "en" or error.ctx is None or isinstance(error, NoArgsIsHelpError):
        error.show()
        return
    pieces = " ".join(error.ctx.command.collect_usage_pieces(error.ctx))
    sys.stderr.write(f"{HEADINGS['Usage']}: {error.ctx.command_path} {pieces}\n")
    sys.stderr.write(f"도움말: {error.ctx.command_path} --help\n\n")
    sys.stderr.write(f"오류: {in_language(error.format_message(), language)}\n")


def refuse_given(names: Collection[str], why: str, hint: str) -> None:
    """Raise RecipeError if any of these parameters was written on the command line.

    Args:
        names: Parameters of the command's function, such as `api_key_file`.
        why: Why they have no effect here, such as "for a judge, and none is asked".
    """
    if options := [option for name, option in _GIVEN.get().items() if name in names]:
        verb = "is" if len(options) == 1 else "are"
        raise RecipeError(f"{', '.join(options)} {verb} {why}", hint)


def language_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the language that `--lang` before the command names, else Korean for a Korean locale, else English.

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


def korean_page(command: Verb | Program, ctx: Context) -> str:
    """Return the Korean help of a command or of the program."""
    return "\n".join(_korean_lines(command, ctx))


def _korean_lines(command: Verb | Program, ctx: Context) -> Iterator[str]:
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
    verbs = command.commands if isinstance(command, Program) else {}
    sections["Commands"] = [(name, korean(verb.help or "").split("\n\n")[0]) for name, verb in verbs.items()]
    for heading, rows in sections.items():
        if rows:
            yield from ("", f"{HEADINGS[heading]}:", *table(rows, width))


def korean(english: str) -> str:
    """Return the Korean help text, or the English one if there is none."""
    return in_language(english, "ko")


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
