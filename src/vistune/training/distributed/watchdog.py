"""Nothing hangs for long: a process that is gone, stopped or stuck ends the whole run, and says which one it was.

Pulse (what this process does) -> Watchdog's thread -> Board (the launcher's store) -> every other process
Whoever ends leaves the stacks of all its threads in OUT/stacks/rank-N.txt and on stderr.
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
from typing import Any

from torch.distributed import PrefixStore, TCPStore

from vistune.progress import Progress

GRACE = 3.0  # seconds in which a process whose peer is gone may end by itself, with an error that says more
TOGETHER = ("start", "learn", "meet")  # phases in which a process may wait for another; the others are its own


class Pulse:
    """What a process is doing: its phase, the steps done, and a count that grows whenever it gets on."""

    def __init__(self) -> None:
        self.phase = "start"
        self.steps = 0
        self.count = 0

    def beat(self, phase: str | None = None, *, steps: int | None = None) -> None:
        self.count += 1
        self.phase = self.phase if phase is None else phase
        self.steps = self.steps if steps is None else steps

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """The phase while the block lasts, then the one before again."""
        before = self.phase
        self.beat(phase)
        try:
            yield
        finally:
            self.beat(before)


def beating(progress: Progress, pulse: Pulse) -> Progress:
    """The same bars, each advance of which is a sign of life."""

    @contextmanager
    def watched(label: str, total: int) -> Iterator[Callable[..., None]]:
        with progress(label, total) as advance:

            def beat_and_advance(*done: int, **known: Any) -> None:
                pulse.beat()
                advance(*done, **known)

            yield beat_and_advance

    return watched


class Board:
    """The launcher's store as a place where the processes of a run leave word for each other."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        client = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        # A restarted run must not find what the one before it left.
        self.store = PrefixStore(f"vistune/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", client)
        self.on_message(f"process/{rank}", {"pid": os.getpid(), "host": socket.gethostname()})

    def on_message(self, key: str, value: Any) -> None:
        self.store.set(key, json.dumps(value))

    def tell_first(self, key: str, value: Any) -> Any:
        """The value that the first process told under that key: this one's, or an earlier one's."""
        return json.loads(self.store.compare_set(key, "", json.dumps(value)))

    def read(self, key: str) -> Any:
        """None where nobody has told it."""
        return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def gone(self) -> list[int]:
        """Ranks on this machine whose process has ended without a good-bye."""
        found = []
        for rank in range(self.size):
            process = self.read(f"process/{rank}")
            here = process is not None and process["host"] == socket.gethostname()
            if here and not _is_there(process["pid"]) and not self.store.check([f"done/{rank}"]):
                found.append(rank)
        return found


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class Sign:
    """A process's last sign: when it was given (seconds since 1970), and for how long it had got no further."""

    rank: int
    at: float
    idle: float
    phase: str
    steps: int

    def silent(self, now: float) -> float:
        return now - self.at

    def stuck(self, now: float) -> float:
        return self.idle + self.silent(now)


def culprit(signs: Sequence[Sign], own: Sign, *, now: float, limit: float, interval: float) -> str | None:
    """Which process holds the run up, in words; None while there is hope."""
    if own.stuck(now) <= limit:
        return None
    silent = [sign for sign in signs if sign.silent(now) > 3 * interval + 1]
    if silent:
        return _in_words(silent[0], f"has given no sign of life for {silent[0].silent(now):.0f} s", own.steps)
    if own.phase in TOGETHER and any(sign.stuck(now) <= limit for sign in signs if sign.rank != own.rank):
        return None  # another one gets on, and this one may be waiting for it
    alone = [sign for sign in signs if sign.phase not in TOGETHER and sign.stuck(now) > limit / 2]
    worst = min(alone or signs, key=lambda sign: (sign.steps, sign.rank))
    return _in_words(worst, f"has got no further for {worst.stuck(now):.0f} s, in phase {worst.phase!r}", own.steps)


def _in_words(sign: Sign, what: str, steps: int) -> str:
    """`steps`: those of the process that tells, which may know more than the last sign of the other."""
    return f"rank {sign.rank} {what}; steps done: {max(sign.steps, steps)}"


class Watchdog:
    """A thread that ends this process where the run gets no further for `limit` seconds, or a peer is gone.

    `on_end` is told why, right before.
    """

    def __init__(
        self, limit: float, pulse: Pulse, folder: Path, on_end: Callable[[str], None], board: Board | None = None
    ) -> None:
        self.limit = limit
        self.pulse = pulse
        self.folder = folder
        self.on_end = on_end
        self.board = board
        self.rank = 0 if board is None else board.rank
        self.interval = min(1.0, limit / 5)
        self.over = threading.Event()
        self.seen = (-1, time.time())  # the pulse's count, and since when it has been that
        self.missed: float | None = None  # since when a peer is gone
        self.thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.over.wait(self.interval):
            reason = self._look()
            if reason is not None and not self.over.is_set():
                self._end(reason)

    def _look(self) -> str | None:
        """Why the run must end, if it must."""
        now = time.time()
        if self.pulse.count != self.seen[0]:
            self.seen = (self.pulse.count, now)
        own = Sign(self.rank, now, now - self.seen[1], self.pulse.phase, self.pulse.steps)
        if self.board is None:
            return culprit([own], own, now=now, limit=self.limit, interval=self.interval)
        self.board.on_message(f"sign/{self.rank}", [own.rank, own.at, own.idle, own.phase, own.steps])
        if (ended := self.board.read("ended")) is not None:
            return str(ended)
        gone = self.board.gone()
        self.missed = (self.missed or now) if gone else None
        if self.missed is not None and now - self.missed > GRACE:
            return str(self.board.read("failure") or f"rank {gone[0]} is gone: its process was killed")
        if own.stuck(now) <= self.limit:
            return None
        told = [self.board.read(f"sign/{rank}") for rank in range(self.board.size)]
        signs = [Sign(*sign) for sign in told if sign is not None]
        return culprit(signs, own, now=now, limit=self.limit, interval=self.interval)

    def _end(self, reason: str) -> None:
        if self.board is not None:
            reason = str(self.board.tell_first("ended", reason))
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"rank-{self.rank}.txt", "w", encoding="utf-8") as file:
            file.write(f"rank {self.rank}, steps done: {self.pulse.steps}, phase {self.pulse.phase!r}: {reason}\n")
            file.flush()
            faulthandler.dump_traceback(file)
        sys.stderr.write(f"vistune: rank {self.rank} ends: {reason}\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(2)
        self.on_end(reason)
        time.sleep(2 * self.interval)  # the launcher ends the others at once: let them leave their stacks first
        os._exit(1)
