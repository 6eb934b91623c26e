"""A process that multiplies matrices of many sizes does not keep a kernel for each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vistune.model.kernel_caches import VARIABLES

GROWTH = """
import sys
import torch
from vistune.model.kernel_caches import limit_kernel_caches
if sys.argv[1] == "limited":
    limit_kernel_caches()
def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])
torch.set_num_threads(1)
layer = torch.nn.Linear(64, 64, bias=False)
def multiply(rows):
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.ones(rows, 64, requires_grad=True)).float().sum().backward()
multiply(2000)
before = resident()
for rows in range(1200, 2000, 2):
    multiply(rows)
print(resident() - before)
"""


def growth(kind: str) -> int:
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    command = [sys.executable, "-c", GROWTH, kind]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is not known here")
def test_products_of_many_sizes_keep_few_kernels() -> None:
    everything = growth("default")
    if everything < 100e6:
        pytest.skip("torch caches no kernels for bf16 products on this CPU")
    assert growth("limited") < 0.4 * everything


def test_own_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from vistune.model.kernel_caches import limit_kernel_caches

    monkeypatch.setenv(VARIABLES[0], "7")
    monkeypatch.delenv(VARIABLES[1], raising=False)
    limit_kernel_caches()
    assert [os.environ[name] for name in VARIABLES] == ["7", "64"]
    monkeypatch.delenv(VARIABLES[1])
