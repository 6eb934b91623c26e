"""Load planned steps as batches, in order, ahead of time in threads. The number of threads changes no result.

StagePlan + Samples + Processor -> (step, [Batch, …]), starting at any step

A thread that waits for a network cannot be ended. The threads of `Background` do not keep the process alive when a run
is asked to stop.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

from torch import Tensor

from vistune.data.packing import StagePlan, deal
from vistune.data.samples import SampleSequence
from vistune.errors import DataError, RecipeError
from vistune.processor import Processor, blank_batch, collate, encode_pair, load_tiles
from vistune.processor.processor import PixelReader
from vistune.types import Batch, Example, ImageRef, Sample, Spec

T = TypeVar("T")
ShardCursor = tuple[int, int, str]  # position in a lane of shards: window, the step in which it begins, its digest
PIXEL_CACHE_BYTES = 512 * 2**20
ShouldStop = Callable[[], bool]  # whether the run is asked to stop

POLL_SECONDS = 0.2  # between two questions whether to stop
JOIN_SECONDS = 1.0  # for all threads together to end


class PixelCache:
    """Keeps the image tiles read last, up to `limit` bytes: small images are decoded once, not every epoch."""

    def __init__(self, limit: int = PIXEL_CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self.tiles: OrderedDict[tuple[Path, str], Tensor] = OrderedDict()
        self.lock = threading.Lock()

    def __call__(self, image: ImageRef, spec: Spec) -> Tensor:
        if not isinstance(image.source, Path):
            return load_tiles(image, spec)
        key = image.source, spec.image_mode  # a stage may have its own mode
        with self.lock:
            if (tiles := self.tiles.get(key)) is not None:
                self.tiles.move_to_end(key)
                return tiles
        tiles = load_tiles(image, spec)
        with self.lock:
            if key not in self.tiles:
                self.tiles[key] = tiles
                self.bytes += tiles.nbytes
            while self.bytes > self.limit:
                self.bytes -= self.tiles.popitem(last=False)[1].nbytes
        return tiles


@dataclass(frozen=True, slots=True)
class Prefetch:
    """How batches are prepared before they are needed.

    Attributes:
        workers: Threads that work ahead; with 0, a batch is prepared when it is needed.
        pin: Whether batches are put into memory that a GPU copies asynchronously.
    """

    workers: int = 0
    pin: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise RecipeError(f"workers: {self.workers} is negative", "give 0 or more")


def in_order(
    tasks: Iterable[tuple[int, Callable[[], list[Batch]]]], prefetch: Prefetch
) -> Generator[tuple[int, list[Batch]], None, None]:
    """Yield the results of tasks in order, prepared ahead in threads."""

    def run(task: Callable[[], list[Batch]]) -> list[Batch]:
        return [batch.pinned() for batch in task()] if prefetch.pin else task()

    if prefetch.workers == 0:
        for number, task in tasks:
            yield number, run(task)
        return
    pool = ThreadPoolExecutor(prefetch.workers, thread_name_prefix="loader")
    try:
        ahead: deque[tuple[int, Future[list[Batch]]]] = deque()
        for number, task in tasks:
            ahead.append((number, pool.submit(run, task)))
            if len(ahead) > prefetch.workers + 1:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # a run that stops early does not wait for steps ahead


ON_DEMAND = Prefetch()


class Loader:
    """Loads the packed rows of a stage's steps as batches.

    Args:
        pixels: Reads an image's tiles; a run gives one cache to all its stages.
        share: (rank, ranks) of this process. All processes get the same number of rows, so that all take part in
            every collective operation; if the rows do not divide evenly, some are blank.
        costs: Work per sample, by which rows are distributed; by default its tokens.
        pair_documents: For preference pairs, the documents of a pair, 2 or 3; else 0.

    Attributes:
        reference: (samples, documents) fp32, the reference model's log-probability of each answer, once it is known.

    Raises:
        DataError: An image cannot be read; the error names the sample.
    """

    def __init__(
        self,
        samples: SampleSequence,
        processor: Processor,
        plan: StagePlan,
        *,
        pixels: PixelReader | None = None,
        share: tuple[int, int] = (0, 1),
        costs: Sequence[float] | None = None,
        prefetch: Prefetch = ON_DEMAND,
        pair_documents: int = 0,
    ) -> None:
        self.samples = samples
        self.pair_documents = pair_documents
        self.reference: Tensor | None = None
        self.processor = processor
        self.plan = plan
        self.pixels = pixels or PixelCache()
        self.share = share
        self.prefetch = prefetch
        self.costs = plan.lengths if costs is None else costs

    def __len__(self) -> int:
        return len(self.plan.steps)

    def steps(self, start: int = 0) -> Generator[tuple[int, list[Batch]], None, None]:
        """Yield (step, its batches) from `start` on."""
        yield from in_order(((step, partial(self.load, step)) for step in range(start, len(self))), self.prefetch)

    def position(self, step: int) -> dict[int, ShardCursor]:
        """Return an empty dict: every step is in the plan."""
        return {}

    def resume(self, cursors: Sequence[ShardCursor]) -> None:
        """Do nothing: a planned stage needs no positions to resume (see `ShardLoader.resume`)."""

    def load(self, step: int) -> list[Batch]:
        rows = self.plan.steps[step]
        rank, ranks = self.share
        numbers = list(range(len(rows))) if ranks == 1 else deal(rows, self.costs, ranks)[rank]
        batches = [self.row(step, number) for number in numbers]
        even = -(-len(rows) // ranks)
        return batches + [blank_batch(self.processor.spec)] * (even - len(batches))

    def row(self, step: int, number: int) -> Batch:
        """Load one packed row of a step, whichever process it belongs to."""
        indices = self.plan.steps[step][number]
        samples = [self.samples[k] for k in indices]
        row = collate([self._encode(sample) for sample in samples], [sample.id for sample in samples])
        reference = None if self.reference is None else self.reference[list(indices)].flatten()
        return replace(row, number=number, places=tuple(indices), reference=reference)

    def _encode(self, sample: Sample) -> Example:
        try:
            if self.pair_documents:
                return encode_pair(self.processor, sample, self.pixels, damaged=self.pair_documents > 2)
            return self.processor.encode(sample, self.pixels)
        except DataError as error:
            raise DataError(f"{sample.origin}: sample {sample.id!r}: {error.message}", error.hint) from None


class Interrupted(Exception):
    """A wait, or work in the background, ended because the run is asked to stop."""


def never_stop() -> bool:
    return False


def wait_for(future: Future[T], should_stop: ShouldStop) -> T:
    """Return a future's result or raise its error. Raises Interrupted if the run is asked to stop before."""
    while not wait([future], timeout=POLL_SECONDS).done:
        if should_stop():
            raise Interrupted
    return future.result()


class Background:
    """A pool of daemon threads. At the end of the block `over` is set, and the threads are waited for only briefly."""

    def __init__(self, threads: int, name: str) -> None:
        self.over = threading.Event()
        self.calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self.threads:
            thread.start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # raised again where the result is asked for
                future.set_exception(error)

        self.calls.put(run)
        return future

    def _work(self) -> None:
        while (call := self.calls.get()) is not None and not self.over.is_set():
            call()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        for _ in self.threads:
            self.calls.put(None)
        for thread in self.threads:
            thread.join(JOIN_SECONDS / len(self.threads))
