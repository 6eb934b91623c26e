"""A stage over shards: planned shard by shard, the same order whatever number of processes reads it.

shards -> lanes, one for each row of a step -> windows of a lane's shards -> shuffled, packed -> a lane's next row

A lane is dealt its shards anew each epoch, by (seed, epoch); the rows of its windows follow one another without end.
Process r of n reads lanes r, r + n, …: no process needs to know another one's lengths, and all have equally many rows
in every step. What a lane needs to go on from is its window, and the step in which that began.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from threading import Event
from threading import Lock as Mutex

import numpy as np

from vistune.data.background import Background, Interrupted, Stopping, never, result_of
from vistune.data.loader import Place, in_order
from vistune.data.packing import Row, StagePlan, pack
from vistune.data.selection import Choice, Rows, choose_rows
from vistune.data.shards import fetch
from vistune.errors import DataError, RecipeError, TooManyRejects
from vistune.files import scratch_folder, user_cache
from vistune.processor import Processor, blank_batch, collate
from vistune.progress import Progress, no_progress
from vistune.recipe import DataSource
from vistune.types import Batch, Example, Reject

UNREAD = "unread_field"  # reason of an entry that goes to the log and is not a reject
EMPTY = 8  # windows of a lane, one after another, that may hold nothing to learn from
AHEAD = 2  # windows that a process reads at once, beside the step it is at


@dataclass(frozen=True, slots=True)
class Stream:
    """What decides a stage's rows: its shards in their order, and how they become rows.

    `window`: shards of a lane that are shuffled and packed together · `reject_limit`: share of bad rows that a process
    sets aside before it stops; without `rejects` the first one stops it.
    """

    shards: tuple[str, ...]
    lanes: int
    window: int
    steps: int
    tokens_per_row: int
    seed: int
    kinds: tuple[str, ...] | None = None
    cut: bool = True
    rejects: bool = False
    reject_limit: float = 0.0

    def __post_init__(self) -> None:
        if len(self.shards) < self.lanes:
            raise RecipeError(
                f"{len(self.shards)} shards for {self.lanes} rows a step: each row is read from shards of its own",
                "lower tokens_per_step, raise tokens_per_row, or write more, smaller shards",
            )

    def plan(self) -> StagePlan:
        """Of steps whose rows nobody knows yet; what they are made from is known."""
        return StagePlan(
            ((),) * self.steps,
            {
                "shards": len(self.shards),
                "data": self.digest,
                "rows_per_step": self.lanes,
                "window": self.window,
                "steps": self.steps,
                "tokens_per_row": self.tokens_per_row,
                "seed": self.seed,
                "kinds": repr(self.kinds),
            },
        )

    @property
    def digest(self) -> str:
        """Of the shards' names; what they hold is proved where a resumed run goes on."""
        return hashlib.sha256("\n".join(self.shards).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """At most, of all steps."""
        return self.steps * self.lanes * self.tokens_per_row

    def shards_of(self, lane: int, window: int) -> list[int]:
        """Numbers of the shards in a lane's window; no window reaches over the end of an epoch."""
        count = len(range(lane, len(self.shards), self.lanes))
        an_epoch = -(-count // self.window)
        epoch, place = divmod(window, an_epoch)
        own = _epoch_order(len(self.shards), self.seed, epoch)[lane :: self.lanes]
        chosen: list[int] = own[place * self.window : (place + 1) * self.window].tolist()
        return chosen

    def rows_of(self, lane: int, window: int, lengths: Sequence[int]) -> list[Row]:
        """The window's samples in rows, best-fit, and these in an order of chance: long rows do not come together."""
        rows = pack(range(len(lengths)), lengths, self.tokens_per_row)
        chance = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, lane, window])))
        return [rows[k] for k in chance.permutation(len(rows))]


