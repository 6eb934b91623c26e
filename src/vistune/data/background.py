"""Threads that may be left behind: whoever waits for what they do can be asked to stop meanwhile.

call -> Background.submit -> Future -> result_of(future, stopping) -> what it gives, or Interrupted
Nobody can end a thread that waits for a network. It is told that all is over, and a process ends without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
Stopping = Callable[[], bool]  # whether the run is asked to stop

LOOK = 0.2  # seconds between two looks at whether to stop
PATIENCE = 1.0  # seconds in which threads that are told that all is over may end


class Interrupted(Exception):
    """Waiting, or work in the background, ended because of a stop."""


def never() -> bool:
    return False


def result_of(future: Future[T], stopping: Stopping) -> T:
    """What the future gives, or its error. Raises Interrupted where the run is asked to stop before."""
    while not wait([future], timeout=LOOK).done:
        if stopping():
            raise Interrupted
    return future.result()


class Background:
    """As many threads; at the end of the block `over` tells them to end, and they are waited for a moment only."""

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
            except BaseException as error:  # whoever asks for the result is told
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
            thread.join(PATIENCE / len(self.threads))
