"""Set up a stage: its loader (images as pixels or cached features, or shards) and its compiled layers.

Only layers are compiled: all layers of a kind share one graph, and the code between them stays plain Python.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from vistune.data import UNREAD, Loader, PixelCache, Prefetch, ShardCursor, ShardLoader, ShouldStop
from vistune.data.stages import PlannedStage
from vistune.model import VisionLanguageModel
from vistune.model.language import is_quantised, unwrap
from vistune.model.trial import decoder_of
from vistune.planner.sizes import Parallelism, sample_sizes
from vistune.planner.work import work_of_model
from vistune.progress import OnMessage, Progress
from vistune.recipe import Stage
from vistune.training.distributed.world import World
from vistune.training.features import features_of
from vistune.training.trainer import Trainer
from vistune.types import Reject

# FLOPs of a stage from which on `auto` compiles: a graph takes a minute or so. The decision depends on the work only,
# not on a machine's speed at that moment, so that a resumed run decides as before.
PAYS = {"cpu": 1e15, "cuda": 3e17}


@dataclass(frozen=True, slots=True)
class StageTraining:
    """A stage that is being trained: its plan, its index in the recipe, its trainer.

    Attributes:
        bf16_parts: Parts whose frozen weights are stored in bf16.
    """

    planned: PlannedStage
    number: int
    trainer: Trainer
    parallelism: Parallelism
    bf16_parts: tuple[str, ...]

    @property
    def steps(self) -> int:
        return len(self.planned.plan.steps)

    def saves_at(self, done: int) -> bool:
        """Return whether a checkpoint is due after `done` steps."""
        save_every = self.planned.stage.save_every
        return done == self.steps or bool(save_every and done % save_every == 0)


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How a run reads its stages.

    Attributes:
        workers: Threads that prepare batches.
        pixels: Images that earlier stages have read.
        out: Run folder, where rejected rows of shards are listed.
        stopping: Returns whether the run is asked to stop.
    """

    workers: int
    pixels: PixelCache
    out: Path
    on_message: OnMessage
    progress: Progress
    stopping: ShouldStop


def make_loader(
    planned: PlannedStage, model: VisionLanguageModel, world: World, options: LoaderOptions
) -> Loader | ShardLoader:
    """Make the loader of this process's share of a stage.

    Raises Stopped if the run is asked to stop while the tower's features are computed.
    """
    share = (world.rank, world.size)
    prefetch = Prefetch(options.workers, pin=world.device.startswith("cuda"))
    if planned.stream is not None:
        return ShardLoader(
            planned.stream,
            planned.processor,
            share=share,
            on_rejects=_list_rejects(world, options),
            progress=options.progress,
            should_stop=options.stopping,
            prefetch=prefetch,
        )
    features = None
    if planned.stage.pair_documents < 3:  # a damaged image is read as pixels
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
        pixels=features or options.pixels,
        share=share,
        costs=costs,
        prefetch=prefetch,
        pair_documents=planned.stage.pair_documents,
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


def is_wanted(stage: Stage, device: str, flops: float) -> bool:
    """Return whether a stage of this many FLOPs should be compiled, if that is possible."""
    return stage.compile == "on" or (stage.compile == "auto" and flops >= PAYS[device.split(":")[0]])


def hindrance(device: str, parallelism: Parallelism) -> str | None:
    """Return why torch.compile cannot work here; None if it can."""
    if parallelism == "fsdp":
        return "fsdp shards their weights"
    if device.startswith("cuda"):
        return None if find_spec("triton") is not None else "triton is not installed"
    named = os.environ.get("CXX")
    compilers = [named] if named else ["g++", "clang++"]
    return None if any(shutil.which(name) for name in compilers) else "there is no C++ compiler"


@contextmanager
def compiled(
    trainer: Trainer, parallelism: Parallelism, flops: float, on_message: OnMessage, *, backend: str = "inductor"
) -> Iterator[bool]:
    """While the block lasts, run layers compiled if the stage asks for it and it is possible; yield whether they are.

    Args:
        flops: FLOPs of the whole stage.
        on_message: Called with the reason if the stage should be compiled but cannot be.
    """
    stage = trainer.stage
    if not is_wanted(stage, trainer.device, flops):
        yield False
        return
    if (reason := hindrance(trainer.device, parallelism)) is not None:
        if trainer.world.is_first:
            on_message(f"stage {stage.name}: layers are not compiled because {reason}; training is slower")
        yield False
        return
    layers = list(_layers(trainer.model))
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    try:
        yield True
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # set by Module.compile; torch has no call that undoes it


def _layers(model: VisionLanguageModel) -> Iterator[nn.Module]:
    """Return the layers of both stacks, except the language model's last one and those of a quantised model.

    The last layer's MLP gets fewer tokens by hooks (`last_mlp_at`), and torch shares one graph among all layers without
    checking their hooks. A quantised model multiplies in kernels that no compiler sees into.
    """
    yield from model.vision.layers()
    # A model that runs unpacked calls its layers differently, once per document.
    if model.packed and not is_quantised(model.language):
        yield from getattr(decoder_of(unwrap(model.language)), "layers", ())[:-1]
