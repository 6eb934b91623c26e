"""Show the progress of a task on stderr: a bar on a terminal; elsewhere a line every 30 seconds and at each event.

A task that took less than a second, and reported no event or values, stays silent. With `--log-format json` each line
is a JSON object: event (start, progress, resumed, validation, checkpoint, end, stopped), task, done, total, seconds,
seconds_left, and the values of the task's last step.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from vistune.cli import log
from vistune.cli.settings import CURRENT, is_first_process, is_interactive
from vistune.progress import Advance, no_progress
from vistune.translations import in_language

SECONDS_PER_LINE = 30.0
SILENT_SECONDS = 1.0  # a shorter task prints nothing, unless it reports events or values
RATE_STEPS = 200  # the latest advances, which the remaining time is estimated from
VALUES = {  # of a training step, in the order in which they are shown
    "loss": "loss {:.3f}",
    "learning_rate": "learning rate {:.1e}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "memory_gb": "{:.1f} GB",
    "supervised_share": "{:.0%} supervised",
    "mfu": "MFU {:.0%}",
}
GREY_LOSS = "validation loss without images"
EVENT_VALUES = {
    "checkpoint": "checkpoint",
    "validation_loss": "validation loss",
}


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Advance]:
    """Show a task as the settings of the command line say: bar, lines, JSON lines or nothing.

    Under torchrun, only the first process shows progress: the others are at the same step.
    """
    settings = CURRENT.get()
    if settings.level == "quiet" or not is_first_process():
        shown = no_progress(label, total)
    elif settings.log_format == "text" and is_interactive():
        shown = terminal_bar(label, total)
    else:
        shown = progress_lines(label, total)
    with shown as advance:
        yield advance


@contextmanager
def progress_lines(label: str, total: int, *, every: float = SECONDS_PER_LINE) -> Iterator[Advance]:
    """Print a line every 30 seconds, also if the work does not advance, and a line for each event."""
    task = LoggedTask(label, total, CURRENT.get().language)
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(every):
            task.report("progress")

    thread = threading.Thread(target=tick, name=f"progress of {label}", daemon=True)
    if CURRENT.get().log_format == "json":
        task.report("start")
    thread.start()
    try:
        yield task.advance
    except BaseException:
        ended.set()
        task.end("stopped")
        raise
    ended.set()
    task.end("end")


class LoggedTask:
    """A task whose progress is printed as lines. Threads may advance it."""

    def __init__(
        self, label: str, total: int, language: str, on_advance: Callable[[LoggedTask], None] | None = None
    ) -> None:
        self.label, self.total, self.language, self.on_advance = label, total, language, on_advance
        self.title = in_language(label, language)
        self.done, self.note = 0, ""
        self.values: Mapping[str, float] = {}
        self.began = time.monotonic()
        self.steps: deque[tuple[float, int]] = deque([(self.began, 0)], maxlen=RATE_STEPS)
        self.is_shown = False
        self.lock = threading.Lock()

    def advance(
        self,
        count: int = 1,
        note: str = "",
        total: int | None = None,
        *,
        event: str = "",
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Count steps; print a line if an event is named."""
        with self.lock:
            self.done += count
            self.total = self.total if total is None else total
            self.note = note or self.note
            if event == "resumed":
                self.steps.clear()
            if count:
                self.steps.append((time.monotonic(), self.done))
            if values and not event:
                self.values = values
            if self.on_advance is not None:
                self.on_advance(self)
        if event:
            self.report(event, values or {})

    def seconds_left(self) -> float | None:
        """Estimate the remaining time from the latest steps; None if nothing is known yet."""
        (first, done_at_first), done = self.steps[0] if self.steps else (0.0, 0), self.done
        if done <= done_at_first or not self.total:
            return None
        return max(self.total - done, 0) * (time.monotonic() - first) / (done - done_at_first)

    def report(self, event: str, values: Mapping[str, object] | None = None) -> None:
        """Print a line about the task."""
        with self.lock:
            left = self.seconds_left() if event == "progress" else None
            seconds = time.monotonic() - self.began
            known = {"task": self.label, "done": self.done, "total": self.total or None, "seconds": round(seconds, 1)}
            known |= {"seconds_left": round(left)} if left is not None else {}
            known |= {"note": self.note} if self.note and not self.values else {}
            self.is_shown = self.is_shown or event != "start"
            text = self.text(event, values or {}, seconds, left)
            log.log.info("%s", text, extra={"event": event, "values": {**known, **self.values, **(values or {})}})

    def end(self, event: str) -> None:
        """Print that the task ended, unless it was short and silent."""
        is_long = time.monotonic() - self.began >= SILENT_SECONDS
        if is_long or self.is_shown or self.values or CURRENT.get().log_format == "json":
            self.report(event)

    def text(self, event: str, values: Mapping[str, object], seconds: float, left: float | None) -> str:
        """Describe the task on one line."""
        took = duration(seconds, self.language)
        count = f"{self.done:,}"
        if self.total:
            count = self.phrase("{done} of {total}", done=count, total=f"{self.total:,}")
        elif not self.done:  # work that is not counted
            name = {"end": "finished in {time}", "stopped": "stopped after {time}"}.get(event, "working for {time}")
            return f"{self.title}: {self.phrase(name, time=took)}"
        match event:
            case "end":
                text = self.phrase("{count} in {time}", count=count, time=took)
            case "stopped":
                text = self.phrase("stopped at {count} after {time}", count=count, time=took)
            case "resumed":
                return f"{self.title}: {self.phrase('resumed at {count}', count=count)}"
            case "progress" | "start":
                text = count
            case _:
                texts = {self.phrase(event_value(name)): shown(value) for name, value in values.items()}
                listed = ", ".join(f"{name} {value}" for name, value in texts.items())
                return f"{self.title}: {count}, {listed}"
        note = self.newest_note()
        remaining = "" if left is None else self.phrase("{time} left", time=duration(left, self.language))
        return f"{self.title}: " + ", ".join(part for part in (text, note, remaining) if part)

    def newest_note(self) -> str:
        """Return the values of the last step, or the last note of a task without values."""
        return note_of(self.values, self.language) or self.note

    def phrase(self, template: str, **fields: object) -> str:
        """Fill a template in the user's language."""
        return log.phrase(template, self.language, **fields)


