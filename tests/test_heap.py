"""A process that trains on a CPU starts with settings of glibc that keep its heap small."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from vistune.cli.app import TUNABLES, can_profit

OLD, NEW = ("glibc", "2.36"), ("glibc", "2.38")
has_fault = pytest.mark.skipif(
    not can_profit(["train"], {}, platform.libc_ver()) or Path("/dev/nvidiactl").exists(),
    reason="this C library reuses aligned blocks, or there is a GPU",
)


@pytest.mark.parametrize(
    ("arguments", "environment", "libc", "expected"),
    [
        (["train", "smol"], {}, OLD, True),
        (["--lang", "ko", "quickstart"], {}, OLD, True),
        (["train", "smol"], {}, NEW, False),
        (["train", "smol"], {}, ("", ""), False),
        (["plan", "quickstart"], {}, OLD, False),
        (["train", "smol"], {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, OLD, False),
        (["train", "smol"], {"MALLOC_MMAP_THRESHOLD_": "131072"}, OLD, False),
        (["train", "smol"], {"LD_PRELOAD": "libmimalloc.so"}, OLD, False),
    ],
)
def test_only_training_with_an_old_glibc_and_no_own_settings_profits(
    arguments: list[str], environment: dict[str, str], libc: tuple[str, str], expected: bool
) -> None:
    assert can_profit(arguments, environment, libc) == expected


def clean() -> dict[str, str]:
    own = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    return {key: value for key, value in os.environ.items() if not key.startswith(own)}


@has_fault
def test_the_command_starts_once_more_with_the_settings() -> None:
    code = """
import os, sys
sys.argv = ["vistune", "train", "smol"]
print("started", flush=True)
from vistune.cli.app import restart_with_small_heap
restart_with_small_heap()
print(os.environ.get("GLIBC_TUNABLES"))
"""
    done = subprocess.run([sys.executable, "-c", code], env=clean(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["started", "started", TUNABLES]


HELD = """
import random
from pathlib import Path
import torch
def held():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
torch.empty(6_000_000).fill_(1)  # freed: glibc now keeps blocks of this size
before, kept, sizes = held(), [], random.Random(0)
for _ in range(60):
    freed = [torch.ones(sizes.randrange(200_000, 3_000_000)) for _ in range(4)]
    kept.append(torch.ones(100_000))
    del freed
print(held() - before)
"""


@has_fault
def test_the_settings_halve_what_a_process_holds_beyond_its_tensors() -> None:
    """The process keeps 24 MB of tensors, and has freed larger ones between them."""
    extra = []
    for environment in (clean(), {**clean(), "GLIBC_TUNABLES": TUNABLES}):
        command = [sys.executable, "-c", HELD]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        extra.append(int(done.stdout) - 24e6)
    assert extra[1] < extra[0] / 2
