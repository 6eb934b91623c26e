"""Write metrics.jsonl: one line per step, each step once even after kills and resumes."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

from vistune.errors import DiskError
from vistune.files import write_atomic

log = logging.getLogger("vistune.training")


class MetricsLog:
    """Append lines to metrics.jsonl; `cut` removes lines that a resumed run will write again.

    If the disk is full, lines wait in memory: the run continues, and they are written when there is room.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""

    def cut(self, keep: int) -> None:
        """Keep the first `keep` complete lines, and drop an incomplete last line of a killed run."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_atomic(self.path, "".join(line for line in lines[:keep] if line.endswith("\n")))

    def log(self, **values: Any) -> None:
        """Append a line; if it cannot be written, keep it in memory and warn once."""
        first = not self.waiting
        self.waiting += (json.dumps(values) + "\n").encode()
        try:
            self.settle()
        except DiskError as error:
            if first:
                log.warning("%s; its lines wait in memory", error.message)

    def settle(self) -> None:
        """Write the waiting lines. Raises DiskError; no part of a line is then left in the file."""
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
                f"{self.path}: cannot be written: {error.strerror}", "make room, then resume with --resume"
            ) from error
        self.waiting = b""

    def left_out(self, stage: str) -> int:
        """Return how many steps of the stage were skipped so far."""
        return sum(line["stage"] == stage and bool(line.get("left_out")) for line in self.read())

    def read(self) -> list[dict[str, Any]]:
        """Return all lines in the file."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()]
