"""Several processes of one run, started without a launcher: forked by a server that has imported everything once.

This process holds the store that torchrun would hold, and ends the others when one has failed, as torchrun does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch.distributed import TCPStore
from training_disks import kill_at

from vistune import api
from vistune.data import Loader
from vistune.errors import DataError, VistuneError
from vistune.files import write_json
from vistune.progress import no_progress
from vistune.recipe import load_recipe
from vistune.training import Run, Trainer, open_world, selftest
from vistune.training.distributed import parallelism
from vistune.types import Batch, LossSum

PRELOADED = ["vistune.api", "vistune.training", "vistune.scenes", "vistune.interop", "transformers", "peft",
             "transformers.models.llama.modeling_llama", "transformers.models.clip.modeling_clip",
             "training_processes"]  # fmt: skip
DEADLINE = 300  # seconds, against hanging: what is waited for takes a few


def server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _as_rank(work: Callable[..., None], given: Sequence[object], environment: dict[str, str]) -> None:
    """In the child: what torchrun's environment says, then the work; it exits as the command line would."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    code = 1
    try:
        work(*given)
        code = 0
    except VistuneError as error:
        print(f"rank {environment['RANK']}: {error}", flush=True)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code) if code else None


def in_child(work: Callable[..., None], *given: object) -> int:
    """The exit code of a process that does the work alone, or minus the signal that killed it."""
    process = server().Process(target=_as_rank, args=(work, given, {"RANK": "0"}))
    process.start()
    process.join(DEADLINE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still running after {DEADLINE} s")
    return process.exitcode


class Ranks:
    """The processes of one run."""

    def __init__(self, work: Callable[..., None], *given: object, size: int = 2, restarts: int = 0) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes: list[BaseProcess] = []
        for rank in range(size):
            environment = {
                # The server may have been started by another test, with that test's folder for the cache.
                **{name: value for name, value in os.environ.items() if name.startswith("VISTUNE_")},
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self.store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": str(restarts),
            }
            process = server().Process(target=_as_rank, args=(work, given, environment))
            process.start()
            self.processes.append(process)

    def signal(self, number: int, *ranks: int) -> None:
        for rank in ranks:
            pid = self.processes[rank].pid
            assert pid is not None
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)

    def ended(self, within: float = DEADLINE) -> list[int]:
        """Exit codes, minus the signal of what was killed. The first failure ends the others: SIGTERM, then SIGKILL."""
        until, told = time.monotonic() + within, False
        while any(process.exitcode is None for process in self.processes):
            if not told and any(process.exitcode for process in self.processes):
                told = True
                for process in self.processes:
                    if process.exitcode is None:
                        process.terminate()
            if time.monotonic() > until:
                for process in self.processes:
                    process.kill()
                raise AssertionError(f"still running after {within} s: {[p.exitcode for p in self.processes]}")
            time.sleep(0.01)
        return [int(process.exitcode or 0) for process in self.processes]


def train_as_rank(recipe: Path, out: Path, resume: bool = False) -> None:
    api.train(load_recipe(str(recipe)), out, resume=resume)


def wait_for_lines(path: Path, lines: int, ranks: Ranks) -> None:
    """Until the metrics have so many lines, or a process has ended."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until and all(process.exitcode is None for process in ranks.processes):
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.002)


def train_each_as_rank(recipes: Sequence[tuple[Path, Path]]) -> None:
    """One run after another in the same processes, (recipe, run folder) of each; then `selftest` of the last one."""
    with open_world() as world:
        for recipe, out in recipes:
            Run(load_recipe(str(recipe)), out, progress=no_progress, world=world).start(resume=False)
        found = selftest(Run(load_recipe(str(recipe)), out, progress=no_progress, world=world))
        if world.is_first:
            write_json(out / "selftest.json", [{"arrangement": row.arrangement, "equal": row.equal} for row in found])


def _stop_at_once() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _loop() -> None:
    while True:
        pass


def _bad_image() -> None:
    raise DataError("7.png: not a picture", "mend it")


FAULTS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": _stop_at_once,
    "loop": _loop,
    "bad picture": _bad_image,
    "sigterm": lambda: os.kill(os.getpid(), signal.SIGTERM),
}


def train_with_fault(recipe: Path, out: Path, resume: bool, fault: str, rank: int, step: int) -> None:
    """The run, with a fault in one process when it loads that step's rows."""
    if os.environ["RANK"] == str(rank):
        real = Loader.load

        def load(self: Loader, number: int) -> list[Batch]:
            if number == step:
                FAULTS[fault]()
            return real(self, number)

        Loader.load = load  # type: ignore[method-assign]
    train_as_rank(recipe, out, resume)


def train_killed_saving(recipe: Path, out: Path, resume: bool, number: int) -> None:
    """The run, whose first process is killed at its `number`-th touch of a checkpoint: it alone writes them."""
    if os.environ["RANK"] == "0":
        kill_at(number, out / "checkpoints")
    train_as_rank(recipe, out, resume)


def train_killed_measuring(recipe: Path, out: Path, rank: int, call: int) -> None:
    """The run, one process of which is killed before the `call`-th row that it measures."""
    if os.environ["RANK"] == str(rank):
        real, calls = Trainer.loss_sum, iter(range(10**6))

        def loss_sum(self: Trainer, batch: Batch) -> float:
            if next(calls) == call:
                FAULTS["kill"]()
            return real(self, batch)

        Trainer.loss_sum = loss_sum  # type: ignore[method-assign]
    train_as_rank(recipe, out)


def train_with_loss(recipe: Path, out: Path, kind: str, rank: int, step: int, resume: bool = False) -> None:
    """The run, with a loss in one process and one of its steps that is no number, or for which there is no memory."""
    if os.environ["RANK"] == str(rank):
        first = 0 if resume else -1  # before a stage's first step its largest row is tried
        real, calls = parallelism.head_loss, iter(range(first, 10**6))

        def loss(*given: torch.Tensor) -> LossSum:
            if next(calls) != step:
                return real(*given)
            if kind == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            found = real(*given)
            return LossSum(found.sum * float(kind), found.count, found.tokens)

        parallelism.head_loss = loss
    train_as_rank(recipe, out, resume)
