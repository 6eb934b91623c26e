"""Ask a remote teacher for every request, check its replies, and ask again if the checks reject one.

Replies come in any order and are kept in a journal. Samples are made from the journal afterwards, in the order of the
requests, so that a run that was killed and resumed writes the same bytes, and no paid reply is lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vistune.datagen.checks import CheckedReply, CheckFailure, check_reply
from vistune.datagen.teachers import Request
from vistune.datagen.teachers.options import TeacherOptions, prepare_request
from vistune.datagen.teachers.prompts import OWN_LANGUAGES
from vistune.datagen.teachers.replies import Turns, parse_reply
from vistune.llm_client import BatchRequest, RequestResult, RequestRunner, ask_batch, run_workers, stopping_by_signal
from vistune.llm_client.runner import LONG_REFUSALS

ReportRejects = Callable[[Counter[str]], None]  # called after each request with the number of rejects by reason
FINAL = ("refused_by_service", "no_answer")  # asking the same again would not help


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """How a request ended: the key of its accepted reply, or the failures (and key) of the last reply."""

    key: str | None
    failures: tuple[CheckFailure, ...] = ()


def check_answer(request: Request, answer: RequestResult) -> CheckedReply:
    """Check the reply in a service's answer. If there is no reply, return the reason."""
    completion = answer.completion
    if completion.text is None:
        detail = completion.detail or "the service's answer has no usable text"
        return CheckedReply((), (CheckFailure(completion.fault, detail),))
    return check_reply(
        completion.text, request.image, request.kind, request.language, asked_here=request.language in OWN_LANGUAGES
    )


class WorkerLimits:
    """Limits that keep every slot of the service busy while replies are checked.

    - asking: number of workers that may have reserved money and recorded their request. It is one and a half times the
      slots, so that some workers can send while others write replies to the journal
    - checking: one reply at a time, after waiting requests have been sent
    """

    def __init__(self, slots: int) -> None:
        self.asking = asyncio.Semaphore(slots * 3 // 2 + 1)
        self.checking = asyncio.Lock()
        self.workers = 3 * slots + 1


async def ask_until_accepted(
    request: Request, options: TeacherOptions, asker: RequestRunner, limits: WorkerLimits
) -> RequestOutcome:
    """Ask until a reply passes the checks, `tries` times at most."""
    prepared = prepare_request(request, options, asker.price)
    outcome = RequestOutcome(None)
    for attempt in range(options.tries):
        key = f"{prepared.key}-{attempt}"
        async with limits.asking:
            answer = await asker.ask(
                key, prepared.body, prompt_bound=prepared.prompt_bound, completion_bound=prepared.completion_bound
            )
        async with limits.checking:
            await asyncio.sleep(0)
            failures = check_answer(request, answer).failures
        if not failures:
            return RequestOutcome(key)
        outcome = RequestOutcome(key if answer.offset is not None else None, failures)
        if failures[0].code in FINAL:
            break
    return outcome


async def ask_all(
    requests: Sequence[Request], options: TeacherOptions, asker: RequestRunner, report: ReportRejects
) -> list[RequestOutcome]:
    """Ask for every request, `concurrency` at a time. Raises what stopped the run; earlier replies are kept."""
    outcomes: list[RequestOutcome | None] = [None] * len(requests)
    waiting = iter(first_of_each(requests))
    rejected, limits = Counter[str](), WorkerLimits(options.concurrency)

    async def work() -> None:
        for index in waiting:
            outcome = outcomes[index] = await ask_until_accepted(requests[index], options, asker, limits)
            rejected.update(failure.code for failure in outcome.failures[:1])
            report(rejected)

    await asker.begin()
    await run_workers(asker, [work() for _ in range(min(len(requests), limits.workers))])
    return _ended(outcomes, asker)


async def ask_in_batches(
    requests: Sequence[Request],
    options: TeacherOptions,
    asker: RequestRunner,
    report: ReportRejects,
    notify: Callable[[str], None],
) -> list[RequestOutcome]:
    """Send every request through the Batch API. Requests with rejected replies are sent again in the next round."""
    outcomes: list[RequestOutcome | None] = [None] * len(requests)
    rejected: Counter[str] = Counter()
    await asker.begin()
    task = asyncio.current_task()
    assert task is not None
    with stopping_by_signal(asker, [task]):
        for attempt in range(options.tries):
            open_indexes = [index for index, outcome in enumerate(outcomes) if outcome is None]
            questions = []
            for index in open_indexes:
                prepared = prepare_request(requests[index], options, asker.price)
                bounds = prepared.prompt_bound, prepared.completion_bound
                worst = asker.price.dollars(*bounds, batch=True) if asker.price else 0.0
                questions.append(BatchRequest(f"{prepared.key}-{attempt}", prepared.body, worst))
            await ask_batch(asker, questions, poll_seconds=options.poll_seconds, report=notify)
            for index, question in zip(open_indexes, questions, strict=True):
                is_last = attempt == options.tries - 1
                outcome = outcomes[index] = _batch_outcome(requests[index], question.key, asker, is_last=is_last)
                if outcome is not None:
                    rejected.update(failure.code for failure in outcome.failures[:1])
                    report(rejected)
    return _ended(outcomes, asker)


def _batch_outcome(request: Request, key: str, asker: RequestRunner, *, is_last: bool) -> RequestOutcome | None:
    """Return the outcome of a request after a batch; None if the request is sent again."""
    if key not in asker.ledger.replies:
        return RequestOutcome(None, (CheckFailure("refused_by_service", asker.ledger.refused.get(key, "")),))
    failures = check_answer(request, asker.answer_at(asker.ledger.replies[key])).failures
    if not failures:
        return RequestOutcome(key)
    return RequestOutcome(key, failures) if is_last else None


def first_of_each(requests: Sequence[Request]) -> list[int]:
    """Return the indexes of requests in sending order: one each for images spread over the run, then the rest.

    A run stops if its first requests are all refused, so these must not all be about one image.
    """
    firsts = list({request.image.id: k for k, request in reversed(list(enumerate(requests)))}.values())[::-1]
    step = max(1, len(firsts) // LONG_REFUSALS)
    spread = firsts[::step][:LONG_REFUSALS]
    return [*spread, *sorted(set(range(len(requests))) - set(spread))]


def _ended(outcomes: Sequence[RequestOutcome | None], asker: RequestRunner) -> list[RequestOutcome]:
    """Return the outcomes. Raises RecipeError if all requests were refused with the same message."""
    ended = [outcome for outcome in outcomes if outcome is not None]
    failures = [outcome.failures[0] for outcome in ended if outcome.failures]
    if len(failures) == len(ended) == asker.refusals.total() > 0 and len(asker.refusals) == 1:
        raise asker.refused_run(failures[-1].detail)
    return ended


def turns_of(request: Request, outcome: RequestOutcome, asker: RequestRunner) -> tuple[Turns, str]:
    """Return (turns, raw reply) of a request that has ended, from the journal; no turns if it was rejected."""
    if outcome.key is None or outcome.key not in asker.ledger.replies:
        return (), ""
    offset = asker.ledger.replies[outcome.key]
    raw = asker.answer_at(offset).completion.text
    if raw is None:
        raw = str(asker.journal.read(offset)["body"])[:20_000]
    if outcome.failures:
        return (), raw
    return parse_reply(raw, request.kind, asked_here=request.language in OWN_LANGUAGES), raw
