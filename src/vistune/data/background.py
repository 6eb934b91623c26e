"""Threads that a run can leave behind when it is asked to stop.

A thread that waits for a network cannot be ended. It is told to end, and the process goes on without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
ShouldStop = Callable[[], bool]  # whether the run is asked to stop

POLL_SECONDS = 0.2  # between two questions whether to stop
JOIN_SECONDS = 1.0  # for all threads together to end


class Interrupted(Exception):
    """A wait, or work in the background, ended because the run is asked to stop."""


def never_stop() -> bool:
    return False


def wait_for(future: Future[T], should_stop: ShouldStop) -> T:
    """Return a future's result or raise its error. Raises Interrupted if the run is asked to stop before."""
    while not wait([future], timeout=POLL_SECONDS).done:
        if should_stop():
            raise Interrupted
    return future.result()


class Background:
    """A pool of daemon threads. At the end of the block `over` is set, and the threads are waited for only briefly."""

    def __init__(self, threads: int, name: str) -> None:
        self.over = threading.Event()
        self.calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self.threads:
            thread.start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # raised again where the result is asked for
                future.set_exception(error)

        self.calls.put(run)
        return future

    def _work(self) -> None:
        while (call := self.calls.get()) is not None and not self.over.is_set():
            call()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        for _ in self.threads:
            self.calls.put(None)
        for thread in self.threads:
            thread.join(JOIN_SECONDS / len(self.threads))
