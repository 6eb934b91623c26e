"""Paid questions, each asked until it has its answer and never twice: client, journal, budget and pace put together.

key + body -> journaled already? -> reserve money -> intent on disk -> pace -> send -> settle -> reply on disk -> Answer
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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vistune.errors import BudgetError, RecipeError, Stopped, TeacherError, VistuneError
from vistune.llm_client.budget import Budget, Price, unpriced
from vistune.llm_client.client import Client, Completion, Outcome, read_completion
from vistune.llm_client.dialect import Dialect, read_dialect
from vistune.llm_client.journal import Journal
from vistune.llm_client.ledger import dollars_of, drift, read_ledger, reply_record
from vistune.llm_client.pace import Pace, backoff_seconds
from vistune.llm_client.refusals import same_words

log = logging.getLogger("vistune.llm_client")
MOST_SENDS = 6  # of one question, where the service or the network fails
FIRST_CONNECTS = 3  # tries to reach an address that never answered anything: it is wrong rather than down
SAME_REFUSALS = 3  # refusals with the same message, before any answer, that end the run
LONG_REFUSALS = 5  # the same for a prompt that is too long: the first few may be the only long ones
ANY_REFUSALS = 8  # refusals with any messages, before any answer, that end the run
DISK_PATIENCE_SECONDS = 30.0  # how long a paid answer is held in memory while the disk refuses it


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one key: the completion and where its record lies, or the reason why there is none."""

    completion: Completion
    offset: int | None = None


