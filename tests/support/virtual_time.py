"""An event loop whose clock jumps over waiting, with real sockets, a real disk and the real service."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from fake_teacher import FakeService
from paid_runs import CANARY

from vistune.datagen import GenerationConfig, TeacherOptions, make_requests
from vistune.datagen.teachers.remote import RequestOutcome, ask_all
from vistune.llm_client import Client, Journal, Price, RateLimiter, RequestRunner, RunOptions
from vistune.types import AnnotatedImage


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when no task, no thread and no socket has anything to do."""

    ahead = 0.0
    in_threads = 0

    def time(self) -> float:
        return super().time() + self.ahead

    def run_in_executor(self, executor: Executor | None, work: Any, *given: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, work, *given)
        self.in_threads += 1
        future.add_done_callback(self._back)
        return future

    def _back(self, future: asyncio.Future[Any]) -> None:
        self.in_threads -= 1

    def _run_once(self) -> None:
        if not self._ready and self._scheduled and not self.in_threads:  # type: ignore[attr-defined]
            sockets = len(self._selector.get_map()) > 1  # type: ignore[attr-defined] - one is the loop's own
            events = self._selector.select(0.0005) if sockets else []  # type: ignore[attr-defined]
            if events:
                self._process_events(events)  # type: ignore[attr-defined]
            else:
                self.ahead += max(0.0, self._scheduled[0]._when - self.time())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


def made_up(count: int) -> list[AnnotatedImage]:
    """Return described images without files, which these requests do not need."""
    return [AnnotatedImage(f"{k:04}", Path(f"{k:04}.jpg"), (f"Scene number {k}.",)) for k in range(count)]


async def ask_about(
    images: Sequence[AnnotatedImage],
    teacher: FakeService,
    out: Path,
    *,
    url: str | None = None,
    concurrency: int = 8,
    deadline_seconds: float = 30.0,
    price: Price | None = None,
    budget: float | None = None,
) -> tuple[list[RequestOutcome], RequestRunner]:
    """Ask about every image once, as `vistune generate` does; return the results and the runner, its journal closed."""
    service = TeacherOptions(model="fake-1", base_url=url or teacher.url, concurrency=concurrency)
    orders = make_requests(images, GenerationConfig(kinds=("conversation",)))
    client = Client(service.base_url, CANARY, concurrency=concurrency, deadline_seconds=deadline_seconds)
    limiter = RateLimiter(concurrency, clock=now)
    options = RunOptions(price=price, budget=budget)
    journal = Journal(out)
    try:
        runner = RequestRunner(client, journal, limiter, {"model": service.model}, options)
        return await ask_all(orders, service, runner, lambda tally: None), runner
    finally:
        journal.close()
        await client.close()
