"""The remote teacher: every order asked, its reply judged, asked again where it fails, and nothing paid for lost.

orders -> requests (key = hash of the body) -> Asker -> reply -> turns, faults -> settled; then rows, from the journal
Asking fills the journal in whatever order replies come; rows are made from it afterwards in the orders' own order, so
that a run killed anywhere and taken up again writes the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistune.datagen.checks import Fault, judge_reply
from vistune.datagen.orders import Order
from vistune.datagen.prompts import OWN_LANGUAGES, messages, prompts, system_prompt
from vistune.datagen.replies import Turns, parse_reply
from vistune.errors import VistuneError
from vistune.remote import (
    Answer,
    Asker,
    Client,
    Journal,
    Pace,
    Price,
    Question,
    ask_batch,
    read_key,
    read_prices,
    stopped,
)

GRACE_SECONDS = 30.0  # how long requests under way may take to end once the run is asked to stop
MOST_TOKENS = {"conversation": 1024, "detail": 768, "reasoning": 768, "caption": 96}


@dataclass(frozen=True, slots=True)
class Service:
    """Which model, where, at what pace and price."""

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_file: Path | None = None
    see: bool = False
    temperature: float = 0.7
    tries: int = 3  # of one order, where the checks reject what came
    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    deadline_seconds: float = 120.0
    patience_seconds: float = 600.0
    budget: float | None = None  # dollars
    prices: Path | None = None
    allow_drift: bool = False
    batch: bool = False
    poll_seconds: float = 30.0
    tokenizer: Path | None = None  # counts tokens where the endpoint's model has this one

    def price(self) -> Price | None:
        return read_prices(self.prices).get(self.model)

    def header(self, kinds: Sequence[str], languages: Sequence[str]) -> dict[str, Any]:
        """What answers depend on: a journal made with another header is refused."""
        asked = [(kind, language) for language in languages for kind in kinds]
        return {
            "model": self.model,
            "base_url": self.base_url,
            "parameters": {"temperature": self.temperature, "max_tokens": MOST_TOKENS, "see": self.see},
            "prompts": {
                f"{kind}/{language}": [
                    system_prompt(kind, language, see=self.see),
                    *(shot["reply"] for shot in prompts(language)[kind]["shots"] if language in OWN_LANGUAGES),
                ]
                for kind, language in asked
            },
        }


@dataclass(frozen=True, slots=True)
class Request:
    """One order as it goes over the wire; the bounds are tokens that it cannot exceed."""

    key: str
    body: bytes
    prompt_bound: int
    completion_bound: int


@dataclass(frozen=True, slots=True)
class Settled:
    """How an order ended: the key of its accepted reply, or the faults of the last one (and its key, if any came)."""

    key: str | None
    faults: tuple[Fault, ...] = ()


@dataclass
class Tally:
    """What the progress bar and the report show."""

    asked: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def take(self, settled: Settled) -> None:
        self.asked += 1
        if settled.faults:
            self.rejected[settled.faults[0].code] += 1
        else:
            self.accepted += 1


def request_of(order: Order, service: Service, price: Price | None) -> Request:
    asked = messages(order.image, order.kind, order.language, see=service.see)
    most = MOST_TOKENS[order.kind]
    tree = {"model": service.model, "messages": asked, "temperature": service.temperature, "max_tokens": most}
    body = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    # The order's name is part of the key: two orders that ask the same of the same picture want two answers.
    key = hashlib.sha256(order.name.encode() + b"\0" + body).hexdigest()[:32]
    return Request(key, body, prompt_bound(asked, price), most)


def prompt_bound(asked: Sequence[dict[str, Any]], price: Price | None) -> int:
    """Tokens that a prompt cannot exceed: no byte-level vocabulary makes more tokens than there are bytes."""
    total = 16
    for message in asked:
        parts = message["content"] if isinstance(message["content"], list) else [message["content"]]
        for part in parts:
            text = part if isinstance(part, str) else part.get("text", "")
            total += len(text.encode()) + 8
            if isinstance(part, dict) and part["type"] == "image_url":
                total += price.image_tokens if price else 0
    return total


def judged(order: Order, answer: Answer) -> tuple[Turns, list[Fault]]:
    """The turns of an answer, or why it is not taken."""
    completion = answer.completion
    if completion.text is None:
        return (), [Fault(completion.fault, "the service's answer holds no usable text")]
    return judge_reply(
        completion.text, order.image, order.kind, order.language, asked_here=order.language in OWN_LANGUAGES
    )


FINAL = ("refused_by_service", "no_answer")  # asking the same again would not help


async def settle(order: Order, service: Service, asker: Asker, price: Price | None) -> Settled:
    """Ask until a reply passes the checks, `tries` times at most."""
    request = request_of(order, service, price)
    last: Settled | None = None
    for attempt in range(service.tries):
        key = f"{request.key}-{attempt}"
        answer = await asker.ask(
            key, request.body, prompt_bound=request.prompt_bound, completion_bound=request.completion_bound
        )
        _, faults = judged(order, answer)
        if not faults:
            return Settled(key)
        last = Settled(key if answer.offset is not None else None, tuple(faults))
        if faults[0].code in FINAL:
            break
    assert last is not None
    return last


async def ask_in_batches(
    orders: Sequence[Order], service: Service, asker: Asker, report: Callable[[Tally], None], say: Callable[[str], None]
) -> list[Settled]:
    """Every order settled through the Batch API: a round of batches, then another one for what the checks rejected."""
    done: list[Settled | None] = [None] * len(orders)
    tally = Tally()
    await asker.begin()
    task = asyncio.current_task()
    assert task is not None
    with _signals(asker, [task]):
        for attempt in range(service.tries):
            await _batch_round(orders, service, asker, done, attempt, say)
            for number, order in enumerate(orders):
                if done[number] is None:
                    done[number] = _settled_at(order, service, asker, attempt)
                    settled = done[number]
                    if settled is not None:
                        tally.take(settled)
                        report(tally)
    return [settled for settled in done if settled is not None]


async def _batch_round(
    orders: Sequence[Order],
    service: Service,
    asker: Asker,
    done: Sequence[Settled | None],
    attempt: int,
    say: Callable[[str], None],
) -> None:
    price = asker.price
    questions = []
    for order, settled in zip(orders, done, strict=True):
        if settled is None:
            request = request_of(order, service, price)
            bounds = request.prompt_bound, request.completion_bound
            worst = price.dollars(*bounds, batch=True) if price else 0.0
            questions.append(Question(f"{request.key}-{attempt}", request.body, worst))
    await ask_batch(asker, questions, poll_seconds=service.poll_seconds, report=say)


def _settled_at(order: Order, service: Service, asker: Asker, attempt: int) -> Settled | None:
    """What the reply of one round makes of an order; None where it is to be asked once more."""
    key = f"{request_of(order, service, asker.price).key}-{attempt}"
    if key not in asker.ledger.replies:
        return Settled(None, (Fault("refused_by_service", asker.ledger.refused.get(key, "")),))
    _, faults = judged(order, asker.answer_at(asker.ledger.replies[key]))
    if not faults:
        return Settled(key)
    return Settled(key, tuple(faults)) if attempt == service.tries - 1 else None


async def ask_all(
    orders: Sequence[Order], service: Service, asker: Asker, report: Callable[[Tally], None]
) -> list[Settled]:
    """Every order settled, `concurrency` at a time. Raises what stopped the run; what came until then is kept."""
    price = asker.price
    done: list[Settled | None] = [None] * len(orders)
    waiting = iter(range(len(orders)))
    tally = Tally()

    async def work() -> None:
        for number in waiting:
            settled = await settle(orders[number], service, asker, price)
            done[number] = settled
            tally.take(settled)
            report(tally)

    await asker.begin()
    # Half as many again as there are slots: while one writes its reply to the journal, another one sends.
    workers = [asyncio.create_task(work()) for _ in range(min(len(orders), service.concurrency * 3 // 2 + 1))]
    with _signals(asker, workers):
        results = await _all_ended(workers, asker)
    wrong = [result for result in results if isinstance(result, BaseException)]
    ours = [error for error in wrong if not isinstance(error, VistuneError | asyncio.CancelledError)]
    if ours:
        raise ours[0]
    if asker.stopping is not None:
        raise asker.stopping
    return [settled for settled in done if settled is not None]


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
def _signals(asker: Asker, workers: Sequence[asyncio.Task[None]]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP stops sending; a second one cuts off what is under way."""
    loop = asyncio.get_running_loop()
    asked: list[int] = []

    def ask_to_stop(number: int) -> None:
        asked.append(number)
        asker.stop(stopped())
        if len(asked) > 1:
            for task in workers:
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


