"""Write checkpoints, and read back what a stage needs to continue as if it had never stopped.

weights and optimizer state -> a thread of rank 0: draft -> fsync -> manifest -> rename

On a GPU, the thread writes copies while training continues. On a CPU, copies would take much of the memory, and the
thread would take a core. So training waits until the tensors themselves are written.

The state (`state/` in a checkpoint) is the state of the optimizer and the cursor, the position in the training data.
Random generators need no state: they are seeded anew for every packed row, from the run's seed, the step and the row's
index.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vistune.data import ShardCursor, StagePlan
from vistune.errors import CheckpointError, DiskError
from vistune.runs import checkpoint
from vistune.training.distributed.parallelism import shard_states
from vistune.training.distributed.world import OtherProcessFailed, World
from vistune.training.optimizer import Optimizer, State

log = logging.getLogger("vistune.training")


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """How far a run had come at a checkpoint.

    Attributes:
        stage: Index of the stage.
        step: Steps done in it.
        finished: Whether the stage is finished.
        trained: Parts that have been trained so far.
        precision: The record of training/precision.py; None if the checkpoint is of a version without it.
    """

    folder: Path
    stage: int
    step: int
    finished: bool
    trained: frozenset[str]
    precision: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> ResumePoint:
        """Read it from a checkpoint of a run."""
        extra = checkpoint.read_parts(folder)["extra"]
        trained = frozenset(extra["learnt"])
        return cls(folder, extra["stage"], extra["step"], bool(extra["finished"]), trained, extra.get("precision"))

    @property
    def next_stage(self) -> int:
        return self.stage + self.finished


class Saver:
    """Write one checkpoint at a time in a thread of rank 0.

    `on_failure` is called with the error of a checkpoint that could not be written; the run continues.
    """

    def __init__(self, world: World, on_failure: Callable[[BaseException], None]) -> None:
        self.world = world
        self.on_failure = on_failure
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Start writing once the checkpoint before is written, on a CPU also finish; other ranks do nothing."""
        self.join()
        if self.world.is_first:
            self.error = None
            self.thread = threading.Thread(target=self._try, args=(write,), name="checkpoint")
            self.thread.start()
            if self.world.device == "cpu":
                with self.world.heartbeat.during("save"):
                    self.join()

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self.error = error
            log.warning("a checkpoint was not saved: %s", error)
            self.on_failure(error)

    def join(self) -> None:
        """Wait for the thread, if there is one."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk. Raises in all processes if it could not be written."""
        with self.world.heartbeat.during("save"):
            self.join()
        if self.world.any(self.error is not None):
            raise self.error or OtherProcessFailed("rank 0 could not save a checkpoint; see its message")


def rehearse(folder: Path, write: Callable[[Path], None], *, state_bytes: int) -> None:
    """Write a checkpoint to `folder`, verify it and remove it. So a run that cannot save fails in its first minute.

    Raises DiskError if it cannot be written, or if the disk has no room for it and an optimizer of `state_bytes`.
    """
    try:
        write(folder)
        checkpoint.verify(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if size + state_bytes > free:
        raise DiskError(
            f"{folder.parent}: a checkpoint takes {_gb(size + state_bytes)}, the disk has {_gb(free)} free",
            "free some space, or give another --out",
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next step of a stage, and the plan that it belongs to. `lanes`: positions of a stage over shards."""

    stage: str
    step: int
    plan: str
    made_from: Mapping[str, int | str]
    lanes: Sequence[ShardCursor] = ()


def save_state(folder: Path, states: Sequence[State], cursor: Cursor) -> None:
    """Write the optimizer's states, unsharded and on the CPU, and the cursor."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "state.pt", "wb") as file:  # torch reports the disk's error only for an open file
        torch.save({"optimizer": list(states), "cursor": asdict(cursor)}, file)


def load_state(folder: Path, optimizer: Optimizer, *, plan: StagePlan) -> Cursor:
    """Restore the optimizer, sharded as its parameters are, and return the cursor.

    Raises CheckpointError, naming what differs, if the state belongs to another plan or its tensors do not fit.
    """
    path = folder / "state.pt"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        cursor, states = Cursor(**state["cursor"]), state["optimizer"]
    except Exception as error:  # unpickling raises nearly any error; the manifest has passed, so it is another format
        raise CheckpointError(
            f"{path}: this version cannot read the training state: {type(error).__name__}: {error}",
            "start a new run",
        ) from None
    if cursor.plan != plan.digest or cursor.made_from != plan.made_from:
        differing = [key for key, value in plan.made_from.items() if cursor.made_from.get(key) != value]
        listed = "; ".join(f"{key} was {cursor.made_from.get(key)}, is {plan.made_from[key]}" for key in differing)
        raise CheckpointError(
            f"{folder}: was written for another plan: {listed or 'the steps differ'}",
            "resume with the recipe and data of the run, or start a new run",
        )
    if not _fits(states, optimizer):
        raise CheckpointError(
            f"{path}: its optimizer state does not fit this model's parameters", "use the run's own checkpoint"
        )
    optimizer.load_state_dict(shard_states(states, optimizer.parameters()))
    return cursor


def _fits(states: Sequence[State], optimizer: Optimizer) -> bool:
    """Return whether the states have the number and shapes of the optimizer's parameters."""
    parameters = optimizer.parameters()
    return len(states) == len(parameters) and all(
        index < len(trainable) and all(value.shape in (trainable[index].shape, ()) for value in entry.values())
        for state, trainable in zip(states, parameters, strict=True)
        for index, entry in state["state"].items()
    )
