"""metrics.jsonl: one line a step, each step once, whatever was killed and resumed; and which process is slow."""

from __future__ import annotations

import errno
import json
import logging
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DiskError
from vistune.files import write_atomic

log = logging.getLogger("vistune.training")

STEPS = 50  # over which processes are compared
SLOW = 1.3  # times the median


class StragglerMonitor:
    """Tells of a process that is slower than the others: all wait for it at every step."""

    def __init__(self) -> None:
        self.steps: list[Sequence[float]] = []

    def slow(self, busy: Sequence[float]) -> str | None:
        """Every fiftieth step, who was slow in the last fifty, in words; `busy`: seconds of this step by rank."""
        self.steps.append(busy)
        if len(self.steps) < STEPS:
            return None
        means = [statistics.fmean(own) for own in zip(*self.steps, strict=True)]
        self.steps.clear()
        worst, middle = max(means), statistics.median(means)
        if worst <= SLOW * middle:
            return None
        return (
            f"rank {means.index(worst)} holds the others up: {worst:.3f} s a step of its own over the last {STEPS}, "
            f"the median process {middle:.3f} s"
        )


class MetricsLog:
    """Appends to a file; `cut` removes what a resumed run will write again.

    Where the disk is full, lines wait in memory: the run goes on, and they are written when there is room.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""

    def cut(self, keep: int) -> None:
        """Keep the first `keep` whole lines; a torn last line of a killed run goes."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_atomic(self.path, "".join(line for line in lines[:keep] if line.endswith("\n")))

    def log(self, **values: Any) -> None:
        first = not self.waiting
        self.waiting += (json.dumps(values) + "\n").encode()
        try:
            self.settle()
        except DiskError as error:
            if first:
                log.warning("%s; its lines wait in memory", error.message)

    def settle(self) -> None:
        """Write what waits. Raises DiskError; no part of a line is left then."""
        if not self.waiting:
            return
        try:
            with open(self.path, "ab", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    if file.write(self.waiting) != len(self.waiting):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    if os.fstat(file.fileno()).st_size > size:
                        file.truncate(size)
                    raise
        except OSError as error:
            raise DiskError(
                f"{self.path}: cannot be written: {error.strerror}", "make room, then go on with --resume"
            ) from error
        self.waiting = b""

    def left_out(self, stage: str) -> int:
        """How many of the stage's steps so far were left out."""
        return sum(row["stage"] == stage and bool(row.get("left_out")) for row in self.read())

    def read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()]
