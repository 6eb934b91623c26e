"""A remote model as the judge of answers: its requests sent once, journaled, within a budget; never a silent failure.

bodies -> key = hash of the body and how often it came before -> Asker -> texts, in the bodies' order
The same body twice in one call asks for two opinions; the same call again is answered from the journal.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vistune.errors import TeacherError, VistuneError
from vistune.remote import Answer, Asker, Client, Journal, Pace, Price, read_key, read_prices, stopped

Body = Mapping[str, Any]  # a chat request without its `model`
T = TypeVar("T")
TRIES = 5  # of one judgement that cannot be read, as MM-Vet's own scorer


@dataclass(frozen=True, slots=True)
class Service:
    """Which model judges, where, at what pace and price."""

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_file: Path | None = None
    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    deadline_seconds: float = 120.0
    patience_seconds: float = 600.0
    budget: float | None = None  # dollars
    prices: Path | None = None
    allow_drift: bool = False

    def price(self) -> Price | None:
        return read_prices(self.prices).get(self.model)


class RemoteJudge:
    """Calls with request bodies give their texts; what was asked before is read from the journal in `folder`."""

    def __init__(self, service: Service, folder: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        self.service, self.folder, self.advance = service, folder, advance
        self.spent: dict[str, Any] = {}

    def __call__(self, bodies: Sequence[Body]) -> list[str]:
        """Raises what stops the run (BudgetError, RecipeError, Stopped), and TeacherError where an answer is missing.

        Whatever was answered until then is in the journal.
        """
        asker = self._open()
        try:
            answers = asyncio.run(self._ask(asker, keyed(self.service.model, bodies)))
            texts = [_text_of(answer, asker) for answer in answers]
        finally:
            self.spent = _spent(asker)
            asker.journal.close()
        failed = [answer.completion.fault for answer, text in zip(answers, texts, strict=True) if text is None]
        if failed:
            raise TeacherError(
                f"the judge {self.service.model!r} gave no text for {len(failed)} of {len(bodies)} requests: "
                f"{', '.join(sorted(set(failed)))}",
                f"nothing is averaged; the answers are kept in {self.folder}: run it again, or name another --judge",
            )
        return [text for text in texts if text is not None]

    def describe(self) -> dict[str, Any]:
        """What a result must say about its judge: model as asked and as it names itself, place, day, money."""
        place = {"model": self.service.model, "base_url": self.service.base_url}
        return {**place, "date": time.strftime("%Y-%m-%d", time.gmtime()), **self.spent}

    def _open(self) -> Asker:
        service = self.service
        key = read_key(os.environ, service.key_file)
        journal = Journal(self.folder)
        try:
            pace = Pace(
                service.concurrency,
                service.requests_per_minute,
                service.tokens_per_minute,
                patience_seconds=service.patience_seconds,
            )
            return Asker(
                Client(
                    service.base_url, key, concurrency=service.concurrency, deadline_seconds=service.deadline_seconds
                ),
                journal,
                pace,
                header={"model": service.model, "base_url": service.base_url, "use": "judge"},
                price=service.price(),
                budget=service.budget,
                allow_drift=service.allow_drift,
            )
        except BaseException:
            journal.close()
            raise

    async def _ask(self, asker: Asker, requests: Sequence[tuple[str, bytes, int]]) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(requests)
        waiting = iter(range(len(requests)))

        async def work() -> None:
            for number in waiting:
                answers[number] = await _answer(asker, *requests[number])
                self.advance(1)

        try:
            await asker.begin()
            workers = [asyncio.create_task(work()) for _ in range(min(len(requests), self.service.concurrency))]
            with _signals(asker, workers):
                await _all_ended(asker, workers)
        finally:
            await asker.client.close()
        return [answer for answer in answers if answer is not None]


def keyed(model: str, bodies: Sequence[Body]) -> list[tuple[str, bytes, int]]:
    """(key, bytes of the request, most tokens of its reply): equal bodies differ by how often they came before."""
    seen: Counter[str] = Counter()
    found = []
    for body in bodies:
        tree = {"model": model, **body}
        raw = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        key = hashlib.sha256(raw).hexdigest()[:32]
        found.append((f"{key}-{seen[key]}", raw, int(body.get("max_tokens", 4096))))
        seen[key] += 1
    return found


async def _answer(asker: Asker, key: str, body: bytes, most: int) -> Answer:
    """The first answer with a text; a faulty one that the journal holds already is no try of this run."""
    asked = attempt = 0
    while True:
        name = f"{key}.{attempt}"
        asked += name not in asker.ledger.replies
        # No vocabulary makes more tokens than there are bytes.
        answer = await asker.ask(name, body, prompt_bound=len(body) + 16, completion_bound=most)
        if answer.offset is None or _text_of(answer, asker) is not None or asked >= TRIES:
            return answer
        attempt += 1


def _text_of(answer: Answer, asker: Asker) -> str | None:
    """The reply's text, whole or cut off: a judge is asked for three tokens and its score is in them."""
    if answer.completion.fault != "cut_off" or answer.offset is None:
        return answer.completion.text
    text = json.loads(asker.journal.read(answer.offset)["body"])["choices"][0].get("message", {}).get("content")
    return text if isinstance(text, str) else None


