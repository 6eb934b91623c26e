"""Start a training process again with settings of glibc that keep its heap small.

glibc before 2.38 does not reuse a freed block for the next tensor of its size, so a process that trains on a CPU holds
up to twice the memory of its tensors (docs/decisions/0036). The settings are read when a process starts.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vistune.translations import LANGUAGES

TRAINING_VERBS = ("train", "quickstart")
SETTINGS = {"tcache_count": 0, "mxfast": 0, "trim_threshold": 512 << 20, "mmap_threshold": 32 << 20}
TUNABLES = ":".join(f"glibc.malloc.{name}={value}" for name, value in SETTINGS.items())
REUSES_ALIGNED_BLOCKS = (2, 38)


def restart_with_small_heap() -> None:
    """Replace this process by the same command with `TUNABLES`, if it trains on a CPU and its glibc needs them."""
    has_gpu = Path("/dev/nvidiactl").exists()
    if not has_gpu and sys.gettrace() is None and can_profit(sys.argv[1:], os.environ, platform.libc_ver()):
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same command


def can_profit(arguments: Sequence[str], environment: Mapping[str, str], libc: tuple[str, str]) -> bool:
    """Return whether the command trains, glibc is older than 2.38, and the environment sets up no allocator."""
    name, version = libc
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    has_own = any(key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for key in environment)
    words = (argument for argument in arguments if not argument.startswith("-") and argument not in LANGUAGES)
    trains = next(words, "") in TRAINING_VERBS
    return name == "glibc" and () < numbers < REUSES_ALIGNED_BLOCKS and trains and not has_own
