"""`vistune serve` as an operator runs it: a process of its own, whose memory, files and threads are its alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from running_servers import PATIENCE


@dataclass
class Commanded:
    process: subprocess.Popen[str]
    address: str
    http: httpx2.Client
    said: list[str] = field(default_factory=list)  # its log

    def resident_mb(self) -> int:
        words = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(words[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

    def kept(self) -> tuple[int, int]:
        """Open files and threads."""
        folder = Path(f"/proc/{self.process.pid}")
        return len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))

    def idle(self) -> bool:
        page = self.http.get("/metrics").text
        return "vistune_running_answers 0.0" in page and "vistune_waiting_answers 0.0" in page


@contextmanager
def commanded(model_folder: Path, *options: str) -> Iterator[Commanded]:
    command = [sys.executable, "-c", "from vistune.cli import main; main()", "serve", str(model_folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "/v1" not in said:
        said = process.stderr.readline()
        assert said, "it ended before it listened"
    address = said.split()[1].removesuffix("/v1,")
    log: list[str] = []
    threading.Thread(target=lambda: log.extend(process.stderr), daemon=True).start()  # type: ignore[arg-type]
    try:
        with httpx2.Client(base_url=address, timeout=PATIENCE, trust_env=False) as http:
            yield Commanded(process, address, http, log)
    finally:
        process.kill()
        process.wait(PATIENCE)
