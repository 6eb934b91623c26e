"""Describe the machine of a measurement, measure resident memory, and write results: shared by the benchmarks.

`describe` returns the header of a result: the CPU with the instruction sets that decide its speed, the GPU, versions,
threads, load, and the measured rates of large matrix products. `Results` prints a line and keeps its values, and
writes both as JSON if the user gave `--json FILE`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # the instruction sets that decide fp32's and bf16's rates
POLLING = 0.05  # seconds between two looks at a child's memory
# Dense bf16 FLOP/s, without sparsity, and bytes of memory: NVIDIA's data sheets of A100 (2021), H100 and H200 (2024),
# L40S (2023) and GeForce RTX 4090 (Ada whitepaper, bf16 with fp32 accumulation).
CARDS: Mapping[str, tuple[float, float]] = {
    "A100": (312e12, 80e9),
    "H100": (989e12, 80e9),
    "H200": (989e12, 141e9),
    "L40S": (362e12, 48e9),
    "RTX 4090": (165e12, 24e9),
}


def cpu() -> dict[str, Any]:
    """Return the CPU's name, the cores that this process may use, and which of FLAGS it has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        text = ""
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    present = set(values.get("flags", values.get("Features", "")).split())
    name = values.get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": name, "cores": cores, "flags": {flag: flag in present for flag in FLAGS}}


def card(name: str) -> float | None:
    """Return the data sheet's bf16 FLOP/s of a GPU by its name, or None for a GPU that CARDS lacks."""
    return next((flops for key, (flops, _) in CARDS.items() if key in name), None)


def rates(device: str) -> dict[str, float]:
    """Measure GFLOP/s of a large product in fp32 and bf16."""
    import torch

    from vistune.planner.work import matmul_peak

    return {name: round(matmul_peak(device, dtype) / 1e9, 1)
            for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}  # fmt: skip


def describe(device: str = "cpu") -> dict[str, Any]:
    """Return the header of a result."""
    import torch
    import transformers

    gpu: dict[str, Any] = {}
    if device == "cuda":
        name = torch.cuda.get_device_name()
        gpu = {"gpu": name, "data_sheet_bf16_gflops": None if card(name) is None else (card(name) or 0.0) / 1e9}
    return {
        **cpu(),
        **gpu,
        "device": device,
        "threads": torch.get_num_threads(),
        "rates_gflops": rates(device),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def header(machine: Mapping[str, Any]) -> str:
    """Return a machine's description as two lines of text."""
    flags = ", ".join(name if has else f"no {name}" for name, has in machine["flags"].items())
    measured = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in machine["rates_gflops"].items())
    sheet = machine.get("data_sheet_bf16_gflops")
    gpu = f"{machine['gpu']}; data sheet: bf16 {sheet or 0:,.0f} GFLOP/s; " if "gpu" in machine else ""
    return (
        f"{gpu}{machine['cpu']}, {machine['cores']} cores ({flags}), {machine['threads']} threads, "
        f"load {machine['load']}\nproducts measured on {machine['device']}: {measured}; python {machine['python']}, "
        f"torch {machine['torch']}, transformers {machine['transformers']}"
    )


@dataclass
class Results:
    """The header and the rows of a benchmark; `file`: where to write them as JSON, or None."""

    file: Path | None
    machine: Mapping[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(cls, file: Path | None, device: str = "cpu") -> Results:
        """Describe the machine and print the header."""
        results = cls(file, describe(device))
        print(header(results.machine), flush=True)
        return results

    def add(self, text: str, **values: Any) -> None:
        """Print a line, and keep its values; the file is written anew, so that a stopped benchmark has its rows."""
        print(text, flush=True)
        self.rows.append(values)
        if self.file is not None:
            whole = {"command": sys.argv, "machine": dict(self.machine), "results": self.rows}
            self.file.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option --json."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the header and all rows as JSON")


def resident(kind: str = "VmHWM", process: int | str = "self") -> int:
    """Return a process's resident memory in bytes, at most (VmHWM) or now (VmRSS); 0 if the process has ended.

    `ru_maxrss` would count a parent's memory from before exec.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return int(status.split(f"{kind}:")[1].split()[0]) * 1024 if f"{kind}:" in status else 0


@dataclass(frozen=True)
class Finished:
    """What a child process printed, how it ended, and the resident memory that it held at most."""

    out: str
    errors: str
    code: int
    peak_bytes: int


def run_child(
    command: Sequence[str], environment: Mapping[str, str] | None = None, limit: float | None = None
) -> Finished:
    """Run a command and watch its resident memory; after `limit` seconds it is killed, with code -9."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, **(environment or {})})  # fmt: skip
    peaks, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(POLLING):
            peaks.append(resident(process=child.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.monotonic()
    try:
        out, errors = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        child.kill()
        out, errors = child.communicate()
        errors += f"\nended after {time.monotonic() - began:.0f} s, the limit"
    ended.set()
    watcher.join()
    return Finished(out, errors, child.returncode, max(peaks))
