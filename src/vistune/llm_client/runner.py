"""Send paid requests until each has its reply, and never pay for one twice.

key + body -> in the journal? -> reserve money -> write the intent -> rate limits -> send -> write the reply -> settle
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from vistune.errors import BudgetError, RecipeError, TeacherError, VistuneError
from vistune.llm_client.client import Client, Outcome
from vistune.llm_client.dialect import Dialect, read_dialect
from vistune.llm_client.journal import Journal, Record, dollars_of, header_changes, read_ledger, reply_record
from vistune.llm_client.limits import Budget, Price, RateLimiter, backoff_seconds, unpriced_model
from vistune.llm_client.refusals import without_details
from vistune.llm_client.replies import ServiceCompletion, read_completion

log = logging.getLogger("vistune.llm_client")
MOST_SENDS = 6  # of one request, if the service or the network fails
FIRST_CONNECTS = 3  # tries to reach an address that never answered: the address is probably wrong
SAME_REFUSALS = 3  # refusals with the same message, before any reply, that end the run
LONG_REFUSALS = 5  # the same for a prompt that is too long: the first few may be the only long ones
ANY_REFUSALS = 8  # refusals with any messages, before any reply, that end the run
DISK_PATIENCE_SECONDS = 30.0  # how long a paid reply is held in memory while the disk refuses it

_HINTS = {
    "": "check the key, --base-url and --model",
    "key": "check the key: OPENAI_API_KEY, or the file given with --api-key-file",
    "model": "check --model: the service does not know a model of that name",
    "context": "serve the model with a longer context, lower --max-tokens, or name another --model",
}


@dataclass(frozen=True, slots=True)
class RequestResult:
    """The result for one key: the completion, and the offset of its record in the journal if there is one."""

    completion: ServiceCompletion
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Settings of a run of requests.

    Attributes:
        price: The model's price; a `budget` in dollars needs one.
        allow_drift: Whether the journal may contain replies to other settings, or of another model version.
        seed: Seed of the jitter between retries.
        own_fields: Fields of the body that the user set, each with its option; they are always sent.
        report: Called with each message for the user.
    """

    price: Price | None = None
    budget: float | None = None
    allow_drift: bool = False
    seed: int = 0
    own_fields: Mapping[str, str] = field(default_factory=dict)
    report: Callable[[str], None] = log.warning


