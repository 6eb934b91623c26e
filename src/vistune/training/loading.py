"""Make the loader of a stage: images as pixels or cached features, or shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vistune.data import UNREAD, Loader, PixelCache, ShardCursor, ShardLoader, ShouldStop, never_stop
from vistune.data.stages import PlannedStage
from vistune.model import VisionLanguageModel
from vistune.planner.load import sample_sizes
from vistune.planner.work import work_of_model
from vistune.progress import OnMessage, Progress
from vistune.training.distributed.world import World
from vistune.training.features import features_of
from vistune.types import Reject


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How a run reads its stages.

    Attributes:
        workers: Threads that prepare batches.
        pixels: Images that earlier stages have read.
        out: Run folder, where rejected rows of shards are listed.
        stopping: Tells whether the run is asked to stop.
    """

    workers: int
    pixels: PixelCache
    out: Path
    on_message: OnMessage
    progress: Progress
    stopping: ShouldStop = never_stop


def make_loader(
    planned: PlannedStage, model: VisionLanguageModel, world: World, options: LoaderOptions
) -> Loader | ShardLoader:
    """Make the loader of this process's share of a stage.

    Raises Stopped if the run is asked to stop while the tower's features are computed.
    """
    share, pin = (world.rank, world.size), world.device.startswith("cuda")
    if planned.stream is not None:
        return ShardLoader(
            planned.stream,
            planned.processor,
            workers=options.workers,
            share=share,
            on_rejects=_list_rejects(world, options),
            progress=options.progress,
            should_stop=options.stopping,
            pin=pin,
        )
    features = features_of(
        planned,
        model,
        world,
        on_message=options.on_message,
        progress=options.progress,
        stopping=options.stopping,
    )
    costs = None
    if world.size > 1:
        sizes = sample_sizes(planned)
        work = work_of_model(model)
        costs = work.of_samples(sizes.tokens, sizes.supervised, sizes.tiles, cached=features is not None).tolist()
    return Loader(
        planned.samples,
        planned.processor,
        planned.plan,
        workers=options.workers,
        pixels=features or options.pixels,
        share=share,
        pin=pin,
        costs=costs,
    )


def _list_rejects(world: World, options: LoaderOptions) -> Callable[[Sequence[Reject]], None]:
    """Return a function that lists rejected rows of shards in a file of this process; a resumed run may repeat some."""

    def write(rejects: Sequence[Reject]) -> None:
        for reject in rejects:
            if reject.reason == UNREAD and world.is_first:
                options.on_message(reject.detail)
        lines = [asdict(reject) for reject in rejects if reject.reason != UNREAD]
        with open(options.out / f"rejects-{world.rank}.jsonl", "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    return write


def positions_at(loader: Loader | ShardLoader, step: int, world: World) -> list[ShardCursor]:
    """Return where all lanes are at a step, whichever process reads them; all processes must call it."""
    if not isinstance(loader, ShardLoader):
        return []
    by_lane = {
        lane: (window, first, digest)
        for text in world.gather_text(json.dumps(list(loader.position(step).items())))
        for lane, (window, first, digest) in json.loads(text)
    }
    return [by_lane[lane] for lane in sorted(by_lane)]
