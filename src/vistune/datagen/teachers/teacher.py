"""The remote teacher: every order asked, its reply judged, asked again where it fails, and nothing paid for lost.

orders -> requests (key = hash of the body) -> Asker -> reply -> turns, faults -> settled; then rows, from the journal
Asking fills the journal in whatever order replies come; rows are made from it afterwards in the orders' own order, so
that a run killed anywhere and taken up again writes the same bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vistune.datagen.checks import Fault, judge_reply
from vistune.datagen.teachers.prompts import OWN_LANGUAGES
from vistune.datagen.teachers.replies import Turns, parse_reply
from vistune.datagen.teachers.requests import Order
from vistune.datagen.teachers.service import Service, request_of
from vistune.llm_client import BatchRequest, RequestResult, RequestRunner, ask_batch, run_workers, stopping_by_signal
from vistune.llm_client.runner import LONG_REFUSALS


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


def judged(order: Order, answer: RequestResult) -> tuple[Turns, list[Fault]]:
    """The turns of an answer, or why it is not taken."""
    completion = answer.completion
    if completion.text is None:
        return (), [Fault(completion.fault, completion.detail or "the service's answer holds no usable text")]
    return judge_reply(
        completion.text, order.image, order.kind, order.language, asked_here=order.language in OWN_LANGUAGES
    )


FINAL = ("refused_by_service", "no_answer")  # asking the same again would not help


class Queues:
    """Where the workers of a run stand in line, so that no slot of the service is idle while replies are judged.

    asking: half as many again as there are slots have money reserved and an intent on disk: while one writes its
    reply to the journal, another one sends · judging: one reply a round of the loop, sending goes first.
    """

    def __init__(self, slots: int) -> None:
        self.asking = asyncio.Semaphore(slots * 3 // 2 + 1)
        self.judging = asyncio.Lock()
        self.workers = 3 * slots + 1


async def settle(order: Order, service: Service, asker: RequestRunner, queues: Queues) -> Settled:
    """Ask until a reply passes the checks, `tries` times at most."""
    request = request_of(order, service, asker.price)
    last: Settled | None = None
    for attempt in range(service.tries):
        key = f"{request.key}-{attempt}"
        async with queues.asking:
            answer = await asker.ask(
                key, request.body, prompt_bound=request.prompt_bound, completion_bound=request.completion_bound
            )
        async with queues.judging:
            await asyncio.sleep(0)
            _, faults = judged(order, answer)
        if not faults:
            return Settled(key)
        last = Settled(key if answer.offset is not None else None, tuple(faults))
        if faults[0].code in FINAL:
            break
    assert last is not None
    return last


async def ask_in_batches(
    orders: Sequence[Order],
    service: Service,
    asker: RequestRunner,
    report: Callable[[Tally], None],
    say: Callable[[str], None],
) -> list[Settled]:
    """Every order settled through the Batch API: a round of batches, then another one for what the checks rejected."""
    done: list[Settled | None] = [None] * len(orders)
    tally = Tally()
    await asker.begin()
    task = asyncio.current_task()
    assert task is not None
    with stopping_by_signal(asker, [task]):
        for attempt in range(service.tries):
            await _batch_round(orders, service, asker, done, attempt, say)
            for number, order in enumerate(orders):
                if done[number] is None:
                    done[number] = _settled_at(order, service, asker, attempt)
                    settled = done[number]
                    if settled is not None:
                        tally.take(settled)
                        report(tally)
    return _ended(done, asker)


async def _batch_round(
    orders: Sequence[Order],
    service: Service,
    asker: RequestRunner,
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
            questions.append(BatchRequest(f"{request.key}-{attempt}", request.body, worst))
    await ask_batch(asker, questions, poll_seconds=service.poll_seconds, report=say)


def _settled_at(order: Order, service: Service, asker: RequestRunner, attempt: int) -> Settled | None:
    """What the reply of one round makes of an order; None where it is to be asked once more."""
    key = f"{request_of(order, service, asker.price).key}-{attempt}"
    if key not in asker.ledger.replies:
        return Settled(None, (Fault("refused_by_service", asker.ledger.refused.get(key, "")),))
    _, faults = judged(order, asker.answer_at(asker.ledger.replies[key]))
    if not faults:
        return Settled(key)
    return Settled(key, tuple(faults)) if attempt == service.tries - 1 else None


async def ask_all(
    orders: Sequence[Order], service: Service, asker: RequestRunner, report: Callable[[Tally], None]
) -> list[Settled]:
    """Every order settled, `concurrency` at a time. Raises what stopped the run; what came until then is kept."""
    done: list[Settled | None] = [None] * len(orders)
    waiting = iter(first_of_each(orders))
    tally, queues = Tally(), Queues(service.concurrency)

    async def work() -> None:
        for number in waiting:
            settled = await settle(orders[number], service, asker, queues)
            done[number] = settled
            tally.take(settled)
            report(tally)

    await asker.begin()
    await run_workers(asker, [work() for _ in range(min(len(orders), queues.workers))])
    return _ended(done, asker)


def first_of_each(orders: Sequence[Order]) -> list[int]:
    """The order of requests, as indexes: first one request each for images spread over the run, then the rest.

    A run stops if its first requests are all refused, so these must not all be about one image.
    """
    firsts = list({order.image.id: k for k, order in reversed(list(enumerate(orders)))}.values())[::-1]
    step = max(1, len(firsts) // LONG_REFUSALS)
    spread = firsts[::step][:LONG_REFUSALS]
    return [*spread, *sorted(set(range(len(orders))) - set(spread))]


def _ended(done: Sequence[Settled | None], asker: RequestRunner) -> list[Settled]:
    """The outcomes of the orders. Raises RecipeError if all were refused with the same message."""
    ended = [settled for settled in done if settled is not None]
    faults = [settled.faults[0] for settled in ended if settled.faults]
    if len(faults) == len(ended) == asker.refusals.total() > 0 and len(asker.refusals) == 1:
        raise asker.refused_run(faults[-1].detail)
    return ended


def turns_of(order: Order, settled: Settled, asker: RequestRunner) -> tuple[Turns, str]:
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
