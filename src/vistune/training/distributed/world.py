"""The processes of a run: one, or those that torchrun started; they exchange values and texts.

RANK, WORLD_SIZE, LOCAL_RANK (set by torchrun) -> open_world() -> World: gather, agree, first_alone

Scalars are always exchanged between CPUs, by gloo. Gradients and shards are exchanged by NCCL between GPUs, and by gloo
without GPUs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist

from vistune.errors import RecipeError, Stopped, VistuneError
from vistune.training.distributed.watchdog import GRACE, Heartbeat, MessageBoard


class OtherProcessFailed(VistuneError):
    """Another process of the run failed; this one ends with it."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of its run.

    Attributes:
        restarted: Whether torchrun restarted the run after a failure.
        board: Where the processes leave messages for each other; None if there is one process.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    restarted: bool = False
    board: MessageBoard | None = None
    heartbeat: Heartbeat = field(default_factory=Heartbeat)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, *values: float) -> list[tuple[float, ...]]:
        """Return the values of all processes by rank; all must call it. Integers up to 2^53 stay exact."""
        if self.size == 1:
            return [values]
        own = torch.tensor(values, dtype=torch.float64)
        by_rank = [torch.empty_like(own) for _ in range(self.size)]
        with self.heartbeat.during("meet"):
            dist.all_gather(by_rank, own)
        return [tuple(row.tolist()) for row in by_rank]

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process; all must call it."""
        return any(value for (value,) in self.gather(value))

    def meet_before_first_step(self, stage: str, should_stop: Callable[[], bool]) -> None:
        """Wait for all processes. Raises Stopped in all of them if one is asked to stop."""
        if self.any(should_stop()):
            raise Stopped(f"stage {stage}: stopped before its first step", "continue with --resume")

    def agree(self, digest: str, what: str) -> None:
        """Raise RecipeError if the processes have different hex digests of `what`; all must call it."""
        digests = self.gather(int(digest[:12], 16))
        others = [str(rank) for rank, other in enumerate(digests) if other != digests[0]]
        if others:
            raise RecipeError(
                f"{what} of rank {', '.join(others)} differs from that of rank 0",
                "let all processes read the same files and the same run folder",
            )

    def gather_text(self, value: str) -> list[str]:
        """Return the text of all processes by rank; all must call it."""
        if self.size == 1:
            return [value]
        by_rank: list[str] = [""] * self.size
        dist.all_gather_object(by_rank, value)
        return by_rank

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let rank 0 finish the block before the others begin it. Raises OtherProcessFailed there if rank 0 failed."""
        if not self.is_first and self.any(False):
            raise OtherProcessFailed("rank 0 failed; see its message")
        try:
            yield
        except BaseException:
            if self.is_first:
                self.any(True)
            raise
        if self.is_first:
            self.any(False)

    def cause_of(self, error: BaseException) -> BaseException:
        """Find the cause of an error and report it to the other processes.

        An error of communication follows from the end of another process: that end is returned as its cause.
        """
        if self.board is None:
            return error
        if not isinstance(error, dist.DistError | RuntimeError) or isinstance(error, torch.OutOfMemoryError):
            self.board.post_first("failure", f"rank {self.rank}: {type(error).__name__}: {error}")
            return error
        until = time.monotonic() + GRACE
        while time.monotonic() < until:
            if (ended := self.board.read("ended", str)) is not None:
                time.sleep(GRACE)  # the watchdog is about to end this process too, with its stacks and the reason
                return OtherProcessFailed(ended)
            if (failure := self.board.read("failure", str)) is not None:
                return OtherProcessFailed(failure)
            if gone := self.board.gone():
                return OtherProcessFailed(f"rank {gone[0]} is gone: its process was killed")
            time.sleep(0.1)
        return error


@contextmanager
def open_world() -> Iterator[World]:
    """Join the processes that torchrun's environment names, as long as the block lasts."""
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    gpu = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if gpu else "cpu"
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if gpu:
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_launcher()
    if size == 1:
        yield World(device=device, restarted=restarted)
        return
    # Longer than any wait: the watchdog decides whether a process hangs, since it knows which one.
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(days=7))
    board = MessageBoard(rank, size)
    world = World(rank, size, device, restarted, board)
    try:
        yield world
    except Stopped:
        leave(board)
        raise
    except BaseException as error:
        cause = world.cause_of(error)
        if cause is error:
            raise
        raise cause from error
    leave(board)


def leave(board: MessageBoard) -> None:
    """Sign off; all processes end here together."""
    board.post(f"done/{board.rank}", True)
    dist.destroy_process_group()


def die_with_launcher() -> None:
    """Have Linux end this process with its launcher, which cannot end its processes if it is killed with SIGKILL."""
    set_parent_death_signal = 1
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(set_parent_death_signal, signal.SIGKILL)


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """While the block lasts, SIGTERM and the first Ctrl-C set a flag that the loop reads between steps.

    A second Ctrl-C raises KeyboardInterrupt at once.
    """
    requested = False

    def on_signal(signum: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        requested = True

    try:
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals go elsewhere
        yield lambda: False
        return
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
