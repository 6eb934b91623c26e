"""Options that several commands share, and functions that print: results to stdout, messages and bars to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from vistune.cli.commands import current_language
from vistune.progress import Advance
from vistune.translations import in_language


class TranslatingConsole(Console):
    """A console that shows texts, and the texts of tables, in the user's language."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(localized, objects), **options)


def localized(shown: Any) -> Any:
    """Return a text or a table in the user's language; other objects, and texts in English, unchanged."""
    if current_language() == "en":
        return shown
    if isinstance(shown, str):
        return in_users_language(shown)
    if isinstance(shown, Text):
        text = in_users_language(shown.plain)
        return shown if text == shown.plain else Text(text)
    if isinstance(shown, Table):
        shown.title = localized(shown.title)
        for column in shown.columns:
            column.header = localized(column.header)
            column._cells = [localized(cell) for cell in column._cells]
    return shown


stdout = TranslatingConsole(highlight=False, emoji=False, markup=False)  # ids, paths, answers may contain brackets
stderr = TranslatingConsole(stderr=True, highlight=False, emoji=False)

RecipeName = Annotated[str, typer.Argument(help="Name of a built-in recipe, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe: key.path=value, for example data=FILE.")
]
# For commands that make their own data, or none.
Changes = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe: key.path=value, for example stages.tune.learn.projector=1e-4."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda. auto = a GPU if there is one.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16. auto = bf16 on a GPU, fp32 on a CPU.")]
Quantize = Annotated[int | None, typer.Option(help="Quantize the weights of the language model to 4 or 8 bits.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]


def print_json(value: object) -> None:
    """Print a value as one indented JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def print_lines(*lines: str | Text) -> None:
    """Print lines on stdout without breaking long ones."""
    for line in lines:
        stdout.print(line, soft_wrap=True)


def count_of(number: int, noun: str) -> str:
    """Format a count with its noun: "1 row", "1,200 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_message(message: str) -> None:
    """Print a message on stderr, above a progress bar that is running."""
    stderr.print(message, soft_wrap=True, markup=False)


def in_users_language(message: str) -> str:
    """Translate a message; its lines that have no translation stay English."""
    return in_language(message, current_language())


class Rate(ProgressColumn):
    """Steps per second, or seconds per step. Empty during the first second."""

    def render(self, task: Task) -> Text:
        took = task.finished_time if task.finished else task.elapsed
        speed = (task.finished_speed or task.speed) if took and took >= 1 else None
        rate = "" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        return Text(rate, style="cyan")


class Note(ProgressColumn):
    """The task's note, on one line: cut off at the width that the other columns leave."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")


def is_first_process() -> bool:
    """Return whether this is the only process or the first of torchrun's, which prints the results."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Advance]:
    """Show a progress bar on stderr: count, rate, remaining time, and a note such as the loss."""

    def whole() -> Column:  # rich shortens the other columns first
        return Column(no_wrap=True)

    columns = (
        TextColumn("{task.description:<14}", table_column=whole()),
        BarColumn(bar_width=16, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        Rate(table_column=whole()),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=whole()),
        Note(),
    )
    with Progress(*columns, console=stderr) as progress:
        task = progress.add_task(in_users_language(label), total=total, note="")

        def advance(count: int = 1, note: str = "", total: int | None = None) -> None:
            progress.update(task, advance=count, total=total)
            if note:
                progress.update(task, note=note)

        yield advance