class Asker:
    """Asks one endpoint, many questions at a time; what the journal holds is never asked again."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        pace: Pace,
        *,
        header: Mapping[str, Any],
        price: Price | None = None,
        budget: float | None = None,
        allow_drift: bool = False,
        seed: int = 0,
        added: Mapping[str, str] | None = None,
        report: Callable[[str], None] = log.warning,
    ) -> None:
        """
        Args:
            added: fields of the body that are the user's own, each with its option.
            report: takes a line for a person.
        """
        self.client, self.journal, self.pace, self.price = client, journal, pace, price
        self.ledger = read_ledger(journal)
        self.header = dict(header)
        self.allow_drift = allow_drift
        self.added, self.report = dict(added or {}), report
        self.endpoint = f"{client.base_url} {header.get('model')}"
        self.remembered = read_dialect(self.ledger.dialects.get(self.endpoint))
        wanted = tuple(name for name in self.remembered.left_out if name not in self.added)
        self.dialect = replace(self.remembered, left_out=wanted)
        self.tried = {self.dialect}
        self.is_form_told = self.dialect == Dialect()
        self.refusals: Counter[str] = Counter()
        if budget is not None and price is None:
            raise unpriced(str(header.get("model")))
        # Without answers, changed settings cannot contradict the journal.
        bound = self.ledger.holds_answers and not allow_drift
        if bound and self.ledger.header is not None and (diff := drift(self.ledger.header, self.header)):
            raise RecipeError(
                f"{journal.path}: model, parameters or prompts are not those of the answers in it:\n{diff}\n",
                "give another --out, or --allow-drift to keep the old answers and ask what differs",
            )
        self.budget = Budget(budget, spent=self.ledger.dollars + self.ledger.maybe_dollars)
        self.chance = random.Random(seed)
        self.stopping: VistuneError | None = None
        self.reached = bool(self.ledger.replies)
        self.unreached = 0
        self.idle: set[asyncio.Task[Any]] = set()

    async def begin(self) -> None:
        """Write this run's header where it is not the journal's newest."""
        if self.ledger.header is None or drift(self.ledger.header, self.header):
            run = self.ledger.run or secrets.token_hex(12)
            await self.keep({"t": "header", "header": self.header, "run": run, "at": time.time()})

    def tell_form(self) -> None:
        """Report once, before anything is sent, what this run asks in another way because an earlier one learned it."""
        if not self.is_form_told:
            self.is_form_told = True
            self.report(f"as an earlier run learned, {self.dialect.changes(Dialect())}")

    def stop(self, why: VistuneError) -> None:
        """No question is sent from now on; what is under way may end. The first reason is the one that counts."""
        if self.stopping is None:
            self.stopping = why
            for task in self.idle:
                task.cancel()

    @contextmanager
    def _idle(self) -> Iterator[Callable[[], None]]:
        """A stretch of waiting that `stop` cuts short, with the reason for stopping in place of the cancellation.

        What is yielded ends the stretch early: from then on the task is at work, and may finish it.
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

    async def ask(self, key: str, body: bytes, *, prompt_bound: int, completion_bound: int) -> Answer:
        """The answer to one question; `prompt_bound`, `completion_bound`: tokens that it cannot exceed.

        Raises what stops a whole run: RecipeError (key, model or address wrong), BudgetError, TeacherError, Stopped.
        """
        if key in self.ledger.replies:
            return self.answer_at(self.ledger.replies[key])
        if key in self.ledger.refused:
            return _refused(self.ledger.refused[key])
        worst = self.price.dollars(prompt_bound, completion_bound) if self.price else 0.0
        for attempt in range(MOST_SENDS):
            outcome, send, form = await self._send(key, body, worst, prompt_bound + completion_bound)
            if outcome.kind == "reply":
                answer = await self._reply(key, send, outcome, worst)
                await self.remember(form)
                return answer
            await self._failure(key, send, outcome, worst)
            if outcome.kind == "refused":
                return _refused(outcome.reason)
            await self.wait(max(backoff_seconds(attempt, self.chance), outcome.retry_after or 0.0))
        return Answer(Completion(None, "no_answer", "", None, None, outcome.reason))

    async def wait(self, seconds: float) -> None:
        """Sleep, unless the run is stopped; then raises the reason."""
        with self._idle():
            await asyncio.sleep(seconds)

    def answer_at(self, offset: int) -> Answer:
        record = self.journal.read(offset)
        return Answer(read_completion(record["body"], record["reason"]), offset)

    def check_stopped(self) -> None:
        """Raise the reason for stopping, if there is one."""
        if self.stopping is not None:
            raise self.stopping

    async def _send(self, key: str, body: bytes, worst: float, tokens: int) -> tuple[Outcome, int, Dialect]:
        """One request on the wire, its worst case reserved and its intent on disk before that; the form it had."""
        self.tell_form()
        while True:
            with self._idle():
                await self.budget.reserve(worst)
            send = self.ledger.sends[key] + 1
            await self.keep({"t": "intent", "key": key, "send": send, "worst": worst, "at": time.time()})
            outcome, form = Outcome("failed", 0, "", "not sent: stopping"), self.dialect
            try:
                with self._idle() as end_idle:
                    async with self.pace.turn(tokens):
                        end_idle()
                        self.check_stopped()
                        outcome = Outcome("unknown", 0, "", "no answer: stopping")
                        form = self.dialect
                        outcome = await self.client.complete(form.apply(body), key=f"{key}/{send}")
                        outcome = self.adapt(outcome, form, body)
                        await self._tell_pace(outcome)
                        if why := self.why_to_stop(outcome):  # before the slot is free for another one
                            self.stop(why)
            except (VistuneError, asyncio.CancelledError):
                await asyncio.shield(self._failure(key, send, outcome, worst))
                raise
            if outcome.kind not in ("limited", "adapted") or self.stopping is not None:
                return outcome, send, form
            await self._failure(key, send, outcome, worst)
            # Neither outcome is a failure of the question: after a 429 it waits as long as the pace requires, and a
            # refused form is replaced by one that was not tried yet.

    async def remember(self, form: Dialect) -> None:
        """Journal the form of an answered request, so that the next run begins with it."""
        if form != self.remembered:
            self.remembered = form
            record = {"t": "dialect", "endpoint": self.endpoint, "dialect": form.to_dict(), "at": time.time()}
            await self.keep(record)

    def adapt(self, outcome: Outcome, form: Dialect, body: bytes, *, batch: bool = False) -> Outcome:
        """Mark the outcome as `adapted` if the request should be tried in another form, learned now or meanwhile."""
        if outcome.error is None or outcome.kind not in ("refused", "failed", "stop_recipe"):
            return outcome
        if outcome.status in (401, 403, 404, 405) or not outcome.error.message:
            return outcome
        learned = form.adapted(outcome.error, body, kept=self.added, batch=batch)
        if learned == form:
            return outcome
        if form == self.dialect:
            if learned in self.tried:
                return outcome
            self.tried.add(learned)
            self.dialect = learned
            self.report(learned.changes(form))
        return replace(outcome, kind="adapted")

    async def _tell_pace(self, outcome: Outcome) -> None:
        self.note_reach(outcome)
        self.note_refusal(outcome)
        if outcome.kind == "limited":
            await self.pace.limited(outcome.retry_after)
        elif outcome.kind in ("failed", "unknown"):
            await self.pace.failed()
        elif outcome.kind == "reply" or (outcome.kind == "refused" and not self._counts(outcome)):
            await self.pace.succeeded()
        else:
            await self.pace.answered()

    def note_refusal(self, outcome: Outcome) -> None:
        """Count a refusal that may concern the whole run."""
        if self._counts(outcome):
            self.refusals[same_words(outcome.reason)] += 1

    def _counts(self, outcome: Outcome) -> bool:
        """Whether a refusal may concern the whole run: no answer yet, and not from a content filter."""
        return outcome.kind == "refused" and outcome.about != "content" and not self.ledger.replies

    def _all_refused(self, outcome: Outcome) -> bool:
        if not self._counts(outcome):
            return False
        most = LONG_REFUSALS if outcome.about == "context" else SAME_REFUSALS
        return self.refusals[same_words(outcome.reason)] >= most or self.refusals.total() >= ANY_REFUSALS

    async def _reply(self, key: str, send: int, outcome: Outcome, worst: float) -> Answer:
        """Everything that was paid for goes to disk before anybody looks into it."""
        completion = read_completion(outcome.body, outcome.reason)
        dollars = dollars_of(completion, self.price, worst)
        before = self.ledger.model
        offset = await self.keep(reply_record(key, send, outcome, completion, dollars))
        await self.budget.settle(worst, dollars)
        if before and completion.model and completion.model != before and not self.allow_drift:
            error = RecipeError(
                f"the service answers as {completion.model!r} now, before as {before!r}",
                "name the exact version with --model, or --allow-drift",
            )
            self.stop(error)
            raise error
        return Answer(completion, offset)

    async def _failure(self, key: str, send: int, outcome: Outcome, worst: float) -> None:
        record = {
            "t": "failure",
            "key": key,
            "send": send,
            "kind": outcome.kind,
            "status": outcome.status,
            "reason": outcome.reason,
            "at": time.time(),
        }
        await self.keep(record)
        await self.budget.settle(worst, worst if outcome.kind == "unknown" else 0.0)
        if why := self.why_to_stop(outcome):
            raise why

    def note_reach(self, outcome: Outcome) -> None:
        """Whether anything at all was ever heard from this address; outages of one that answers are ridden out."""
        self.reached = self.reached or outcome.kind != "failed" or outcome.status != 0
        self.unreached += not self.reached

    def why_to_stop(self, outcome: Outcome) -> VistuneError | None:
        """The error of an answer after which no other question need be sent."""
        if not self.reached and self.unreached >= FIRST_CONNECTS:
            return TeacherError(
                f"cannot connect to {self.client.base_url} ({outcome.reason})",
                "check --base-url, and that the service is up",
            )
        if outcome.kind == "stop_quota":
            return BudgetError(
                f"the service's quota is spent: {outcome.reason}",
                "every answer is kept; top up and run the same command",
            )
        if self._all_refused(outcome):
            return self.refused_run(outcome.reason, outcome.about)
        if (
            outcome.kind == "stop_recipe"
            and self.client.key is None
            and (outcome.status in (401, 403) or outcome.about == "key")
        ):
            return RecipeError(
                f"no key was given (OPENAI_API_KEY is not set), and {self.client.base_url} wants one: {outcome.reason}",
                "set OPENAI_API_KEY, or name a file that holds the key with --api-key-file",
            )
        if outcome.kind == "stop_recipe":
            return RecipeError(f"{self.client.base_url}: {outcome.reason}", _HINTS.get(outcome.about, _HINTS[""]))
        return None

    def refused_run(self, reason: str, about: str = "") -> RecipeError:
        """The error of a run whose requests are all refused, with the service's message."""
        count = self.refusals.total()
        times = f"the first {count} requests" if count > 1 else "the request"
        hint = _HINTS["context"] if about == "context" else "change what it names"
        if name := next((name for name in self.added if name in reason), ""):
            option = self.added[name]
            hint = f"change or remove {name} in {option}" if option == "--extra-body" else f"change or remove {option}"
        return RecipeError(
            f"{self.client.base_url} refused {times} and answered none: {reason}",
            f"{hint}, then run the same command again: refused requests are asked again",
        )

    async def append(self, record: Mapping[str, Any]) -> int:
        offset = await self.journal.append(record)
        self.ledger.take(offset, record)
        return offset

    async def keep(self, record: Mapping[str, Any]) -> int:
        """Append what must not be lost: while the disk refuses, nothing is sent and this is held and tried again."""
        until = time.monotonic() + DISK_PATIENCE_SECONDS
        while True:
            try:
                return await self.append(record)
            except TeacherError as error:
                self.stop(error)
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.5)


_HINTS = {
    "": "check the key, --base-url and --model",
    "key": "check the key: OPENAI_API_KEY, or the file that --api-key-file names",
    "model": "check --model: the service knows no model of that name",
    "context": "serve the model with a longer context, lower --max-tokens, or name another --model",
}


def _refused(words: str) -> Answer:
    return Answer(Completion(None, "refused_by_service", "", None, None, words))


def stopped() -> Stopped:
    return Stopped("stopped as asked", "run the same command again to go on")
