"""The benchmark scripts run: each at its smallest size, with its header and its JSON file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
FLAGS = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
TRAIN = ["--pair", "tiny", "--stages", "stage1", "--rounds", "1", "--steps", "3", "--tokens-per-row", "512"]
SMALLEST = {
    "train.py": [*TRAIN, "--who", "sorted2:bf16"],
    "unpacked.py": ["--rounds", "1", "--width", "64", "--layers", "1", "--documents", "1024"],
}
SLOWER = {
    "train_gpu.py": ["--tiny", "--device", "cpu", "--stages", "qlora", "--who", "ours", "--steps", "3"],
    "evaluate.py": ["--tiny", "--shape", "mmbench", "--pictures", "1", "--repeats", "1", "--alone", "1"],
    "serve.py": ["--tiny", "--pictures", "0", "--streams", "2", "--precisions", "bf16", "--tokens", "2",
                 "--repeats", "1", "--waits", "1", "--llama-cpp", "q8_0" if find_spec("xllamacpp") else ""],
}  # fmt: skip
PLAIN = {
    "check.py": ["--rows", "5", "--pictures", "1"],
    "plan.py": ["--samples", "2000"],
    "score_vqa.py": ["--questions", "50"],
    "filter.py": ["--captions", "2000"],
    "shards.py": ["--shards", "1000", "--ranks", "4", "--read", "4", "--samples", "50"],
    "generate.py": ["--requests", "20", "--latency", "0.01", "--rounds", "1"],
}

SLOW = {
    "checkpoint.py": ["--tiny", "--stages", "stage1", "--steps", "6"],
    "load.py": ["--gigabytes", "0.2"],
    "plan_memory.py": ["--case", "projector", "--steps", "2"],
}


def run(script: str, *options: str) -> str:
    """Run a benchmark and return its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(BENCHMARKS / script), *options], env=environment, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("script", [*SMALLEST, *(pytest.param(name, marks=pytest.mark.soak) for name in SLOWER)])
def test_a_speed_benchmark_runs_and_describes_its_machine(script: str, tmp_path: Path) -> None:
    out = run(script, *{**SMALLEST, **SLOWER}[script], "--json", str(tmp_path / "out.json"))
    written: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    machine = written["machine"]
    assert set(machine["flags"]) == FLAGS
    assert machine["rates_gflops"]["fp32"] > 0
    assert machine["rates_gflops"]["bf16"] > 0
    assert machine["cpu"] in out.splitlines()[0]
    assert written["results"]
    assert not any("failed" in row for row in written["results"])


@pytest.mark.parametrize("script", PLAIN)
def test_a_benchmark_without_a_model_runs(script: str) -> None:
    assert run(script, *PLAIN[script]).strip()


@pytest.mark.soak
@pytest.mark.parametrize("script", SLOW)
def test_a_slow_benchmark_runs(script: str) -> None:
    assert run(script, *SLOW[script]).strip()
