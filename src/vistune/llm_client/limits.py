"""Limit what requests to a service may do: how many at once, how many per minute, and how many dollars.

RateLimiter.turn -> a free slot, the Retry-After deadline, requests and tokens per minute, the circuit breaker -> send
Budget.reserve   -> the worst-case cost is reserved before a request and settled when its reply has arrived
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from vistune.errors import BudgetError, RecipeError, TeacherError
from vistune.files import parse_yaml, read_text
from vistune.registry import guess

CIRCUIT_FAILURES = 20  # failures in a row that open the circuit
PROBE_SECONDS = 10.0  # between two probes while it is open
SUCCESSES_PER_SLOT = 32  # successes that add a slot; with these two, a service at its limit refuses about 4 %
DECREASE = 0.35  # share of the slots that is left after a 429
MILLION = 1_000_000


@dataclass
class Quota:
    """A limit per minute, spent evenly: each request waits until its share has accrued. None means no limit."""

    per_minute: float | None
    clock: Callable[[], float] = time.monotonic
    free_at: float = 0.0

    def wait_for(self, amount: float) -> float:
        """Take `amount` and return the seconds until it may be used."""
        if not self.per_minute:
            return 0.0
        now = self.clock()
        start = max(self.free_at, now)
        self.free_at = start + 60.0 * amount / self.per_minute
        return start - now


def backoff_seconds(attempt: int, rng: random.Random) -> float:
    """Return an exponential delay with jitter: 50 to 100 % of 0.5 x 2^attempt, at most 30 seconds."""
    delay: float = min(30.0, 0.5 * 2**attempt) * rng.uniform(0.5, 1.0)
    return delay


class RateLimiter:
    """Decides how many requests may be in flight and when the next one may be sent.

    No other request is sent until the first one succeeds, so a wrong key or model costs one call. Then all slots open.
    A 429 removes a share of the slots, and successes add them again one by one (additive increase, multiplicative
    decrease). Many failures in a row open the circuit: only a probe is sent from time to time.

    Args:
        patience_seconds: How long every request may fail before the run gives up.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        patience_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.concurrency, self.patience_seconds, self.clock = concurrency, patience_seconds, clock
        self.requests = Quota(requests_per_minute, clock)
        self.tokens = Quota(tokens_per_minute, clock)
        self.slots = 1.0
        self.has_started = False  # from the first success or 429 on
        self.in_flight = 0
        self.quiet_until = 0.0
        self.next_decrease = float("-inf")
        self.failures = 0
        self.failing_since: float | None = None
        self.probing = False
        self.last_probe = float("-inf")
        self.changed = asyncio.Condition()

    @property
    def open(self) -> bool:
        """Whether the circuit is open, so that only probes are sent."""
        return self.failures >= CIRCUIT_FAILURES

    @asynccontextmanager
    async def turn(self, tokens: int) -> AsyncIterator[None]:
        """Wait for a slot and for the limits. Raise TeacherError if everything failed for longer than the patience."""
        is_probe = await self._take_slot()
        try:
            await asyncio.sleep(max(self.requests.wait_for(1), self.tokens.wait_for(tokens)))
            while (left := self.quiet_until - self.clock()) > 0:  # may have grown during the sleep
                await asyncio.sleep(left)
            yield
        finally:
            async with self.changed:
                self.in_flight -= 1
                if is_probe:
                    self.probing = False
                self.changed.notify_all()

    async def _take_slot(self) -> bool:
        """Wait for a slot; return whether it is for the probe of an open circuit."""
        while True:
            async with self.changed:
                if self.open:
                    self._check_patience()
                    if not self.probing and self.clock() - self.last_probe >= PROBE_SECONDS:
                        self.probing, self.last_probe = True, self.clock()
                        self.in_flight += 1
                        return True
                    seconds = max(0.05, min(1.0, self.last_probe + PROBE_SECONDS - self.clock()))
                elif self.in_flight >= int(self.slots):
                    await self.changed.wait()
                    continue
                elif (seconds := self.quiet_until - self.clock()) <= 0:
                    self.in_flight += 1
                    return False
            await asyncio.sleep(seconds)

    def _check_patience(self) -> None:
        since = self.failing_since
        if since is not None and self.clock() - since > self.patience_seconds:
            raise TeacherError(
                f"the service answered nothing for {self.patience_seconds:.0f} s, {self.failures} failures in a row",
                "all answers so far are saved; run the same command again later",
            )

    async def succeeded(self) -> None:
        """Note an answer. The first one opens all slots; after a 429 they are added again one by one."""
        async with self.changed:
            self.failures, self.failing_since = 0, None
            if not self.has_started:
                self.slots, self.has_started = float(self.concurrency), True
            elif self.clock() > self.next_decrease:
                self.slots = min(float(self.concurrency), self.slots + 1 / SUCCESSES_PER_SLOT)
            self.changed.notify_all()

    async def refused(self) -> None:
        """Note a refused request: the service is up, but this says nothing about its capacity."""
        async with self.changed:
            self.failures, self.failing_since = 0, None

    async def failed(self) -> None:
        """Note a failure of the service or the network."""
        async with self.changed:
            self.failures += 1
            if self.failing_since is None:
                self.failing_since = self.clock()

    async def limited(self, retry_after: float | None) -> None:
        """Note a 429: nothing is sent for `retry_after` seconds, and slots are removed once in that time."""
        async with self.changed:
            now = self.clock()
            wait = retry_after if retry_after is not None else 1.0
            self.quiet_until = max(self.quiet_until, now + wait)
            self.has_started = True
            if now > self.next_decrease:
                self.slots = max(1.0, DECREASE * self.slots)
                self.next_decrease = now + wait


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens; `image_tokens` is the most that one image costs."""

    input: float
    output: float
    batch_factor: float = 0.5
    image_tokens: int = 0

    def dollars(self, prompt_tokens: int, completion_tokens: int, *, batch: bool = False) -> float:
        whole = (prompt_tokens * self.input + completion_tokens * self.output) / MILLION
        return whole * self.batch_factor if batch else whole


def read_prices(path: Path | None = None) -> dict[str, Price]:
    """Read the user's price table, or the shipped one.

    Raises:
        RecipeError: A model or field of the table is invalid.
    """
    name = str(path or "prices.yaml")
    shipped = resources.files("vistune.llm_client") / "prices.yaml"
    tree = parse_yaml(read_text(path) if path else shipped.read_text(encoding="utf-8"), name)
    models = tree.get("models") if isinstance(tree, dict) else None
    if not isinstance(models, dict):
        raise RecipeError(f"{name}: has no `models`", "write models: {NAME: {input: 2.5, output: 10.0}}")
    return {str(model): _price(entry, f"{name}: models.{model}") for model, entry in models.items()}


def _price(entry: object, location: str) -> Price:
    known = ("input", "output", "batch_factor", "image_tokens")
    if not isinstance(entry, Mapping) or not {"input", "output"} <= set(entry):
        raise RecipeError(f"{location}: needs input and output", "give both in dollars per million tokens")
    for key, value in entry.items():
        if key not in known:
            raise RecipeError(f"{location}.{key}: unknown", guess(str(key), known))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MILLION:
            raise RecipeError(
                f"{location}.{key}: {value!r} is not a price", "write a number of dollars per million tokens"
            )
    return Price(**entry)


def unpriced_model(model: str) -> RecipeError:
    """Return the error for a budget if the model's price is unknown."""
    return RecipeError(f"--budget: no price is known for the model {model!r}", how_to_price(model))


