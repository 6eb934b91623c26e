"""Pace: as many requests at once as the service bears, within its limits, and silence when it asks for silence.

before each request: a free slot, the Retry-After deadline, requests/min and tokens/min, the circuit -> send
after it: a 429 halves the slots, successes widen them again, failures in a row open the circuit
The first request goes alone until it succeeds: a wrong key or model costs one call, not one of every slot.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from vistune.errors import TeacherError

CIRCUIT_FAILURES = 20  # failures in a row that open the circuit
PROBE_SECONDS = 10.0  # between two probes while it is open
# After a 429 the slots grow as TCP's congestion window does (CUBIC, RFC 9438): quickly back to where the 429 came,
# long about there, then faster and faster past it. A round is as many successes as there are slots.
CURVE = 0.0002


@dataclass
class Bucket:
    """So many a minute, spent smoothly: a request waits until its share has flowed in. None = no limit."""

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


def backoff_seconds(attempt: int, chance: random.Random, *, first: float = 0.5, most: float = 30.0) -> float:
    """Exponential with jitter: between half and all of first x 2^attempt, at most `most`."""
    return min(most, first * 2**attempt) * chance.uniform(0.5, 1.0)


@dataclass
class Pace:
    """How many requests may be under way, and when the next may go."""

    concurrency: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    patience_seconds: float = 600.0  # how long every request may fail before the run gives up
    clock: Callable[[], float] = time.monotonic
    under_way: int = 0
    quiet_until: float = 0.0
    failures: int = 0
    failing_since: float | None = None
    probing: bool = False
    last_probe: float = field(default=float("-inf"))

    def __post_init__(self) -> None:
        self.slots = 1.0  # until the first success
        self.peak = float(self.concurrency)  # the slots at which the last 429 came
        self.rounds: float | None = None  # of successes since the last 429
        self.requests = Bucket(self.requests_per_minute, self.clock)
        self.tokens = Bucket(self.tokens_per_minute, self.clock)
        self.changed = asyncio.Condition()
        self.narrowed = float("-inf")

    @property
    def open(self) -> bool:
        """Whether the circuit is open: nothing but a probe goes out."""
        return self.failures >= CIRCUIT_FAILURES

    @asynccontextmanager
    async def turn(self, tokens: int) -> AsyncIterator[None]:
        """A slot, when its time has come. Raises TeacherError when all has failed for longer than the patience."""
        probe = await self._slot()
        try:
            await self._pause(max(self.requests.wait_for(1), self.tokens.wait_for(tokens)))
            while (left := self.quiet_until - self.clock()) > 0:  # may have grown while we slept
                await self._pause(left)
            yield
        finally:
            async with self.changed:
                self.under_way -= 1
                if probe:
                    self.probing = False
                self.changed.notify_all()

    async def _slot(self) -> bool:
        """Wait for a slot; True where it is the open circuit's probe."""
        while True:
            async with self.changed:
                if self.open:
                    self._give_up_at_last()
                    if not self.probing and self.clock() - self.last_probe >= PROBE_SECONDS:
                        self.probing, self.last_probe = True, self.clock()
                        self.under_way += 1
                        return True
                elif self.under_way < max(1, int(self.slots)):
                    self.under_way += 1
                    return False
                else:
                    await self.changed.wait()
                    continue
            await self._pause(max(0.05, min(1.0, self.last_probe + PROBE_SECONDS - self.clock())))

    def _give_up_at_last(self) -> None:
        since = self.failing_since
        if since is not None and self.clock() - since > self.patience_seconds:
            raise TeacherError(
                f"the service answered nothing for {self.patience_seconds:.0f} s, {self.failures} failures in a row",
                "every answer so far is kept; run the same command again later",
            )

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def succeeded(self) -> None:
        async with self.changed:
            self.failures, self.failing_since = 0, None
            wider = self.peak
            if self.rounds is not None:
                self.rounds += 1 / self.slots
                wider += CURVE * (self.rounds - (self.peak / 2 / CURVE) ** (1 / 3)) ** 3
            self.slots = min(float(self.concurrency), max(1.0, wider))
            self.changed.notify_all()

    async def answered(self) -> None:
        """Note an answer that refused the request: the service is up, but this says nothing about its capacity."""
        async with self.changed:
            self.failures, self.failing_since = 0, None

    async def failed(self) -> None:
        """A failure of the service's or the network's."""
        async with self.changed:
            self.failures += 1
            if self.failing_since is None:
                self.failing_since = self.clock()

    async def limited(self, retry_after: float | None) -> None:
        """A 429: nothing goes out before `retry_after` seconds are over; the slots halve once a round."""
        async with self.changed:
            now = self.clock()
            wait = retry_after if retry_after is not None else 1.0
            self.quiet_until = max(self.quiet_until, now + wait)
            if now > self.narrowed:
                self.peak, self.rounds = self.slots, 0.0
                self.slots = max(1.0, self.slots / 2)
                self.narrowed = now + wait + 0.5
