"""What a stage's steps are read by: pictures as pixels or kept features, or shards; and where all processes are in it.

Planned + World -> Loader | StreamLoader -> the places of all lanes, for a checkpoint
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vistune.data import UNREAD, Loader, PixelCache, ShardCursor, ShardLoader, ShouldStop, never_stop
from vistune.data.stages import PlannedStage
from vistune.model import VisionLanguageModel
from vistune.planner.flops import needed_by
from vistune.planner.forecast import columns_of
from vistune.progress import OnMessage, Progress
from vistune.training.distributed.parallel import World
from vistune.training.features import features_of
from vistune.types import Reject


def loader_of(
    planned: PlannedStage,
    model: VisionLanguageModel,
    world: World,
    *,
    workers: int,
    pixels: PixelCache,
    out: Path,
    on_message: OnMessage,
    progress: Progress,
    stopping: ShouldStop = never_stop,
) -> Loader | ShardLoader:
    """Of this process's share. `pixels`: of pictures read before · `out`: where bad rows of shards are noted.

    Raises Stopped where the run is asked to stop while a tower's features are computed.
    """
    share, pin = (world.rank, world.size), world.device.startswith("cuda")
    if planned.stream is None:
        kept = features_of(planned, model, world, on_message=on_message, progress=progress, stopping=stopping)
        needed = needed_by(model)
        return Loader(
            planned.samples,
            planned.processor,
            planned.plan,
            workers=workers,
            pixels=kept or pixels,
            share=share,
            pin=pin,
            costs=needed.of_samples(*columns_of(planned), seen=kept is None).tolist() if world.size > 1 else None,
        )

    def note(rejects: Sequence[Reject]) -> None:
        """Found when a shard is read: each process notes its own, a resumed run perhaps again."""
        for reject in rejects:
            if reject.reason == UNREAD and world.is_first:
                on_message(reject.detail)
        listed = [asdict(reject) for reject in rejects if reject.reason != UNREAD]
        with open(out / f"rejects-{world.rank}.jsonl", "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in listed))

    return ShardLoader(
        planned.stream,
        planned.processor,
        workers=workers,
        share=share,
        on_rejects=note,
        progress=progress,
        should_stop=stopping,
        pin=pin,
    )


def places_at(loader: Loader | ShardLoader, step: int, world: World) -> list[ShardCursor]:
    """Where all lanes are at the step, whichever process reads them; all processes must call it."""
    own = loader.position(step)
    found = {
        number: (window, first, digest)
        for told in (world.listed(json.dumps(list(own.items()))) if isinstance(loader, ShardLoader) else ())
        for number, (window, first, digest) in json.loads(told)
    }
    return [found[number] for number in sorted(found)]
