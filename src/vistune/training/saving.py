"""Checkpoints behind the loop's back: the loop copies tensors to the CPU, a thread of rank 0 writes and commits them.

Snapshot + optimiser state -> draft -> fsync -> manifest -> rename -> older ones pruned
Before a stage's first step all of it is rehearsed, so that what would fail at the end fails in the first minute.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from vistune.errors import DiskError
from vistune.runs import checkpoint
from vistune.training.distributed.parallel import Elsewhere, World

log = logging.getLogger("vistune.training")

Write = Callable[[], None]


class Saver:
    """One writer at a time; `on_failure` is told of a checkpoint that could not be written, and the run goes on."""

    def __init__(self, world: World, on_failure: Callable[[BaseException], None]) -> None:
        self.world = world
        self.on_failure = on_failure
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def begin(self, write: Write) -> None:
        """Have it written, once the one before is; on rank 0 alone."""
        self.join()
        if self.world.is_first:
            self.error = None
            self.thread = threading.Thread(target=self._try, args=(write,), name="checkpoint")
            self.thread.start()

    def _try(self, write: Write) -> None:
        try:
            write()
        except BaseException as error:
            self.error = error
            log.warning("a checkpoint was not saved: %s", error)
            self.on_failure(error)

    def join(self) -> None:
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def finish(self) -> None:
        """Wait until the last one is on disk. Raises in all processes where it could not be written."""
        with self.world.pulse.during("save"):
            self.join()
        if self.world.any(self.error is not None):
            raise self.error or Elsewhere("rank 0 could not save; it says why")


def rehearse(folder: Path, write: Callable[[Path], None], *, state_bytes: int) -> None:
    """Write `folder` in full by `write`, read it back, remove it.

    Raises DiskError where it cannot be written, or where beside it no room is left for an optimiser of `state_bytes`.
    """
    try:
        write(folder)
        checkpoint.verify(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    room = shutil.disk_usage(folder.parent).free
    if size + state_bytes > room:
        raise DiskError(
            f"{folder.parent}: a checkpoint will take {_gb(size + state_bytes)}, there is room for {_gb(room)}",
            "make room, or give another --out",
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