def open_asker(service: Service, folder: Path, header: dict[str, Any], *, seed: int = 0) -> Asker:
    """The journal of `folder` and a client to go on with it."""
    key = read_key(os.environ, service.key_file)
    journal = Journal(folder)
    try:
        pace = Pace(
            service.concurrency,
            service.requests_per_minute,
            service.tokens_per_minute,
            patience_seconds=service.patience_seconds,
        )
        client = Client(
            service.base_url, key, concurrency=service.concurrency, deadline_seconds=service.deadline_seconds
        )
        return Asker(
            client,
            journal,
            pace,
            header=header,
            price=service.price(),
            budget=service.budget,
            allow_drift=service.allow_drift,
            seed=seed,
        )
    except BaseException:
        journal.close()
        raise


def turns_of(order: Order, settled: Settled, asker: Asker) -> tuple[Turns, str]:
    """(turns, raw reply) of a settled order, read back from the journal; no turns where it was rejected."""
    if settled.key is None or settled.key not in asker.ledger.replies:
        return (), ""
    completion = asker.answer_at(asker.ledger.replies[settled.key]).completion
    raw = completion.text
    if raw is None:
        raw = str(asker.journal.read(asker.ledger.replies[settled.key])["body"])[:20_000]
    if settled.faults:
        return (), raw
    return parse_reply(raw, order.kind, asked_here=order.language in OWN_LANGUAGES), raw
