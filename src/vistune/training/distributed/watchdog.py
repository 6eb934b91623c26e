"""End the whole run, and say why, if one of its processes is gone, stopped or stuck.

Heartbeat (what this process does) -> Watchdog's thread -> MessageBoard (the launcher's store) -> every other process
Before the watchdog ends a process, it writes the stacks of all threads to OUT/stacks/rank-N.txt and to stderr.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from vistune.progress import Progress

GRACE = 3.0  # seconds in which a process whose peer is gone may end by itself, with a more precise error
TOGETHER = ("start", "learn", "meet")  # phases in which a process may wait for another one

T = TypeVar("T")


class Heartbeat:
    """The phase of a process, its finished steps, and a count that grows with every progress."""

    def __init__(self) -> None:
        self.phase = "start"
        self.steps = 0
        self.count = 0

    def beat(self, phase: str | None = None, *, steps: int | None = None) -> None:
        """Record progress, and a new phase or number of steps if given."""
        self.count += 1
        self.phase = self.phase if phase is None else phase
        self.steps = self.steps if steps is None else steps

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Set the phase for the duration of the block, then restore the previous one."""
        before = self.phase
        self.beat(phase)
        try:
            yield
        finally:
            self.beat(before)


def with_heartbeat(progress: Progress, heartbeat: Heartbeat) -> Progress:
    """Return the same progress bars, and count each advance as progress of the process."""

    @contextmanager
    def watched(label: str, total: int) -> Iterator[Callable[..., None]]:
        with progress(label, total) as advance:

            def beat_and_advance(*done: int, **known: object) -> None:
                heartbeat.beat()
                advance(*done, **known)

            yield beat_and_advance

    return watched


class Process(NamedTuple):
    """A process of a run."""

    pid: int
    host: str


class MessageBoard:
    """Messages between the processes of a run, in the launcher's store: lists of values that JSON can hold."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        client = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        # A restarted run must not read the messages of the run before.
        self.store = PrefixStore(f"vistune/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", client)
        self.post(f"process/{rank}", *Process(os.getpid(), socket.gethostname()))

    def post(self, key: str, *values: object) -> None:
        """Write a message."""
        self.store.set(key, json.dumps(values))

    def post_first(self, key: str, text: str) -> str:
        """Write a text if there is no message under this key yet; return the text that is there now."""
        return str(*json.loads(self.store.compare_set(key, "", json.dumps([text]))))

    def read(self, key: str, kind: Callable[..., T]) -> T | None:
        """Read a message and return `kind(*values)`; None if nobody has written the message."""
        return kind(*json.loads(self.store.get(key))) if self.store.check([key]) else None

    def gone(self) -> list[int]:
        """List the ranks on this machine whose process ended without signing off."""
        gone = []
        for rank in range(self.size):
            process = self.read(f"process/{rank}", Process)
            if process is None or process.host != socket.gethostname() or _is_there(process.pid):
                continue
            if not self.store.check([f"done/{rank}"]):
                gone.append(rank)
        return gone


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """A process's last sign of life.

    Attributes:
        at: When it was given, in seconds since 1970.
        idle: Seconds since the process last made progress, at that time.
    """

    rank: int
    at: float
    idle: float
    phase: str
    steps: int

    def silent(self, now: float) -> float:
        """Return the seconds since this sign."""
        return now - self.at

    def stuck(self, now: float) -> float:
        """Return the seconds without progress."""
        return self.idle + self.silent(now)


def culprit(signs: Sequence[SignOfLife], own: SignOfLife, *, now: float, limit: float, interval: float) -> str | None:
    """Describe which process blocks the run; None if none has been stuck for longer than `limit` seconds."""
    if own.stuck(now) <= limit:
        return None
    silent = [sign for sign in signs if sign.silent(now) > 3 * interval + 1]
    if silent:
        return _describe(silent[0], f"has given no sign of life for {silent[0].silent(now):.0f} s", own.steps)
    if own.phase in TOGETHER and any(sign.stuck(now) <= limit for sign in signs if sign.rank != own.rank):
        return None  # another process makes progress, and this one may be waiting for it
    alone = [sign for sign in signs if sign.phase not in TOGETHER and sign.stuck(now) > limit / 2]
    worst = min(alone or signs, key=lambda sign: (sign.steps, sign.rank))
    return _describe(worst, f"has made no progress for {worst.stuck(now):.0f} s, in phase {worst.phase!r}", own.steps)


def _describe(sign: SignOfLife, what: str, steps: int) -> str:
    """Describe a process. `steps` are those of the reporting process, which may be newer than the last sign."""
    return f"rank {sign.rank} {what}; steps done: {max(sign.steps, steps)}"


class Watchdog:
    """A thread that ends this process if the run makes no progress for `limit` seconds, or if a peer is gone.

    `on_end` is called with the reason right before.
    """

    def __init__(
        self,
        limit: float,
        heartbeat: Heartbeat,
        folder: Path,
        on_end: Callable[[str], None],
        board: MessageBoard | None = None,
    ) -> None:
        self.limit = limit
        self.heartbeat = heartbeat
        self.folder = folder
        self.on_end = on_end
        self.board = board
        self.rank = 0 if board is None else board.rank
        self.interval = min(1.0, limit / 5)
        self.over = threading.Event()
        self.seen = (-1, time.time())  # the heartbeat's count, and since when
        self.missed: float | None = None  # since when a peer has been gone
        self.thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.over.wait(self.interval):
            reason = self._check()
            if reason is not None and not self.over.is_set():
                self._end(reason)

    def _check(self) -> str | None:
        """Return why the run must end; None if it need not."""
        now = time.time()
        if self.heartbeat.count != self.seen[0]:
            self.seen = (self.heartbeat.count, now)
        own = SignOfLife(self.rank, now, now - self.seen[1], self.heartbeat.phase, self.heartbeat.steps)
        if self.board is None:
            return culprit([own], own, now=now, limit=self.limit, interval=self.interval)
        self.board.post(f"sign/{self.rank}", own.rank, own.at, own.idle, own.phase, own.steps)
        if (ended := self.board.read("ended", str)) is not None:
            return ended
        gone = self.board.gone()
        self.missed = (self.missed or now) if gone else None
        if self.missed is not None and now - self.missed > GRACE:
            return self.board.read("failure", str) or f"rank {gone[0]} is gone: its process was killed"
        if own.stuck(now) <= self.limit:
            return None
        signs = [self.board.read(f"sign/{rank}", SignOfLife) for rank in range(self.board.size)]
        return culprit(
            [sign for sign in signs if sign is not None], own, now=now, limit=self.limit, interval=self.interval
        )

    def _end(self, reason: str) -> None:
        if self.board is not None:
            reason = self.board.post_first("ended", reason)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"rank-{self.rank}.txt", "w", encoding="utf-8") as file:
            file.write(
                f"rank {self.rank}, steps done: {self.heartbeat.steps}, phase {self.heartbeat.phase!r}: {reason}\n"
            )
            file.flush()
            faulthandler.dump_traceback(file)
        sys.stderr.write(f"vistune: rank {self.rank} ends: {reason}\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(2)
        self.on_end(reason)
        time.sleep(2 * self.interval)  # the launcher ends the others at once: let them write their stacks first
        os._exit(1)
