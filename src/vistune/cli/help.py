"""The help in the reader's language.

arguments, locale -> a language · English help texts -> korean.json -> a page whose columns fit wide letters
A text without a translation stays English; a test holds that there is none.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from vistune.cli.options import remember_given
from vistune.errors import RecipeError
from vistune.files import read_json

LANGUAGES = ("en", "ko")
HEADINGS = {"Usage": "사용법", "Arguments": "인자", "Options": "옵션", "Commands": "명령"}
REMARKS = {"default: ": "기본값: ", "required": "필수"}
INDENT, GAP = 2, 2
WIDEST = 80  # cells


def language_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What `--lang` before the verb says, else the locale; English unless that is Korean.

    Raises RecipeError for a language that the help does not speak.
    """
    for number, word in enumerate(arguments):
        if not word.startswith("-"):
            break
        name, _, value = word.partition("=")
        if name == "--lang":
            wanted = value or next(iter(arguments[number + 1 :]), "")
            if wanted not in LANGUAGES:
                raise RecipeError(f"--lang {wanted!r}: the help does not speak it", f"use {' or '.join(LANGUAGES)}")
            return wanted
    locale = next((found for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (found := environment.get(name))), "")
    return "ko" if locale.lower().split(".")[0].split("_")[0] == "ko" else "en"


def spoken() -> str:
    """The language that this command was asked to speak."""
    return language_of(sys.argv[1:], os.environ)


@cache
def korean() -> Mapping[str, str]:
    """English help text -> Korean."""
    texts: Mapping[str, str] = read_json(Path(__file__).with_name("korean.json"))
    return texts


class Verb(TyperCommand):
    """A command whose help `speak` can translate, and that knows which options were given."""

    language = "en"

    def get_help(self, ctx: Any) -> str:
        return super().get_help(ctx) if self.language == "en" else "\n".join(page(self, ctx))

    def invoke(self, ctx: Any) -> Any:
        with remember_given(ctx):
            return super().invoke(ctx)


class Program(TyperGroup):
    """All verbs; likewise."""

    language = "en"

    def get_help(self, ctx: Any) -> str:
        return super().get_help(ctx) if self.language == "en" else "\n".join(page(self, ctx))


def speak(program: Any, language: str) -> None:
    """Have the program and its verbs give their help in a language."""
    for command in (program, *program.commands.values()):
        command.language = language


def page(command: Any, ctx: Any) -> Iterator[str]:
    """The Korean help of a verb, or of the program, line by line."""
    wide = min(int(os.environ.get("COLUMNS") or WIDEST), ctx.terminal_width or WIDEST)
    yield f"{HEADINGS['Usage']}: {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}"
    for paragraph in translated(command.help or "").split("\n\n"):
        yield ""
        yield from (" " * INDENT + line for line in wrapped(paragraph, wide - INDENT))
    records = {"Arguments": [], "Options": []}  # type: dict[str, list[tuple[str, str]]]
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record:
            name, about = record
            english = getattr(parameter, "help", None) or ""
            remarks = about.removeprefix(english)
            for word, said in REMARKS.items():
                remarks = remarks.replace(word, said)
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            records[kind].append((name, translated(english) + remarks))
    verbs = getattr(command, "commands", {})
    records["Commands"] = [(name, translated(verb.help or "").split("\n\n")[0]) for name, verb in verbs.items()]
    for heading, rows in records.items():
        if rows:
            yield from ("", f"{HEADINGS[heading]}:", *table(rows, wide))


def translated(text: str) -> str:
    return korean().get(text, text)


def table(rows: Sequence[tuple[str, str]], wide: int) -> Iterator[str]:
    """Names on the left, what they mean beside them; below a name that is too long."""
    fitting = [cells(name) for name, _ in rows if cells(name) <= 28]
    left = INDENT + max(fitting, default=0) + GAP
    for name, about in rows:
        lines = list(wrapped(about, max(wide - left, 20)))
        first = " " * INDENT + name
        if cells(first) + GAP > left:
            yield first
        elif lines:
            yield first + " " * (left - cells(first)) + lines.pop(0)
        yield from (" " * left + line for line in lines)


def wrapped(text: str, wide: int) -> Iterator[str]:
    """Lines of at most `wide` cells, broken at blanks where there are some."""
    line = ""
    for word in text.split():
        if line and cells(line) + 1 + cells(word) > wide:
            yield line
            line = ""
        line = f"{line} {word}" if line else word
    if line:
        yield line


def cells(text: str) -> int:
    """How wide a terminal shows it: Korean letters take two cells."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
