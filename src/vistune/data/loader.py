"""Planned steps as batches, in order, prepared ahead by threads; the number of threads changes nothing.

StagePlan + Samples + Processor -> (step, [Batch, …]) from any step on
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock

from torch import Tensor

from vistune.data.packing import StagePlan, deal
from vistune.data.selection import Rows
from vistune.errors import DataError
from vistune.processor import Processor, blank_batch, collate, load_tiles
from vistune.processor.processor import PixelReader
from vistune.types import Batch, Example, ImageRef, Sample, Spec

Place = tuple[int, int, str]  # of a lane of shards (stream.py): window, the step in which it begins, a hash of it
PIXEL_CACHE_BYTES = 512 * 2**20


class PixelCache:
    """The pictures' tiles read last, up to a number of bytes: small pictures are decoded once, not every epoch."""

    def __init__(self, limit: int = PIXEL_CACHE_BYTES) -> None:
        self.limit = limit
        self.held = 0
        self.tiles: OrderedDict[tuple[Path, str], Tensor] = OrderedDict()
        self.lock = Lock()

    def __call__(self, image: ImageRef, spec: Spec) -> Tensor:
        if not isinstance(image.source, Path):
            return load_tiles(image, spec)
        key = image.source, spec.image_mode  # a stage may have a mode of its own
        with self.lock:
            if (tiles := self.tiles.get(key)) is not None:
                self.tiles.move_to_end(key)
                return tiles
        tiles = load_tiles(image, spec)
        with self.lock:
            if key not in self.tiles:
                self.tiles[key] = tiles
                self.held += tiles.nbytes
            while self.held > self.limit:
                self.held -= self.tiles.popitem(last=False)[1].nbytes
        return tiles


def in_order(
    tasks: Iterable[tuple[int, Callable[[], list[Batch]]]], workers: int, *, pin: bool
) -> Generator[tuple[int, list[Batch]], None, None]:
    """What the tasks give, in their order, some of them done ahead by threads; `pin`: in memory that a GPU copies."""

    def done(task: Callable[[], list[Batch]]) -> list[Batch]:
        return [batch.pinned() for batch in task()] if pin else task()

    if workers == 0:
        for number, task in tasks:
            yield number, done(task)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    try:
        ahead: deque[tuple[int, Future[list[Batch]]]] = deque()
        for number, task in tasks:
            ahead.append((number, pool.submit(done, task)))
            if len(ahead) > workers + 1:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # a run that stops early waits for no step ahead


class Loader:
    """Batches of a stage. Raises DataError naming the sample whose picture cannot be read.

    `share` (rank, ranks): the rows that fall to one of several processes. All get equally many, so that they meet in
    every collective: where the rows do not go round, some are blank · `costs`: of each sample, by which rows are dealt;
    absent = its tokens · `pin`: for a GPU.
    """

    def __init__(
        self,
        samples: Rows,
        processor: Processor,
        plan: StagePlan,
        *,
        workers: int = 0,
        pixels: PixelReader | None = None,
        share: tuple[int, int] = (0, 1),
        costs: Sequence[float] | None = None,
        pin: bool = False,
    ) -> None:
        self.samples = samples
        self.processor = processor
        self.plan = plan
        self.workers = workers
        self.pixels = pixels or PixelCache()  # given by a run, whose stages share their pictures
        self.share = share
        self.pin = pin
        self.costs = plan.lengths if costs is None else costs

    def __len__(self) -> int:
        return len(self.plan.steps)

    def steps(self, start: int = 0) -> Generator[tuple[int, list[Batch]], None, None]:
        """(step, its rows) from `start` on."""
        yield from in_order(
            ((step, partial(self.load, step)) for step in range(start, len(self))), self.workers, pin=self.pin
        )

    def position(self, step: int) -> dict[int, Place]:
        """The plan knows where every step lies: there is nothing else to go on from."""
        return {}

    def go_on(self, places: Sequence[Place]) -> None:
        """From what `position` gave, of all processes."""

    def load(self, step: int) -> list[Batch]:
        rows = self.plan.steps[step]
        rank, ranks = self.share
        numbers = list(range(len(rows))) if ranks == 1 else deal(rows, self.costs, ranks)[rank]
        batches = [self.row(step, number) for number in numbers]
        even = -(-len(rows) // ranks)
        return batches + [blank_batch(self.processor.spec.image_side)] * (even - len(batches))

    def row(self, step: int, number: int) -> Batch:
        """One row of a step, whoever's it is."""
        places = self.plan.steps[step][number]
        samples = [self.samples[k] for k in places]
        row = collate([self._encode(sample) for sample in samples], [sample.id for sample in samples])
        return replace(row, number=number, places=tuple(places))

    def _encode(self, sample: Sample) -> Example:
        try:
            return self.processor.encode(sample, self.pixels)
        except DataError as error:
            raise DataError(f"{sample.origin}: sample {sample.id!r}: {error.message}", error.hint) from None