def _spent(asker: Asker) -> dict[str, Any]:
    ledger = asker.ledger
    return {
        "answered_as": ledger.model,
        "dollars": round(ledger.dollars, 6),
        "maybe_dollars": round(ledger.maybe_dollars, 6),
        "priced": asker.price is not None,
        "replies": ledger.outcomes["reply"],
    }


async def _all_ended(asker: Asker, workers: Sequence[asyncio.Task[None]]) -> None:
    """Wait for the workers; the first error stops the others, and is raised when they have ended."""
    pending = set(workers)
    while pending:
        ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
        for task in ended:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                asker.stop(error if isinstance(error, VistuneError) else stopped())
    results = await asyncio.gather(*workers, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, VistuneError | asyncio.CancelledError):
            raise result
    if asker.stopping is not None:
        raise asker.stopping


@contextmanager
def _signals(asker: Asker, workers: Sequence[asyncio.Task[None]]) -> Iterator[None]:
    """The first SIGINT or SIGTERM stops sending; a second one cuts off what is under way."""
    loop = asyncio.get_running_loop()

    def ask_to_stop() -> None:
        if asker.stopping is not None:
            for task in workers:
                task.cancel()
        asker.stop(stopped())

    names = (signal.SIGINT, signal.SIGTERM)
    try:
        for name in names:
            loop.add_signal_handler(name, ask_to_stop)
    except (ValueError, RuntimeError):  # not in the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for name in names:
            loop.remove_signal_handler(name)


def judgements(
    judge: Callable[[Sequence[Body]], Sequence[str]],
    bodies: Mapping[str, Body],
    read: Callable[[str], T | None],
    again: Callable[[Body, int], Body] | None = None,
) -> dict[str, T]:
    """What the judge finds, by the bodies' names; one that cannot be read is asked for again, TRIES times in all.

    `again(body, attempt)` gives the body to ask with then, the same one if None. Raises TeacherError where one stays
    unreadable: a failed judgement is no score.
    """
    found: dict[str, T] = {}
    last: dict[str, str] = {}
    for attempt in range(TRIES):
        open_ = [name for name in bodies if name not in found]
        if again is None:  # the journal answers all askings but the last
            replies = judge([bodies[name] for name in open_ for _ in range(attempt + 1)])[attempt :: attempt + 1]
        else:
            replies = judge([again(bodies[name], attempt) if attempt else bodies[name] for name in open_])
        for name, reply in zip(open_, replies, strict=True):
            value = read(reply)
            last[name] = reply
            if value is not None:
                found[name] = value
        if len(found) == len(bodies):
            return found
    name = next(name for name in bodies if name not in found)
    raise TeacherError(
        f"{len(bodies) - len(found)} of {len(bodies)} judgements cannot be read, such as that of {name}: "
        f"{last[name]!r:.300}",
        "nothing is averaged; name another --judge",
    )
