"""Paid questions, each asked until it has its answer and never twice: client, journal, budget and pace put together.

key + body -> journaled already? -> reserve money -> intent on disk -> pace -> send -> settle -> reply on disk -> Answer
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from vistune.errors import BudgetError, RecipeError, Stopped, TeacherError, VistuneError
from vistune.remote.budget import Budget, Price, unpriced
from vistune.remote.client import Client, Completion, Outcome, read_completion
from vistune.remote.journal import Journal
from vistune.remote.ledger import dollars_of, drift, read_ledger, reply_record
from vistune.remote.pace import Pace, backoff_seconds

MOST_SENDS = 6  # of one question, where the service or the network fails
FIRST_CONNECTS = 3  # tries to reach an address that never answered anything: it is wrong rather than down
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
    ) -> None:
        self.client, self.journal, self.pace, self.price = client, journal, pace, price
        self.ledger = read_ledger(journal)
        self.header = dict(header)
        self.allow_drift = allow_drift
        if budget is not None and price is None:
            raise unpriced(str(header.get("model")))
        if self.ledger.header is not None and (diff := drift(self.ledger.header, self.header)) and not allow_drift:
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
        self._check_stopped()
        task = asyncio.current_task()
        assert task is not None
        end = partial(self.idle.discard, task)
        self.idle.add(task)
        try:
            yield end
        except asyncio.CancelledError:
            self._check_stopped()
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
            return Answer(Completion(None, "refused_by_service", "", None, None))
        worst = self.price.dollars(prompt_bound, completion_bound) if self.price else 0.0
        for attempt in range(MOST_SENDS):
            outcome, send = await self._send(key, body, worst, prompt_bound + completion_bound)
            if outcome.kind == "reply":
                return await self._reply(key, send, outcome, worst)
            await self._failure(key, send, outcome, worst)
            if outcome.kind == "refused":
                return Answer(Completion(None, "refused_by_service", "", None, None))
            await self.wait(max(backoff_seconds(attempt, self.chance), outcome.retry_after or 0.0))
        return Answer(Completion(None, "no_answer", "", None, None))

    async def wait(self, seconds: float) -> None:
        """Sleep, unless the run is stopped; then raises the reason."""
        with self._idle():
            await asyncio.sleep(seconds)

    def answer_at(self, offset: int) -> Answer:
        record = self.journal.read(offset)
        return Answer(read_completion(record["body"], record["reason"]), offset)

    def _check_stopped(self) -> None:
        if self.stopping is not None:
            raise self.stopping

    async def _send(self, key: str, body: bytes, worst: float, tokens: int) -> tuple[Outcome, int]:
        """One request on the wire, its worst case reserved and its intent on disk before that."""
        while True:
            with self._idle():
                await self.budget.reserve(worst)
            send = self.ledger.sends[key] + 1
            await self.keep({"t": "intent", "key": key, "send": send, "worst": worst, "at": time.time()})
            outcome = Outcome("failed", 0, "", "not sent: stopping")
            try:
                with self._idle() as end_idle:
                    async with self.pace.turn(tokens):
                        end_idle()
                        self._check_stopped()
                        outcome = Outcome("unknown", 0, "", "no answer: stopping")
                        outcome = await self.client.complete(body, key=f"{key}/{send}")
                        await self._tell_pace(outcome)
                        if why := self.why_to_stop(outcome):  # before the slot is free for another one
                            self.stop(why)
            except (VistuneError, asyncio.CancelledError):
                await asyncio.shield(self._failure(key, send, outcome, worst))
                raise
            if outcome.kind != "limited" or self.stopping is not None:
                return outcome, send
            await self._failure(key, send, outcome, worst)
            # A 429 is no failure of the question: it waits for the pace as long as that takes.

    async def _tell_pace(self, outcome: Outcome) -> None:
        self.note_reach(outcome)
        if outcome.kind == "limited":
            await self.pace.limited(outcome.retry_after)
        elif outcome.kind in ("failed", "unknown"):
            await self.pace.failed()
        else:
            await self.pace.succeeded()

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
        if outcome.status in (401, 403) and self.client.key is None:
            return RecipeError(
                f"no key was given (OPENAI_API_KEY is not set), and {self.client.base_url} wants one: {outcome.reason}",
                "set OPENAI_API_KEY, or name a file that holds the key with --api-key-file",
            )
        if outcome.kind == "stop_recipe":
            return RecipeError(f"{self.client.base_url}: {outcome.reason}", "check the key, --base-url and --model")
        return None

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


def stopped() -> Stopped:
    return Stopped("stopped as asked", "run the same command again to go on")
