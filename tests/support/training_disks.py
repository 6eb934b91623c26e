"""Runs that are killed while they write, or whose checkpoints lie on a small disk; each for a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from training_stages import train

from vistune.recipe import load_recipe
from vistune.runs import checkpoint
from vistune.runs.folder import checkpoints_of

MAY_NOT_MOUNT = 77


def kill_at(number: int, folder: Path) -> None:
    """From now on the process kills itself at its `number`-th opening, fsync, rename or removal in that folder."""
    count = 0

    def reached(name: object) -> None:
        nonlocal count
        if isinstance(name, str | bytes | os.PathLike) and os.fsdecode(name).startswith(str(folder)):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    def progress(event: str, given: tuple[Any, ...]) -> None:
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"):
            reached(given[0])

    real = os.fsync

    def fsync(handle: int) -> None:
        with suppress(OSError):
            reached(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    os.fsync = fsync
    sys.addaudithook(progress)


def train_killed(recipe: Path, out: Path, number: int, resume: bool) -> None:
    kill_at(number, out / "checkpoints")
    train(load_recipe(str(recipe)), out, resume=resume)


def mount_small(folder: Path, options: str) -> bool:
    """A file system in memory on `folder`, seen by this process alone; False where this may not be done."""
    if ctypes.CDLL(None).unshare(0x20000) != 0:  # CLONE_NEWNS
        return False
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", options, "tmpfs", str(folder)]):
        if subprocess.run(["mount", *command], capture_output=True, check=False).returncode:
            return False
    return True


def train_on_a_small_disk(recipe: Path, out: Path, size: str, grow: bool) -> None:
    """Checkpoints on a disk of `size`; when one was not saved, it grows or is filled to the last byte."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True)
    if not mount_small(folder, f"size={size}"):
        os._exit(MAY_NOT_MOUNT)

    def change() -> None:
        while "not saved" not in ((out / "run.json").read_text() if (out / "run.json").exists() else ""):
            time.sleep(0.001)
        if grow:
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        else:
            with suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    threading.Thread(target=change, daemon=True).start()
    try:
        train(load_recipe(str(recipe)), out)
    finally:
        (out / "left.json").write_text(json.dumps(sorted(path.name for path in folder.iterdir())))
        for path in checkpoints_of(out):
            checkpoint.verify(path)
