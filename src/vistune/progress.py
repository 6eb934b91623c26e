"""Progress of long work: a function opens a task by label and total, and advances it.

A command shows bars or log lines (`vistune.cli.progress`); calls from Python and tests are silent by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

# advance(count=1, note="", total=None, event="", values={}). `total` replaces a total that was a guess. `note` is for
# people; `values` has the same as numbers (the loss of a step, …). `event` names something that happened in the task:
# `resumed` (`count` steps were done earlier), `validation` or `checkpoint`, with its `values`.
Advance = Callable[..., None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]  # progress(label, total)
OnMessage = Callable[[str], None]  # takes a message for the user


def ignore_message(message: str) -> None:
    """Drop a message."""


def ignore_advance(count: int = 1, note: str = "", total: int | None = None, **event: object) -> None:
    """Show nothing."""


@contextmanager
def no_progress(label: str, total: int) -> Iterator[Advance]:
    """Show nothing."""
    yield ignore_advance


@contextmanager
def byte_progress(progress: Progress, label: str, size: int) -> Iterator[Callable[[float], None]]:
    """Show a bar of `size` bytes in MB, kB or bytes; the yielded function takes megabytes read so far.

    The bar is full when the block ends.
    """
    units = (("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
    unit, scale = next((unit, scale) for unit, scale in units if size >= 10 * scale or scale == 1.0)
    total, read, shown = round(size / scale), 0.0, 0
    with progress(f"{label}, {unit}", total) as advance:

        def advance_megabytes(megabytes: float) -> None:
            nonlocal read, shown
            read = min(read + megabytes * 1e6 / scale, total)
            advance(int(read) - shown)
            shown = int(read)

        yield advance_megabytes
        advance(total - shown)