def note_of(values: Mapping[str, float], language: str) -> str:
    """Describe a step's values, in the order of `VALUES`."""
    forms = {name: log.template_in(form, language) for name, form in VALUES.items() if name in values}
    return ", ".join(form.format(values[name]) for name, form in forms.items())


def event_value(name: str) -> str:
    """Return how a line names a value of an event."""
    return EVENT_VALUES.get(name) or (GREY_LOSS if name.startswith("validation_loss_without") else name)


def shown(value: object) -> str:
    """Format the value of an event."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def duration(seconds: float, language: str) -> str:
    """Format a duration: "45 s", "12 min", "3.5 h", "2.1 d", "24 y"."""
    day = 86400
    units = (
        (730 * day, 365 * day, "{n:.0f} y"),
        (2 * day, day, "{n:.1f} d"),
        (7200, 3600, "{n:.1f} h"),
        (120, 60, "{n:.0f} min"),
        (0, 1, "{n:.0f} s"),
    )
    scale, unit = next((scale, unit) for least, scale, unit in units if seconds >= least)
    return log.phrase(unit, language, n=seconds / scale)


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


@contextmanager
def terminal_bar(label: str, total: int) -> Iterator[Advance]:
    """Show a progress bar on stderr: count, rate, remaining time, and a note such as the loss."""

    def whole() -> Column:  # rich shortens the other columns first
        return Column(no_wrap=True)

    columns = (
        TextColumn("{task.description:<14}", table_column=whole(), markup=False),
        BarColumn(bar_width=16, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        Rate(table_column=whole()),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=whole()),
        Note(),
    )
    with Bars(*columns, console=log.stderr) as bars:
        row = bars.add_task(in_language(label, CURRENT.get().language), total=total or None, note="")

        def draw(task: LoggedTask) -> None:
            bars.update(row, completed=task.done, total=task.total or None, note=task.newest_note())

        yield LoggedTask(label, total, CURRENT.get().language, draw).advance  # lines of events stay above the bar
