"""Run a stage's largest packed row before the first step, and compare its memory with the forecast of `plan`.

planned stage + Trainer -> largest packed row (with shards: that of the first) -> forward, backward -> peak bytes

On a CPU the process's resident memory is reported too: the C library may keep the memory of freed tensors. A run whose
largest row does not fit ends in its first minute. This trial does not change the run: its gradients are dropped, and
random generators are seeded anew for every row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
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
from vistune.planner.memory import PROCESS, memory, optimizer_bytes
from vistune.planner.sizes import Parallelism, RowSize, StageSetup, largest_row, load_of, setup_of, sizes_of_loaded
from vistune.progress import OnMessage
from vistune.recipe import Model
from vistune.training.stage import StageTraining
from vistune.training.trainer import Trainer
from vistune.types import Batch

CLOSE = 0.15  # of the measured bytes: as far as a forecast may be off


def try_largest_row(training: StageTraining, model: Model, *, on_message: OnMessage, stopping: ShouldStop) -> None:
    """Report the memory of the stage's largest row in the first process. Raises VistuneError if it does not fit.

    Args:
        model: The `model` section of the recipe.
        stopping: Returns whether the run was asked to stop. If it was while the first shard is fetched, nothing is
            tried.
    """
    planned, trainer, parallelism = training.planned, training.trainer, training.parallelism
    world = trainer.world
    trial = _read_largest_row(trainer, planned, on_message, stopping)
    if trial is None:
        return
    step, batch, size = trial
    setup = setup_of(trainer.stage, bf16=trainer.bf16, on_gpu=trainer.device.startswith("cuda"))
    setup = replace(setup, parallelism=parallelism, processes=world.size, bf16_parts=training.bf16_parts)
    before = bytes_in_use(trainer, parallelism)
    # With several rows per step, the gradients of the first are in memory together with the activations of the last.
    with resident_peak(trainer.device) as resident:
        peak = before + peak_bytes(trainer.device, lambda: trainer.try_row(step, batch, times=min(2, size.rows)))
    if world.is_first:
        report = _report(trainer, model, setup, size, peak) + compare_with_resident(peak, sum(resident))
        on_message(f"stage {planned.stage.name}: {report}")


def _report(trainer: Trainer, model: Model, setup: StageSetup, size: RowSize, peak: float) -> str:
    """Format the measured peak, with the optimizer's state added, next to the forecast."""
    row = f"the largest row ({size.tokens:,} tokens, {size.tiles} tiles, {size.supervised:,} supervised) takes "
    try:
        sizes, _ = sizes_of_loaded(model, trainer.model)
    except RecipeError as error:
        return f"{row}{_mb(peak)} without the optimizer; there is no forecast: {error.message}"
    processes = setup.processes if setup.parallelism == "fsdp" else 1
    measured = peak + optimizer_bytes(sizes, setup) / processes  # allocated at the first update
    return row + compare_with_forecast(measured, memory(sizes, setup, size).total)


def _read_largest_row(
    trainer: Trainer, planned: PlannedStage, on_message: OnMessage, stopping: ShouldStop
) -> tuple[int, Batch, RowSize] | None:
    """Return (step, batch, size) of the stage's largest row; None if there is nothing to try."""
    world = trainer.world
    scratch = nullcontext(Path()) if planned.stream is None else scratch_folder(user_cache() / "shards")
    with scratch as folder, Background(1, "first shard") as thread:
        first: PlannedStage | None = None
        with suppress(Interrupted):
            first = wait_for(thread.submit(lambda: with_first_shard(planned, folder, thread.over)), stopping)
        if world.any(first is None) or first is None:
            return None
        step, index = largest_row(first)
        size = replace(load_of(first).worst, rows=-(-max(map(len, first.plan.steps)) // world.size))
        if isinstance(trainer.loader, Loader):
            return step, trainer.loader.row(step, index), size
        try:
            batch = Loader(first.samples, first.processor, first.plan).row(step, index)
        except DataError as error:  # one bad image does not end a run that may reject it
            if not trainer.loader.stream.rejects:
                raise
            on_message(f"stage {planned.stage.name}: the largest row of the first shard is not tried: {error.message}")
            return None
        return step, replace(batch, places=()), size


def compare_with_forecast(measured: float, forecast: float) -> str:
    """Format measured and forecast bytes, with a warning if they differ by more than 15 %."""
    off = forecast / measured - 1
    text = f"{_mb(measured)} at its peak, the forecast is {_mb(forecast)} ({off:+.0%})"
    if abs(off) <= CLOSE:
        return text
    return f"{text}: trust the measurement, the forecast of vistune plan is more than {CLOSE:.0%} off for this stage"


@contextmanager
def resident_peak(device: str) -> Iterator[list[float]]:
    """Yield a list that gets the process's largest resident bytes in the block; it stays empty if they are unknown."""
    found: list[float] = []
    status = Path("/proc/self/status")
    known = not device.startswith("cuda") and status.is_file()
    with suppress(OSError):  # without this right, the peak of an earlier stage counts too
        if known:
            Path("/proc/self/clear_refs").write_text("5")
    yield found
    if known and (match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        found.append(1024.0 * int(match[1]))


def compare_with_resident(peak: float, resident: float) -> str:
    """Format the resident bytes of the process, with advice if they are high.

    They are high if they exceed the bytes of the tensors and of the process without a model by more than 15 %.
    `resident`: 0 if it is not known.
    """
    if not resident:
        return ""
    text = f"; {_mb(peak + PROCESS)} with Python and its libraries, and the process held {_mb(resident)}"
    if resident <= (1 + CLOSE) * (peak + PROCESS):
        return text
    return (
        f"{text}, because the C library keeps freed memory; MALLOC_MMAP_THRESHOLD_=131072 in the environment returns "
        "it, but training then takes about a third more time"
    )


def bytes_in_use(trainer: Trainer, parallelism: Parallelism) -> float:
    """Return the bytes in use before any row: all allocated ones of a GPU; on a CPU weights and DDP's gradients."""
    if trainer.device.startswith("cuda"):
        return float(torch.cuda.memory_allocated(trainer.device))
    tensors = [
        *trainer.model.parameters(),
        *trainer.model.buffers(),
        *(trainer.trainable if parallelism == "ddp" else ()),
    ]
    return float(sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors))


def peak_bytes(device: str, work: Callable[[], None]) -> float:
    """Measure the most bytes that the tensors of `work` take at once, by torch's allocators."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before)
    # A process's resident memory would also count what its heap keeps of freed tensors.
    profile = torch.autograd.profiler.profile(use_kineto=True, profile_memory=True, use_cpu=True)
    with _silent(profile):
        work()
    results: Any = profile.kineto_results  # torch's stubs lack `nbytes`
    events = [event for event in results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return float(max(accumulate(sizes), default=0))


@contextmanager
def _silent(profile: AbstractContextManager[object]) -> Iterator[None]:
    """Run the profiler without the lines that its library writes to stderr at its start and end at any log level."""

    def silently(call: Callable[[], object]) -> None:
        with open(os.devnull, "wb") as devnull:
            stderr = os.dup(2)
            os.dup2(devnull.fileno(), 2)
            try:
                call()
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)

    silently(profile.__enter__)
    try:
        yield
    finally:
        silently(lambda: profile.__exit__(None, None, None))


def _mb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
