"""A stage over shards: planned shard by shard, in the same order for any number of processes.

Each packed row of a step is fed by its own *lane*, a sequence of shards. A lane reads its shards in *windows*, and
shuffles and packs the samples of one window at a time. In each epoch, shards are assigned to lanes at random by (seed,
epoch). A lane never ends: after the rows of one window come those of the next.

Process r of n reads lanes r, r + n, …: no process needs to know another one's lengths, and all have the same number of
rows in every step. To resume, a lane needs to know its current window and the step in which that window began.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from threading import Lock as Mutex

import numpy as np

from vistune.data.loader import (
    ON_DEMAND,
    Background,
    Interrupted,
    Prefetch,
    ShardCursor,
    ShouldStop,
    in_order,
    never_stop,
    wait_for,
)
from vistune.data.packing import PackedRow
from vistune.data.samples import SampleSequence
from vistune.data.selection import Selection, SelectionRules, remarks_on_pairs, select_records
from vistune.data.shards import ShardStream, fetch_shard
from vistune.errors import DataError, TooManyRejects
from vistune.files import scratch_folder, user_cache
from vistune.processor import Processor, blank_batch, collate
from vistune.progress import Progress, no_progress
from vistune.recipe import DataSource
from vistune.types import Batch, Example, Reject

UNREAD = "unread_field"  # reason of a log entry that is not a reject
EMPTY_WINDOWS = 8  # consecutive windows of a lane that may have no good record
THREADS = 2  # windows that a process reads ahead at the same time


@dataclass(frozen=True, slots=True)
class Window:
    """A window that has been read: its samples, their packed rows, and the folder of its files."""

    number: int
    samples: SampleSequence
    rows: list[PackedRow]
    digest: str
    folder: Path


def read_window(
    stream: ShardStream, lane: int, number: int, processor: Processor, folder: Path, over: Event | None = None
) -> tuple[Window, list[Reject], list[Reject]]:
    """Read a window; return it with the rejects of its shards, and notes on its records.

    Raises:
        DataError: A shard is bad.
        Interrupted: `over` was set.
    """
    selections: list[Selection] = []
    bad: list[Reject] = []
    notes: list[Reject] = []
    rules = SelectionRules(stream.kinds, stream.tokens_per_row, stream.cut)
    for shard in stream.shards_of(lane, number):
        name = stream.shards[shard]
        data = fetch_shard(name, folder / str(shard), over)
        selection = select_records(DataSource(file=data.path), processor, rules, keep=False, data=data)
        selections.append(selection)
        bad += [fault.reject for fault in selection.faults]
        notes += selection.notes
        if selection.faults and not stream.rejects:
            raise selection.faults[0].error
    samples = SampleSequence([(selection.index, selection.records) for selection in selections])
    lengths = [int(length) for selection in selections for length in selection.lengths]
    content = hashlib.sha256("".join(selection.index.digest for selection in selections).encode())
    content.update(np.array(lengths).tobytes())
    rows = stream.rows_of(lane, number, lengths)
    return Window(number, samples, rows, content.hexdigest()[:16], folder), bad, notes


class ShardLane:
    """The packed rows of a lane, step by step; the next window is read while the current one is used.

    Args:
        read: Starts to read a window and returns a function that waits for it.
        cursor: Where the lane starts.
    """

    def __init__(self, read: Callable[[int], Callable[[], Window]], cursor: ShardCursor) -> None:
        self.read = read
        number, self.first, self.digest = cursor
        self.windows: deque[tuple[Window, int]] = deque()  # with the step in which each begins
        self.next = read(number)
        self.number = number

    def row(self, step: int) -> tuple[Window, PackedRow]:
        """Return the lane's row for a step. Steps must be requested in order."""
        empty = 0
        while not self.windows or step >= self._end:
            first = self._end if self.windows else self.first
            window = self.next()
            self.number += 1
            self.next = self.read(self.number)
            if self.digest and window.digest != self.digest:
                raise DataError(
                    "the shards differ from those that the run began with", "restore them, or start a new run"
                )
            self.digest = ""
            empty = 0 if window.rows else empty + 1
            if empty > EMPTY_WINDOWS:
                problem = f"{empty} consecutive windows have no good record"
                raise DataError(problem, "check the shards, and stages.NAME.kinds")
            if window.rows:
                self.windows.append((window, first))
            else:
                shutil.rmtree(window.folder, ignore_errors=True)
        window, first = self.windows[-1]
        return window, window.rows[step - first]

    @property
    def _end(self) -> int:
        window, first = self.windows[-1]
        return first + len(window.rows)

    def forget(self, step: int) -> None:
        """Drop windows whose rows all belong to earlier steps."""
        while self.windows and self.windows[0][1] + len(self.windows[0][0].rows) <= step:
            shutil.rmtree(self.windows.popleft()[0].folder, ignore_errors=True)

    def cursor(self, step: int) -> ShardCursor:
        """Return the position of a step's row."""
        for window, first in self.windows:
            if first <= step < first + len(window.rows):
                return window.number, first, window.digest
        return self.number, step, ""


