"""Workers that ask at the same time, until all have ended or the run is to stop; signals stop them in good order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vistune.errors import VistuneError
from vistune.llm_client.asker import Asker, stopped

GRACE_SECONDS = 30.0  # how long requests under way may take to end once the run is asked to stop


async def run_workers(asker: Asker, work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Raises what stopped the run, when all have ended; what came until then is in the journal."""
    workers = [asyncio.create_task(each) for each in work]
    with stopping_by_signal(asker, workers):
        results = await _all_ended(workers, asker)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, VistuneError | asyncio.CancelledError):
            raise result
    if asker.stopping is not None:
        raise asker.stopping


async def _all_ended(workers: Sequence[asyncio.Task[None]], asker: Asker) -> list[BaseException | None]:
    """Wait for the workers; from the moment the run is to stop, no longer than the grace."""
    pending = set(workers)
    grace = GRACE_SECONDS
    while pending:
        ended, pending = await asyncio.wait(pending, timeout=0.25, return_when=asyncio.FIRST_EXCEPTION)
        for task in ended:
            error = None if task.cancelled() else task.exception()
            if error is not None and asker.stopping is None:
                asker.stop(error if isinstance(error, VistuneError) else stopped())
        if asker.stopping is not None:
            grace -= 0.25
            if grace <= 0:
                for task in pending:
                    task.cancel()
    return await asyncio.gather(*workers, return_exceptions=True)


@contextmanager
def stopping_by_signal(asker: Asker, tasks: Sequence[asyncio.Task[Any]]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP stops sending; a second one cuts off what is under way."""
    loop = asyncio.get_running_loop()
    asked: list[int] = []

    def ask_to_stop(number: int) -> None:
        asked.append(number)
        asker.stop(stopped())
        if len(asked) > 1:
            for task in tasks:
                task.cancel()

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        for name in names:
            loop.add_signal_handler(name, ask_to_stop, name)
    except (ValueError, RuntimeError):  # not in the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for name in names:
            loop.remove_signal_handler(name)