def how_to_price(model: str) -> str:
    return (
        f"write 'models: {{{model}: {{input: 2.5, output: 10}}}}', dollars per million tokens, to a file and give it "
        "with --prices"
    )


class Budget:
    """Dollars: `spent`, and `reserved` for requests in flight. Their sum never exceeds `limit`."""

    def __init__(self, limit: float | None, *, spent: float = 0.0) -> None:
        self.limit = limit
        self.spent = spent
        self.reserved = 0.0
        self.in_flight = 0
        self.changed = asyncio.Condition()

    async def reserve(self, worst: float) -> None:
        """Wait until `worst` dollars fit. Raise BudgetError if they do not fit even with nothing in flight."""
        async with self.changed:
            while self.limit is not None and self.spent + self.reserved + worst > self.limit:
                if self.in_flight == 0:
                    raise BudgetError(
                        f"the budget of ${self.limit:g} is spent: ${self.spent:.4f} so far, and the next request "
                        f"may cost ${worst:.4f}",
                        "all answers are saved; run the same command with a larger --budget",
                    )
                await self.changed.wait()
            self.reserved += worst
            self.in_flight += 1

    async def settle(self, worst: float, actual: float) -> None:
        """Replace a reservation by the actual cost."""
        async with self.changed:
            self.reserved -= worst
            self.spent += actual
            self.in_flight -= 1
            if self.in_flight == 0:
                self.reserved = 0.0  # remove rounding errors
            self.changed.notify_all()
