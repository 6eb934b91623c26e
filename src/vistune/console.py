"""What a person sees: results on stdout, progress bars with rate and time left on stderr.

A workflow asks `watch(label, total)` for a bar and is given `advance(count, note, total)`, the last where what was a
guess is known; without a console it is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

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

Advance = Callable[..., None]
Watch = Callable[[str, int], AbstractContextManager[Advance]]

stderr = Console(stderr=True, highlight=False, emoji=False)


class Rate(ProgressColumn):
    """Steps a second, or seconds a step; less than a second tells neither."""

    def render(self, task: Task) -> Text:
        took = task.finished_time if task.finished else task.elapsed
        speed = (task.finished_speed or task.speed) if took and took >= 1 else None
        words = "" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        return Text(words, style="cyan")


def tell(words: str) -> None:
    """Words for a person, on stderr, above a bar that is running."""
    stderr.print(words, soft_wrap=True, markup=False)


@contextmanager
def watch(label: str, total: int) -> Iterator[Advance]:
    """A bar on stderr: done, rate, time gone and left, and a note such as the loss."""
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


@contextmanager
def watch_bytes(watch: Watch, label: str, size: int) -> Iterator[Callable[[float], None]]:
    """A bar of `size` bytes in the unit that fits them; is told megabytes, full when the block ends."""
    unit, scale = next((name, scale) for name, scale in (("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
                       if size >= 10 * scale or scale == 1.0)  # fmt: skip
    total, read, shown = round(size / scale), 0.0, 0
    with watch(f"{label}, {unit}", total) as advance:

        def tell(megabytes: float) -> None:
            nonlocal read, shown
            read = min(read + megabytes * 1e6 / scale, total)
            advance(int(read) - shown)
            shown = int(read)

        yield tell
        advance(total - shown)


@contextmanager
def silent(label: str, total: int) -> Iterator[Advance]:
    """No bar: for calls from Python and for tests."""

    def advance(count: int = 1, note: str = "", total: int | None = None) -> None:
        pass

    yield advance