class ShardLoader:
    """Loads batches of a stage over shards, like `Loader`.

    Args:
        on_rejects: Called with rejected records and notes.
        should_stop: Whether the run is asked to stop; a wait for a shard then ends the steps early.

    Raises:
        DataError: A shard or sample is bad; the error names it.
        TooManyRejects: More records are bad than the stage allows.
    """

    def __init__(
        self,
        stream: ShardStream,
        processor: Processor,
        *,
        share: tuple[int, int] = (0, 1),
        on_rejects: Callable[[Sequence[Reject]], None],
        progress: Progress = no_progress,
        should_stop: ShouldStop = never_stop,
        prefetch: Prefetch = ON_DEMAND,
    ) -> None:
        self.stream = stream
        self.processor = processor
        self.share = share
        self.prefetch = prefetch
        self.on_rejects = on_rejects
        self.progress = progress
        self.should_stop = should_stop
        self.samples = SampleSequence([])  # none is known before it is read
        self.cursors: Sequence[ShardCursor] = ()
        self.lanes: dict[int, ShardLane] = {}
        self.records, self.rejected = 0, 0
        self.unread: set[str] = set()
        self.lock = Mutex()

    def __len__(self) -> int:
        return self.stream.steps

    def steps(self, start: int = 0) -> Generator[tuple[int, list[Batch]], None, None]:
        """Yield (step, its batches) from step `start` on: 0, or after `resume` the step of the cursors."""
        rank, ranks = self.share
        with (
            scratch_folder(user_cache() / "shards") as folder,
            Background(THREADS, "shards") as threads,
            suppress(Interrupted),
        ):
            for number in range(rank, self.stream.lanes, ranks):
                cursor = self.cursors[number] if self.cursors else (0, start, "")
                self.lanes[number] = ShardLane(partial(self._read, threads, folder, number), cursor)
            with self.progress("first shards", len(self.lanes)) as advance:
                for lane in self.lanes.values():
                    lane.next()
                    advance(1)
            for step, batches in in_order(self._tasks(start), self.prefetch):
                for lane in self.lanes.values():
                    lane.forget(step)
                yield step, batches

    def position(self, step: int) -> dict[int, ShardCursor]:
        """Return the cursors of this process's lanes at a step; the cursors of all lanes let another loader resume."""
        return {number: lane.cursor(step) for number, lane in self.lanes.items()}

    def resume(self, cursors: Sequence[ShardCursor]) -> None:
        """Continue from the cursors of all lanes, whichever processes read them before."""
        self.cursors = cursors

    def _read(self, threads: Background, folder: Path, lane: int, number: int) -> Callable[[], Window]:
        work = partial(self._window, lane, number, folder / f"{lane}-{number}", threads.over)
        return partial(wait_for, threads.submit(work), self.should_stop)

    def _window(self, lane: int, number: int, folder: Path, over: Event) -> Window:
        window, bad, notes = read_window(self.stream, lane, number, self.processor, folder, over)
        self._reject(bad, records=len(window.samples) + len(bad))
        notes += self._unread(window)
        if notes:
            self.on_rejects(notes)
        return window

    def _unread(self, window: Window) -> list[Reject]:
        """Return a note for each unread field, and for the rejected answers of pairs, that no earlier shard had."""
        parts = window.samples.parts
        lines = {field.field: str(field) for index, _ in parts for field in index.unread_fields}
        if pairs := [line for index, records in parts for line in remarks_on_pairs(index, records)]:
            lines["rejected"] = pairs[0]
        with self.lock:
            new = [line for name, line in lines.items() if name not in self.unread]
            self.unread |= lines.keys()
        return [Reject("", "", UNREAD, f"{line}; later shards are not counted") for line in new]

    def _tasks(self, start: int) -> Iterator[tuple[int, Callable[[], list[Batch]]]]:
        for step in range(start, len(self)):
            rows = {number: lane.row(step) for number, lane in self.lanes.items()}
            yield step, partial(self._load, rows)

    def _load(self, rows: dict[int, tuple[Window, PackedRow]]) -> list[Batch]:
        blank = blank_batch(self.processor.spec)
        batches = []
        for number, (window, row) in rows.items():
            encoded = [pair for k in row if (pair := self._encode(window, k)) is not None]
            batch = collate([e for _, e in encoded], [name for name, _ in encoded]) if encoded else blank
            batches.append(replace(batch, number=number))
        even = -(-self.stream.lanes // self.share[1])
        return batches + [blank] * (even - len(batches))

    def _encode(self, window: Window, index: int) -> tuple[str, Example] | None:
        """Encode a sample; None if an image cannot be read and bad records are skipped."""
        sample = window.samples[index]
        try:
            return sample.id, self.processor.encode(sample)
        except DataError as error:
            location = sample.origin
            detail = f"{location}: sample {sample.id!r}: {error.message}"
            if not self.stream.rejects:
                raise DataError(detail, error.hint) from None
            self._reject([Reject(sample.id, location, "bad_image", detail)])
            return None

    def _reject(self, rejects: Sequence[Reject], *, records: int = 0) -> None:
        if rejects:
            self.on_rejects(rejects)
        with self.lock:
            self.records += records
            self.rejected += len(rejects)
            if rejects and self.rejected > self.stream.reject_limit * self.records:
                raise TooManyRejects(
                    f"{self.rejected} of {self.records} records of shards rejected, last: {rejects[-1].detail}",
                    "correct the shards or raise reject_limit",
                )
