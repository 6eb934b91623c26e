"""Run many requests at the same time, and stop them cleanly on a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vistune.errors import Stopped, VistuneError
from vistune.llm_client.runner import RequestRunner

GRACE_SECONDS = 30.0  # how long requests in flight may take to end once the run is asked to stop


def stop_requested() -> Stopped:
    """Return the error of a run that a signal stops."""
    return Stopped("stopped as requested", "run the same command again to continue")


async def run_workers(runner: RequestRunner, work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines that send requests until all have ended; then raise the error that stopped the run, if any."""
    workers = [asyncio.create_task(each) for each in work]
    with stopping_by_signal(runner, workers):
        results = await _wait_for_all(workers, runner)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, VistuneError | asyncio.CancelledError):
            raise result
    runner.check_stopped()


async def _wait_for_all(workers: Sequence[asyncio.Task[None]], runner: RequestRunner) -> list[BaseException | None]:
    """Wait for the workers; once the run is to stop, no longer than GRACE_SECONDS."""
    pending = set(workers)
    grace = GRACE_SECONDS
    while pending:
        ended, pending = await asyncio.wait(pending, timeout=0.25, return_when=asyncio.FIRST_EXCEPTION)
        for task in ended:
            error = None if task.cancelled() else task.exception()
            if error is not None and runner.stopping is None:
                runner.stop(error if isinstance(error, VistuneError) else stop_requested())
        if runner.stopping is not None:
            grace -= 0.25
            if grace <= 0:
                for task in pending:
                    task.cancel()
    return await asyncio.gather(*workers, return_exceptions=True)


@contextmanager
def stopping_by_signal(runner: RequestRunner, tasks: Sequence[asyncio.Task[object]]) -> Iterator[None]:
    """Stop sending at the first SIGINT, SIGTERM or SIGHUP; cancel the tasks at the second."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def request_stop(number: int) -> None:
        received.append(number)
        runner.stop(stop_requested())
        if len(received) > 1:
            for task in tasks:
                task.cancel()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        for number in signals:
            loop.add_signal_handler(number, request_stop, number)
    except (ValueError, RuntimeError):  # not in the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
