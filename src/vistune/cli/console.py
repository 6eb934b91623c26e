"""The terminal: messages and progress bars on stderr; results are printed by `vistune.cli.output`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

stderr = Console(stderr=True, highlight=False, emoji=False)


class Rate(ProgressColumn):
    """Steps per second, or seconds per step; nothing before the first second has passed."""

    def render(self, task: Task) -> Text:
        took = task.finished_time if task.finished else task.elapsed
        speed = (task.finished_speed or task.speed) if took and took >= 1 else None
        rate = "" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        return Text(rate, style="cyan")


def print_message(message: str) -> None:
    """Print a message on stderr, above a progress bar that is running."""
    stderr.print(message, soft_wrap=True, markup=False)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Advance]:
    """Show a bar on stderr: count, rate, time used and left, and a note such as the loss."""
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
