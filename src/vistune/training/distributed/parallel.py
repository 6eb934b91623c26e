"""The processes of a run: one, or those that torchrun has started; how they meet, and how one tells the others.

RANK, WORLD_SIZE, LOCAL_RANK (set by torchrun) -> opened() -> World: gather, agree, first_alone
Scalars always go by gloo between CPUs; gradients and shards by NCCL on GPUs, by gloo without.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from vistune.errors import RecipeError, Stopped, VistuneError
from vistune.training.distributed.watchdog import GRACE, Board, Pulse


class Elsewhere(VistuneError):
    """Another process of the run failed; this one ends with it."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of its run."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    restarted: bool = False
    board: Board | None = None
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, *values: float) -> list[tuple[float, ...]]:
        """Everybody's values, by rank; all processes must call it. Whole numbers up to 2^53 stay whole."""
        if self.size == 1:
            return [values]
        own = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        with self.pulse.during("meet"):
            dist.all_gather(found, own)
        return [tuple(row.tolist()) for row in found]

    def any(self, yes: bool) -> bool:
        return any(value for (value,) in self.gather(yes))

    def agree(self, digest: str, what: str) -> None:
        """Raise RecipeError where processes have another hex digest of `what`."""
        digests = self.gather(int(digest[:12], 16))
        others = [str(rank) for rank, found in enumerate(digests) if found != digests[0]]
        if others:
            raise RecipeError(
                f"{what} of rank {', '.join(others)} differs from that of rank 0",
                "let all processes read the same files and the same run folder",
            )

    def listed(self, value: str) -> list[str]:
        """Everybody's text, by rank; all processes must call it."""
        if self.size == 1:
            return [value]
        found: list[str] = [""] * self.size
        dist.all_gather_object(found, value)
        return found

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Rank 0 goes through the block before the others begin it. Raises Elsewhere there where it failed."""
        if not self.is_first and self.any(False):
            raise Elsewhere("rank 0 failed; it says why")
        try:
            yield
        except BaseException:
            if self.is_first:
                self.any(True)
            raise
        if self.is_first:
            self.any(False)

    def blame(self, error: BaseException) -> BaseException:
        """The error itself, told to the others; or, where it only follows from another process's end, that end."""
        if self.board is None:
            return error
        if not isinstance(error, dist.DistError | RuntimeError) or isinstance(error, torch.OutOfMemoryError):
            self.board.tell_first("failure", f"rank {self.rank}: {type(error).__name__}: {error}")
            return error
        until = time.monotonic() + GRACE
        while time.monotonic() < until:
            ended, told, gone = self.board.read("ended"), self.board.read("failure"), self.board.gone()
            if ended is not None:
                time.sleep(GRACE)  # the watchdog is about to end this process too, with its stacks and the reason
                return Elsewhere(str(ended))
            if told is not None:
                return Elsewhere(str(told))
            if gone:
                return Elsewhere(f"rank {gone[0]} is gone: its process was killed")
            time.sleep(0.1)
        return error


@contextmanager
def opened() -> Iterator[World]:
    """The world that torchrun's environment tells of, as long as the block lasts."""
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    gpu = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if gpu else "cpu"
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if gpu:
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_the_launcher()
    if size == 1:
        yield World(device=device, restarted=restarted)
        return
    # Longer than any wait: whether somebody hangs is for the watchdog to say, which knows who.
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(days=7))
    board = Board(rank, size)
    world = World(rank, size, device, restarted, board)
    try:
        yield world
    except Stopped:
        leave(board)
        raise
    except BaseException as error:
        cause = world.blame(error)
        if cause is error:
            raise
        raise cause from error
    leave(board)


def leave(board: Board) -> None:
    """Say good-bye: all processes end here together."""
    board.on_message(f"done/{board.rank}", True)
    dist.destroy_process_group()


def die_with_the_launcher() -> None:
    """A launcher killed with -9 cannot end its processes: on Linux the kernel does it then."""
    set_parent_death_signal = 1
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(set_parent_death_signal, signal.SIGKILL)