class RequestRunner:
    """Sends requests to one endpoint, many at a time. A request that the journal already answers is not sent again.

    Args:
        header: The settings on which the journal's replies depend.

    Raises:
        RecipeError: The journal contains replies to other settings, or the budget needs a price.
    """

    def __init__(
        self,
        client: Client,
        journal: Journal,
        rate_limiter: RateLimiter,
        header: Mapping[str, object],
        options: RunOptions = RunOptions(),
    ) -> None:
        self.client, self.journal, self.rate_limiter, self.header = client, journal, rate_limiter, dict(header)
        self.price, self.allow_drift = options.price, options.allow_drift
        self.own_fields, self.report = options.own_fields, options.report
        self.ledger = read_ledger(journal)
        self.endpoint = f"{client.base_url} {header.get('model')}"
        self.stored_dialect = read_dialect(self.ledger.dialects.get(self.endpoint))
        omitted = tuple(name for name in self.stored_dialect.omitted if name not in self.own_fields)
        self.dialect = replace(self.stored_dialect, omitted=omitted)
        self.tried = {self.dialect}
        self.is_dialect_reported = self.dialect == Dialect()
        self.refusals: Counter[str] = Counter()
        if options.budget is not None and options.price is None:
            raise unpriced_model(str(header.get("model")))
        # Without replies, changed settings cannot contradict the journal.
        is_bound = self.ledger.holds_answers and not self.allow_drift
        if is_bound and self.ledger.header is not None and (diff := header_changes(self.ledger.header, self.header)):
            raise RecipeError(
                f"{journal.path}: contains answers that were given with another model, other parameters or "
                f"other prompts:\n{diff}\n",
                "give another --out, or --allow-drift to keep the old answers and ask what differs",
            )
        self.budget = Budget(options.budget, spent=self.ledger.dollars + self.ledger.maybe_dollars)
        self.rng = random.Random(options.seed)
        self.stopping: VistuneError | None = None
        self.reached = bool(self.ledger.replies)
        self.unreached = 0
        self.idle: set[asyncio.Task[object]] = set()

    async def begin(self) -> None:
        """Write this run's header, unless it is the journal's newest."""
        if self.ledger.header is None or header_changes(self.ledger.header, self.header):
            run = self.ledger.run or secrets.token_hex(12)
            await self.write({"t": "header", "header": self.header, "run": run, "at": time.time()})

    def report_dialect(self) -> None:
        """Report once, before anything is sent, in which form this run sends requests because of an earlier run."""
        if not self.is_dialect_reported:
            self.is_dialect_reported = True
            self.report(f"as an earlier run learned, {self.dialect.changes(Dialect())}")

    def stop(self, error: VistuneError) -> None:
        """Send no more requests; those in flight may end. The first error is the one that the run raises."""
        if self.stopping is None:
            self.stopping = error
            for task in self.idle:
                task.cancel()

    def check_stopped(self) -> None:
        """Raise the error for which the run stops, if there is one."""
        if self.stopping is not None:
            raise self.stopping

    @contextmanager
    def _idle(self) -> Iterator[Callable[[], None]]:
        """Mark the task as waiting, so that `stop` cancels it; the stop's error is then raised instead.

        Yields a function that ends the mark early: from then on the task is at work and may finish.
        """
        self.check_stopped()
        task = asyncio.current_task()
        assert task is not None
        end = partial(self.idle.discard, task)
        self.idle.add(task)
        try:
            yield end
        except asyncio.CancelledError:
            self.check_stopped()
            raise
        except (BudgetError, TeacherError) as error:
            self.stop(error)
            raise
        finally:
            end()

    async def ask(self, key: str, body: bytes, *, prompt_bound: int, completion_bound: int) -> RequestResult:
        """Return the result of one request; `prompt_bound` and `completion_bound` are upper bounds of its tokens.

        Raises:
            RecipeError, BudgetError, TeacherError, Stopped: The whole run stops.
        """
        if key in self.ledger.replies:
            return self.answer_at(self.ledger.replies[key])
        if key in self.ledger.refused:
            return _refused(self.ledger.refused[key])
        worst = self.price.dollars(prompt_bound, completion_bound) if self.price else 0.0
        for attempt in range(MOST_SENDS):
            outcome, send, dialect = await self._send(key, body, worst, prompt_bound + completion_bound)
            if outcome.kind == "reply":
                result = await self._write_reply(key, send, outcome, worst)
                await self.store_dialect(dialect)
                return result
            await self._write_failure(key, send, outcome, worst)
            if outcome.kind == "refused":
                return _refused(outcome.reason)
            await self.wait(max(backoff_seconds(attempt, self.rng), outcome.retry_after or 0.0))
        return RequestResult(ServiceCompletion(None, "no_answer", "", None, None, outcome.reason))

    async def wait(self, seconds: float) -> None:
        """Sleep; if the run is stopped, raise the error for which it stops."""
        with self._idle():
            await asyncio.sleep(seconds)

    def answer_at(self, offset: int) -> RequestResult:
        """Read a reply back from the journal."""
        record = self.journal.read(offset)
        return RequestResult(read_completion(record["body"], record["reason"]), offset)

    async def _send(self, key: str, body: bytes, worst: float, tokens: int) -> tuple[Outcome, int, Dialect]:
        """Reserve the worst case, write the intent and send the request; repeat after a 429 or in another form.

        Returns:
            The outcome, the number of the send, and the form in which the request was sent.
        """
        self.report_dialect()
        while True:
            with self._idle():
                await self.budget.reserve(worst)
            send = self.ledger.sends[key] + 1
            await self.write({"t": "intent", "key": key, "send": send, "worst": worst, "at": time.time()})
            outcome, dialect = Outcome("failed", 0, "", "not sent: stopping"), self.dialect
            try:
                with self._idle() as end_idle:
                    async with self.rate_limiter.turn(tokens):
                        end_idle()
                        self.check_stopped()
                        outcome = Outcome("unknown", 0, "", "no answer: stopping")
                        dialect = self.dialect
                        outcome = await self.client.complete(dialect.apply(body), key=f"{key}/{send}")
                        outcome = self.adapt(outcome, dialect, body)
                        await self._update_limits(outcome)
                        if error := self.error_of(outcome):  # before another request takes the slot
                            self.stop(error)
            except (VistuneError, asyncio.CancelledError):
                await asyncio.shield(self._write_failure(key, send, outcome, worst))
                raise
            if outcome.kind not in ("limited", "adapted") or self.stopping is not None:
                return outcome, send, dialect
            # These outcomes do not count as failures of the request: the rate limiter delays it after a 429, and a
            # refused form is replaced by one that was not tried yet.
            await self._write_failure(key, send, outcome, worst)

    async def store_dialect(self, dialect: Dialect) -> None:
        """Write the form of an answered request to the journal, so that the next run begins with it."""
        if dialect != self.stored_dialect:
            self.stored_dialect = dialect
            record = {"t": "dialect", "endpoint": self.endpoint, "dialect": dialect.to_dict(), "at": time.time()}
            await self.write(record)

    def adapt(self, outcome: Outcome, dialect: Dialect, body: bytes, *, batch: bool = False) -> Outcome:
        """Mark the outcome as `adapted` if the request should be sent in another form, learned now or meanwhile."""
        if outcome.error is None or outcome.kind not in ("refused", "failed", "stop_recipe"):
            return outcome
        if outcome.status in (401, 403, 404, 405) or not outcome.error.message:
            return outcome
        learned = dialect.adapted(outcome.error, body, kept=self.own_fields, batch=batch)
        if learned == dialect:
            return outcome
        if dialect == self.dialect:
            if learned in self.tried:
                return outcome
            self.tried.add(learned)
            self.dialect = learned
            self.report(learned.changes(dialect))
        return replace(outcome, kind="adapted")

    async def _update_limits(self, outcome: Outcome) -> None:
        self.note_reach(outcome)
        self.note_refusal(outcome)
        if outcome.kind == "limited":
            await self.rate_limiter.limited(outcome.retry_after)
        elif outcome.kind in ("failed", "unknown"):
            await self.rate_limiter.failed()
        elif outcome.kind == "reply" or (outcome.kind == "refused" and not self._concerns_run(outcome)):
            await self.rate_limiter.succeeded()
        else:
            await self.rate_limiter.refused()

    def note_reach(self, outcome: Outcome) -> None:
        """Note whether the address has ever answered. If it has, the run waits for the end of an outage."""
        self.reached = self.reached or outcome.kind != "failed" or outcome.status != 0
        self.unreached += not self.reached

    def note_refusal(self, outcome: Outcome) -> None:
        """Count a refusal that may concern the whole run."""
        if self._concerns_run(outcome):
            self.refusals[without_details(outcome.reason)] += 1

    def _concerns_run(self, outcome: Outcome) -> bool:
        """Return whether a refusal may concern the whole run: before any reply, and not from a content filter."""
        return outcome.kind == "refused" and outcome.about != "content" and not self.ledger.replies

    def _are_all_refused(self, outcome: Outcome) -> bool:
        if not self._concerns_run(outcome):
            return False
        most = LONG_REFUSALS if outcome.about == "context" else SAME_REFUSALS
        return self.refusals[without_details(outcome.reason)] >= most or self.refusals.total() >= ANY_REFUSALS

    async def _write_reply(self, key: str, send: int, outcome: Outcome, worst: float) -> RequestResult:
        """Write a paid reply to disk before anything else is done with it."""
        completion = read_completion(outcome.body, outcome.reason)
        dollars = dollars_of(completion, self.price, worst)
        before = self.ledger.model
        offset = await self.write(reply_record(key, send, outcome, completion, dollars))
        await self.budget.settle(worst, dollars)
        if before and completion.model and completion.model != before and not self.allow_drift:
            error = RecipeError(
                f"the service now answers with the model {completion.model!r}; earlier answers are from {before!r}",
                "name the exact version with --model, or --allow-drift",
            )
            self.stop(error)
            raise error
        return RequestResult(completion, offset)

    async def _write_failure(self, key: str, send: int, outcome: Outcome, worst: float) -> None:
        record = {
            "t": "failure",
            "key": key,
            "send": send,
            "kind": outcome.kind,
            "status": outcome.status,
            "reason": outcome.reason,
            "at": time.time(),
        }
        await self.write(record)
        await self.budget.settle(worst, worst if outcome.kind == "unknown" else 0.0)
        if error := self.error_of(outcome):
            raise error

    async def write(self, record: Record) -> int:
        """Append a record to the journal. While the disk refuses it, stop sending and try again."""
        until = time.monotonic() + DISK_PATIENCE_SECONDS
        while True:
            try:
                offset = await self.journal.append(record)
                self.ledger.add(offset, record)
                return offset
            except TeacherError as error:
                self.stop(error)
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.5)

    def error_of(self, outcome: Outcome) -> VistuneError | None:
        """Return the error that stops the run after this outcome, if no other request can succeed."""
        url = self.client.base_url
        if not self.reached and self.unreached >= FIRST_CONNECTS:
            return TeacherError(
                f"cannot connect to {url} ({outcome.reason})", "check --base-url, and that the service is up"
            )
        if outcome.kind == "stop_quota":
            return BudgetError(
                f"the service's quota is spent: {outcome.reason}",
                "every answer is kept; top up and run the same command",
            )
        if self._are_all_refused(outcome):
            return self.refused_run(outcome.reason, outcome.about)
        if outcome.kind != "stop_recipe":
            return None
        if self.client.key is None and (outcome.status in (401, 403) or outcome.about == "key"):
            return RecipeError(
                f"no key was given (OPENAI_API_KEY is not set), and {url} needs one: {outcome.reason}",
                "set OPENAI_API_KEY, or name a file that contains the key with --api-key-file",
            )
        return RecipeError(f"{url}: {outcome.reason}", _HINTS.get(outcome.about, _HINTS[""]))

    def refused_run(self, reason: str, about: str = "") -> RecipeError:
        """Return the error of a run whose requests are all refused, with the service's message."""
        count = self.refusals.total()
        times = f"the first {count} requests" if count > 1 else "the request"
        hint = _HINTS["context"] if about == "context" else "correct the setting that the message names"
        if name := next((name for name in self.own_fields if name in reason), ""):
            option = self.own_fields[name]
            hint = f"change or remove {name} in {option}" if option == "--extra-body" else f"change or remove {option}"
        return RecipeError(
            f"{self.client.base_url} refused {times} and answered none: {reason}",
            f"{hint}, then run the same command again: refused requests are sent again",
        )


def _refused(reason: str) -> RequestResult:
    return RequestResult(ServiceCompletion(None, "refused_by_service", "", None, None, reason))