@lru_cache(maxsize=2)
def _epoch_order(shards: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(shards)


@dataclass(frozen=True, slots=True)
class Window:
    """A window that has been read: its samples, their rows, and the folder of its files."""

    number: int
    samples: Rows
    rows: list[Row]
    digest: str
    folder: Path


def read_window(
    stream: Stream, lane: int, number: int, processor: Processor, folder: Path, over: Event | None = None
) -> tuple[Window, list[Reject], list[Reject]]:
    """(the window, its shards' bad rows, what else is to be told of its rows).

    Raises DataError for a bad shard, Interrupted soon after all is `over`.
    """
    choices: list[Choice] = []
    bad: list[Reject] = []
    notes: list[Reject] = []
    for shard in stream.shards_of(lane, number):
        name = stream.shards[shard]
        data = fetch(name, folder / str(shard), over)
        choice = choose_rows(
            DataSource(file=data.path),
            processor,
            stream.kinds,
            stream.tokens_per_row,
            progress=no_progress,
            label="",
            cut=stream.cut,
            keep=False,
            data=data,
        )
        choices.append(choice)
        bad += [fault.reject for fault in choice.faults]
        notes += choice.notes
        if choice.faults and not stream.rejects:
            raise choice.faults[0].error
    samples = Rows([(choice.index, choice.rows) for choice in choices])
    lengths = [int(length) for choice in choices for length in choice.lengths]
    content = hashlib.sha256("".join(choice.index.digest for choice in choices).encode())
    content.update(np.array(lengths).tobytes())
    rows = stream.rows_of(lane, number, lengths)
    return Window(number, samples, rows, content.hexdigest()[:16], folder), bad, notes


class Lane:
    """A lane's rows, a step after another; the next window is read while this one is learnt from.

    `read` begins to read a window, and gives what waits for it.
    """

    def __init__(self, read: Callable[[int], Callable[[], Window]], place: Place) -> None:
        self.read = read
        number, self.first, self.digest = place
        self.windows: deque[tuple[Window, int]] = deque()  # and the step in which it begins
        self.next = read(number)
        self.number = number

    def row(self, step: int) -> tuple[Window, Row]:
        """Of the step, which is the one behind the last that was asked for, or the first."""
        blind = 0
        while not self.windows or step >= self._end:
            first = self._end if self.windows else self.first
            window = self.next()
            self.number += 1
            self.next = self.read(self.number)
            if self.digest and window.digest != self.digest:
                raise DataError("the shards are not those that the run began with", "give the old ones, or start anew")
            self.digest = ""
            blind = 0 if window.rows else blind + 1
            if blind > EMPTY:
                raise DataError(f"{blind} windows in a row hold no good row", "check the shards, and stages.NAME.kinds")
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
        """Rows before the step are not asked for again."""
        while self.windows and self.windows[0][1] + len(self.windows[0][0].rows) <= step:
            shutil.rmtree(self.windows.popleft()[0].folder, ignore_errors=True)

    def place(self, step: int) -> Place:
        """Where the step's row is."""
        for window, first in self.windows:
            if first <= step < first + len(window.rows):
                return window.number, first, window.digest
        return self.number, step, ""


class StreamLoader:
    """Batches of a stage over shards, as a Loader gives them; `on_message` takes the rows that are set aside.

    `stopping`: whether the run is asked to stop; where a shard is waited for then, the steps end early.
    Raises DataError naming the shard or sample that is bad, TooManyRejects where more are than the stage allows.
    """

    def __init__(
        self,
        stream: Stream,
        processor: Processor,
        *,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
        on_message: Callable[[Sequence[Reject]], None],
        progress: Progress = no_progress,
        stopping: Stopping = never,
        pin: bool = False,
    ) -> None:
        self.stream = stream
        self.processor = processor
        self.workers = workers
        self.share = share
        self.pin = pin
        self.on_message = on_message
        self.progress = progress
        self.stopping = stopping
        self.samples = Rows([])  # of the plan: none is known before it is read
        self.places: Sequence[Place] = ()
        self.lanes: dict[int, Lane] = {}
        self.rows, self.bad = 0, 0
        self.unread: set[str] = set()
        self.lock = Mutex()

    def __len__(self) -> int:
        return self.stream.steps

    def steps(self, start: int = 0) -> Generator[tuple[int, list[Batch]], None, None]:
        """(step, its rows) from `start` on, which is 0 or where `places` belong."""
        rank, ranks = self.share
        with (
            scratch_folder(user_cache() / "shards") as folder,
            Background(AHEAD, "shards") as threads,
            suppress(Interrupted),
        ):
            for number in range(rank, self.stream.lanes, ranks):
                place = self.places[number] if self.places else (0, start, "")
                self.lanes[number] = Lane(partial(self._read, threads, folder, number), place)
            with self.progress("first shards", len(self.lanes)) as advance:
                for lane in self.lanes.values():
                    lane.next()
                    advance(1)
            for step, batches in in_order(self._tasks(start), self.workers, pin=self.pin):
                for lane in self.lanes.values():
                    lane.forget(step)
                yield step, batches

    def position(self, step: int) -> dict[int, Place]:
        """Of this process's lanes, where the step is: `places` of all lanes together let another loader go on."""
        return {number: lane.place(step) for number, lane in self.lanes.items()}

    def go_on(self, places: Sequence[Place]) -> None:
        """From where all lanes were, whichever processes read them."""
        self.places = places

    def _read(self, threads: Background, folder: Path, lane: int, number: int) -> Callable[[], Window]:
        work = partial(self._window, lane, number, folder / f"{lane}-{number}", threads.over)
        return partial(result_of, threads.submit(work), self.stopping)

    def _window(self, lane: int, number: int, folder: Path, over: Event) -> Window:
        window, bad, notes = read_window(self.stream, lane, number, self.processor, folder, over)
        self._set_aside(bad, rows=len(window.samples) + len(bad))
        notes += self._unread(window)
        if notes:
            self.on_message(notes)
        return window

    def _unread(self, window: Window) -> list[Reject]:
        """A note for each unread field that no earlier shard had."""
        fields = {field.field: field for index, _ in window.samples.parts for field in index.unread_fields}
        with self.lock:
            new = [field for name, field in fields.items() if name not in self.unread]
            self.unread |= fields.keys()
        return [Reject("", field.file, UNREAD, f"{field}; later shards are not counted") for field in new]

    def _tasks(self, start: int) -> Iterator[tuple[int, Callable[[], list[Batch]]]]:
        for step in range(start, len(self)):
            rows = {number: lane.row(step) for number, lane in self.lanes.items()}
            yield step, partial(self._load, rows)

    def _load(self, rows: dict[int, tuple[Window, Row]]) -> list[Batch]:
        side = self.processor.spec.image_side
        batches = []
        for number, (window, row) in rows.items():
            found = [pair for k in row if (pair := self._encode(window, k)) is not None]
            made = collate([e for _, e in found], [name for name, _ in found]) if found else blank_batch(side)
            batches.append(replace(made, number=number))
        even = -(-self.stream.lanes // self.share[1])
        return batches + [blank_batch(side)] * (even - len(batches))

    def _encode(self, window: Window, place: int) -> tuple[str, Example] | None:
        """None where its picture cannot be read and such a row may be set aside."""
        sample = window.samples[place]
        try:
            return sample.id, self.processor.encode(sample)
        except DataError as error:
            origin = sample.origin
            detail = f"{origin}: sample {sample.id!r}: {error.message}"
            if not self.stream.rejects:
                raise DataError(detail, error.hint) from None
            self._set_aside([Reject(sample.id, origin, "bad_image", detail)])
            return None

    def _set_aside(self, rejects: Sequence[Reject], *, rows: int = 0) -> None:
        if rejects:
            self.on_message(rejects)
        with self.lock:
            self.rows += rows
            self.bad += len(rejects)
            if rejects and self.bad > self.stream.reject_limit * self.rows:
                raise TooManyRejects(
                    f"{self.bad} of {self.rows} rows of shards rejected, last: {rejects[-1].detail}",
                    "mend the shards or raise reject_limit",
                )
