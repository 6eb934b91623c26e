"""The row that takes most, learnt once and forgotten before a stage's first step: what it holds, and what was foreseen.

Planned + Trainer -> the largest row, of shards that of the first one, forward and backward, gradients thrown away
-> bytes at its peak, in words
Where it does not fit, the run ends in its first minute. Nothing of it stays: chance belongs to the row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from vistune.data import Background, Interrupted, Loader, ShouldStop, wait_for
from vistune.data.stages import PlannedStage, with_first_shard
from vistune.errors import DataError, RecipeError
from vistune.files import scratch_folder, user_cache
from vistune.model.language import unwrap
from vistune.planner.forecast import largest_row, load_of, sizes_of
from vistune.planner.memory import how_of, memory, optimizer_bytes
from vistune.progress import OnMessage
from vistune.recipe import Model
from vistune.training.distributed.sharding import Way
from vistune.training.trainer import Trainer

CLOSE = 0.15  # of what is measured: as far as a forecast may be off


def try_largest_row(
    trainer: Trainer,
    planned: PlannedStage,
    model: Model,
    way: Way,
    halved: Sequence[str],
    *,
    on_message: OnMessage,
    stopping: ShouldStop,
) -> None:
    """Tell what the stage's largest row takes in the first process, beside what `vistune plan` foresees.

    `model`: the recipe's · `halved`: parts whose weights lie in bf16 · `stopping`: where the first shard is waited for
    then, nothing is tried. Raises VistuneError where memory is short.
    """
    world = trainer.world
    place = nullcontext(Path()) if planned.stream is None else scratch_folder(user_cache() / "shards")
    with place as folder, Background(1, "first shard") as thread:
        known = None
        with suppress(Interrupted):
            known = wait_for(thread.submit(lambda: with_first_shard(planned, folder, thread.over)), stopping)
        if world.any(known is None) or known is None:
            return
        step, number = largest_row(known)
        row = replace(load_of(known).worst, rows=-(-max(map(len, known.plan.steps)) // world.size))
        if isinstance(trainer.loader, Loader):
            batch = trainer.loader.row(step, number)
        else:
            try:
                batch = replace(Loader(known.samples, known.processor, known.plan).row(step, number), places=())
            except DataError as error:  # one bad picture does not end a run that may set it aside
                if not trainer.loader.stream.rejects:
                    raise
                on_message(
                    f"stage {planned.stage.name}: the largest row of the first shard is not tried: {error.message}"
                )
                return
    how = how_of(trainer.stage, bf16=trainer.bf16, way=way, processes=world.size, halved=halved,
                 on_gpu=trainer.device.startswith("cuda"))  # fmt: skip
    before = held_by(trainer, way)
    # Of several rows in a step, the first one's gradients are there while the last one's activations are.
    peak = peak_bytes(trainer.device, lambda: trainer.try_row(step, batch, times=min(2, row.rows)))
    if not world.is_first:
        return
    said = (
        f"stage {planned.stage.name}: the largest row ({row.tokens:,} tokens, {row.tiles} tiles, "
        f"{row.supervised:,} learnt) takes "
    )
    try:
        configs = trainer.model.vision.tower.config, unwrap(trainer.model.language).config
        sizes, _ = sizes_of(model, configs, cut=True)
    except RecipeError as error:
        on_message(f"{said}{_mb(before + peak)} without the optimizer; nothing is foreseen: {error.message}")
        return
    share = world.size if way == "fsdp" else 1
    found = before + peak + optimizer_bytes(sizes, how) / share  # which comes with the first update
    on_message(said + beside(found, memory(sizes, how, row).total))


def beside(found: float, foreseen: float) -> str:
    """Bytes measured and foreseen, and a warning where they are apart."""
    off = foreseen / found - 1
    words = f"{_mb(found)} at its peak, {_mb(foreseen)} foreseen ({off:+.0%})"
    if abs(off) <= CLOSE:
        return words
    return f"{words}: trust this and not vistune plan, which is more than {CLOSE:.0%} off for this stage"


def held_by(trainer: Trainer, way: Way) -> float:
    """Bytes there before any row: of a GPU all that is allocated; of a CPU weights and DDP's copy of gradients."""
    if trainer.device.startswith("cuda"):
        return float(torch.cuda.memory_allocated(trainer.device))
    tensors = [*trainer.model.parameters(), *trainer.model.buffers(), *(trainer.learning if way == "ddp" else ())]
    return float(sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors))


def peak_bytes(device: str, work: Callable[[], None]) -> float:
    """The most bytes that tensors made by the work held at once, by torch's allocators."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before)
    # A process's resident memory would also count what its heap keeps of tensors that are gone.
    profile: Any = torch.autograd.profiler.profile(use_kineto=True, profile_memory=True, use_cpu=True)
    with _silent_starts(profile):
        work()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return float(max(accumulate(sizes), default=0))


@contextmanager
def _silent_starts(profile: Any) -> Iterator[None]:
    """The profiler, without the lines that its library writes to stderr at both ends whatever its level is."""

    def silently(call: Callable[[], object]) -> None:
        with open(os.devnull, "wb") as nowhere:
            kept = os.dup(2)
            os.dup2(nowhere.fileno(), 2)
            try:
                call()
            finally:
                os.dup2(kept, 2)
                os.close(kept)

    silently(profile.__enter__)
    try:
        yield
    finally:
        silently(lambda: profile.__exit__(None, None, None))


def _mb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
