"""The help pages, in English and Korean: whole words, at most 80 cells wide, no description cut.

A Korean letter takes two cells in a terminal.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from vistune.translations import in_language

if TYPE_CHECKING:
    from typer._click.core import Context

INDENT, GAP = 2, 2
MAX_WIDTH = 80  # cells
MAX_NAME_WIDTH = 28  # cells; the help of a longer option begins on the next line
SHARED_OPTIONS = ("language", "log_format", "quiet", "verbose", "help")
OPTIONS, EVERY = "Options", "Options of every command"
WORDS = {  # Korean
    "Usage": "사용법", "Arguments": "인자", OPTIONS: "옵션", EVERY: "모든 명령의 옵션", "Commands": "명령",
    "Data": "데이터", "Train": "학습", "Evaluate": "평가", "Use": "사용", "Share": "공유", "Exit codes": "종료 코드",
    "options": "옵션", "default: {}": "기본값: {}", "required": "필수", "{} or more": "{} 이상", "{} to {}": "{}~{}",
    "TEXT": "TEXT", "`vistune COMMAND --help` explains a command.": "명령마다 도움말이 있습니다: vistune 명령 --help",
}  # fmt: skip
METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
EXIT_CODES = {
    0: "done",
    2: "a fault in the command, the recipe or a file; the message says what to do",
    3: "too many samples rejected",
    4: "budget or quota spent",
    5: "a remote service stayed down",
    75: "stopped on request, state saved: run the same command again, train with --resume",
    130: "stopped by Ctrl-C, nothing to save",
    1: "a bug in vistune, or a difference found by selftest",
}


def page(command: TyperCommand | TyperGroup, ctx: Context, language: str) -> str:
    """Return the help of a command, or of the program with its commands by group."""
    width = page_width(ctx)
    lines = [*usage(command, ctx, width, language), ""]
    for paragraph in translated(command.help or "", language).split("\n\n"):
        lines += [*(" " * INDENT + line for line in wrapped(paragraph, width - INDENT)), ""]
    for heading, rows in sections(command, ctx, language).items():
        if rows:
            lines += [f"{word(heading, language)}:", *table(rows, width), ""]
    if isinstance(command, TyperGroup):
        lines.append(word("`vistune COMMAND --help` explains a command.", language))
    return "\n".join(lines).rstrip()


def page_width(ctx: Context) -> int:
    """Return the width of a help page: the terminal's, at most 80."""
    columns = os.environ.get("COLUMNS", "")
    return max(min(int(columns) if columns.isdigit() else MAX_WIDTH, ctx.terminal_width or MAX_WIDTH, MAX_WIDTH), 40)


def usage(command: TyperCommand | TyperGroup, ctx: Context, width: int, language: str) -> Iterator[str]:
    """Yield the lines that show how a command is called: arguments, required options, other options."""
    parts = []
    for parameter in command.params:
        if isinstance(parameter, TyperArgument):
            name = argument_name(parameter)
            parts.append(name if parameter.required else f"[{name}]")
        elif isinstance(parameter, TyperOption) and parameter.required:
            parts.append(option_name(parameter, parameter.opts[-1:]))
    if isinstance(command, TyperGroup):
        parts.append("COMMAND …")
    parts.append(f"[{word('options', language)}]")
    start = f"{word('Usage', language)}: {ctx.command_path} "
    for number, line in enumerate(wrapped(" ".join(parts), width - cells(start))):
        yield (start if number == 0 else " " * cells(start)) + line


def sections(command: TyperCommand | TyperGroup, ctx: Context, language: str) -> dict[str, list[tuple[str, str]]]:
    """Return the rows (name, text) of each section of a help page."""
    found: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    if isinstance(command, TyperGroup):
        for name, verb in command.commands.items():
            about = translated(verb.help or "", language).split("\n\n")[0]
            found.setdefault(getattr(verb, "rich_help_panel", None) or "Commands", []).append((name, about))
    found |= {OPTIONS: [], EVERY: []}
    for parameter in command.get_params(ctx):
        about = " ".join(
            (translated(getattr(parameter, "help", None) or "", language), remarks(parameter, ctx, language))
        )
        if isinstance(parameter, TyperArgument):
            found["Arguments"].append((argument_name(parameter), about))
        elif isinstance(parameter, TyperOption) and not parameter.hidden:
            heading = EVERY if parameter.name in SHARED_OPTIONS else OPTIONS
            found[heading].append((option_name(parameter, parameter.opts), about))
    if isinstance(command, TyperGroup):
        found["Exit codes"] = [(str(code), translated(about, language)) for code, about in EXIT_CODES.items()]
    return found


def argument_name(parameter: TyperArgument) -> str:
    """Return how help names an argument: `DATA`, or `DATA …` for several."""
    name = parameter.metavar or (parameter.name or "").upper().rstrip("_")
    return f"{name} …" if parameter.nargs != 1 else name


def option_name(parameter: TyperOption, names: Sequence[str]) -> str:
    """Return how help names an option, with the kind of its value."""
    names = [*names, *parameter.secondary_opts]
    listed = ", ".join(sorted(names, key=lambda name: name.startswith("--")))
    if parameter.is_flag:
        return listed
    annotation = parameter.type_descriptor.annotation
    kinds: tuple[Any, ...] = get_args(annotation) or (annotation,)  # that of a list is the kind of its items
    return f"{listed} {parameter.metavar or METAVARS.get(kinds[0], 'TEXT')}"


def remarks(parameter: object, ctx: Context, language: str) -> str:
    """Return what a value must be and its default, such as `[default: 1000; 1 or more]`."""
    if not isinstance(parameter, TyperArgument | TyperOption):
        return ""
    notes = []
    default = parameter._extract_default_help_str(ctx=ctx)
    is_shown = default is not None and bool(parameter.show_default) and not (getattr(parameter, "is_flag", False))
    if is_shown and str(default) not in ("", "[]", "()"):
        notes.append(word("default: {}", language).format(default))
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if low is not None and not getattr(parameter, "count", False):
        notes.append(word("{} or more" if high is None else "{} to {}", language).format(low, high))
    if parameter.required:
        notes.append(word("required", language))
    return f"[{'; '.join(notes)}]" if notes else ""


def word(english: str, language: str) -> str:
    """Return a word of the help pages themselves."""
    return WORDS.get(english, english) if language == "ko" else english


def translated(english: str, language: str) -> str:
    """Return a help text in a language, or the English one if there is no translation."""
    return in_language(english, language)


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
    for part in text.split():
        if line and cells(line) + 1 + cells(part) > width:
            yield line
            line = ""
        line = f"{line} {part}" if line else part
    if line:
        yield line


def cells(text: str) -> int:
    """Return the width of a text in a terminal; a Korean letter takes two cells."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
