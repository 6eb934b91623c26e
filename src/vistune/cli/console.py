"""Print results on stdout (for a person, or as JSON), and messages and progress bars on stderr."""

from __future__ import annotations

import json
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
from rich.text import Text

from vistune.progress import Advance

stdout = Console(highlight=False, emoji=False, markup=False)  # ids, paths and answers may contain brackets
stderr = Console(stderr=True, highlight=False, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]


def print_json(value: Any) -> None:
    """Print a value as one indented JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def count_of(number: int, noun: str) -> str:
    """Format a count with its noun: "1 row", "1,200 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_message(message: str) -> None:
    """Print a message on stderr, above a progress bar that is running."""
    stderr.print(message, soft_wrap=True, markup=False)


class Rate(ProgressColumn):
    """Steps per second, or seconds per step. Empty during the first second."""

    def render(self, task: Task) -> Text:
        took = task.finished_time if task.finished else task.elapsed
        speed = (task.finished_speed or task.speed) if took and took >= 1 else None
        rate = "" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        return Text(rate, style="cyan")


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Advance]:
    """Show a progress bar on stderr: count, rate, remaining time, and a note such as the loss."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr) as progress:
        task = progress.add_task(label, total=total, note="")

        def advance(count: int = 1, note: str = "", total: int | None = None) -> None:
            progress.update(task, advance=count, total=total)
            if note:
                progress.update(task, note=note)

        yield advance
