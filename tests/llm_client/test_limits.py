"""Rate limits and budget in virtual time: hours of waiting pass at once, in the real order of events."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import now, run

from vistune.errors import BudgetError, TeacherError
from vistune.llm_client import Budget, RateLimiter
from vistune.llm_client.limits import PROBE_SECONDS, backoff_seconds


@pytest.mark.parametrize("seconds", [1.0, 30.0, 600.0])
def test_nothing_is_sent_before_retry_after(seconds: float) -> None:
    async def work() -> None:
        limiter = RateLimiter(8, clock=now)
        await limiter.succeeded()
        sent: list[float] = []
        limited_at = 0.0

        async def ask(number: int) -> None:
            nonlocal limited_at
            async with limiter.turn(1):
                sent.append(now())
                await asyncio.sleep(0.2)
                if number == 0:
                    limited_at = now()
                    await limiter.limited(seconds)
                else:
                    await limiter.succeeded()

        await asyncio.gather(*map(ask, range(40)))
        assert len(sent) == 40
        early = [at for at in sent if limited_at < at < limited_at + seconds - 0.001]
        assert not early

    run(work())


def test_slots_settle_at_what_the_service_bears() -> None:
    """A service that bears 8 at once: after it is found out, at most 5 % of the requests are refused."""

    async def work() -> tuple[list[bool], float]:
        limiter = RateLimiter(64, clock=now)
        in_flight = 0
        refused: list[bool] = []

        waiting = iter(range(2000))

        async def ask() -> None:
            nonlocal in_flight
            for _ in waiting:
                limited = True
                while limited:
                    async with limiter.turn(1):
                        in_flight += 1
                        limited = in_flight > 8
                        await asyncio.sleep(0.2)
                        in_flight -= 1
                        refused.append(limited)
                        await (limiter.limited(1.0) if limited else limiter.succeeded())

        await asyncio.gather(*(ask() for _ in range(97)))
        return refused, limiter.slots

    refused, slots = run(work())
    settled = refused[200:]
    assert sum(settled) <= 0.05 * len(settled)
    assert 3 <= slots <= 10


def test_slots_come_back_after_a_storm() -> None:
    async def work() -> float:
        limiter = RateLimiter(32, clock=now)
        await limiter.succeeded()
        for _ in range(10):
            await limiter.limited(0.1)
            await asyncio.sleep(1)
        assert limiter.slots == 1
        for _ in range(1000):
            await limiter.succeeded()
        return limiter.slots

    assert run(work()) == 32


def test_the_first_request_goes_alone() -> None:
    async def work() -> None:
        limiter = RateLimiter(16, clock=now)
        in_flight = most = 0

        async def ask(number: int) -> None:
            nonlocal in_flight, most
            async with limiter.turn(1):
                in_flight += 1
                most = max(most, in_flight)
                if number == 0:
                    assert most == 1
                await asyncio.sleep(1)
                if number == 0:
                    assert most == 1
                in_flight -= 1
                await limiter.succeeded()

        await asyncio.gather(*map(ask, range(20)))
        assert most == 16

    run(work())


@pytest.mark.parametrize(("requests", "tokens"), [(60.0, None), (None, 6000.0), (120.0, 3000.0)])
def test_limits_by_the_minute_hold_in_every_minute(requests: float | None, tokens: float | None) -> None:
    async def work() -> list[float]:
        limiter = RateLimiter(64, requests, tokens, clock=now)
        sent: list[float] = []

        async def ask() -> None:
            async with limiter.turn(100):
                sent.append(now())
                await limiter.succeeded()

        await asyncio.gather(*(ask() for _ in range(300)))
        return sent

    sent = sorted(run(work()))
    most = min(requests or 1e9, (tokens or 1e9) / 100)
    for k, at in enumerate(sent):
        assert sum(at <= other < at + 60 for other in sent[k:]) <= most + 1
    assert sent[-1] - sent[0] <= 1.05 * 60 * 300 / most, "slower than the limits ask for"


def test_the_circuit_lets_one_probe_out_in_ten_seconds_and_closes_again() -> None:
    async def work() -> None:
        limiter = RateLimiter(16, clock=now)
        await limiter.succeeded()
        began = now()
        sent: list[float] = []

        async def ask() -> None:
            for attempt in range(40):
                async with limiter.turn(1):
                    at = now() - began
                    sent.append(at)
                    await asyncio.sleep(0.01)
                    broken = at < 60
                    await (limiter.failed() if broken else limiter.succeeded())
                if not broken:
                    return
                await asyncio.sleep(backoff_seconds(attempt, random.Random(attempt)))

        await asyncio.gather(*(ask() for _ in range(30)))
        opened = sorted(sent)[35]
        probes = [at for at in sent if opened + 0.1 < at < 60]
        assert len(probes) <= (60 - opened) / PROBE_SECONDS + 1
        assert max(sent) < 75, "the circuit did not close again"

    run(work())


def test_a_service_that_stays_down_ends_the_run() -> None:
    async def work() -> float:
        limiter = RateLimiter(4, patience_seconds=120, clock=now)
        began = now()

        async def ask_for_ever() -> None:
            while True:
                async with limiter.turn(1):
                    await limiter.failed()

        with pytest.raises(TeacherError, match="answered nothing for 120 s"):
            await ask_for_ever()
        return now() - began

    assert 120 < run(work()) < 120 + 2 * PROBE_SECONDS


def test_back_off_grows_with_jitter() -> None:
    rng = random.Random(0)
    waits = [[backoff_seconds(attempt, rng) for _ in range(200)] for attempt in range(6)]
    assert all(len(set(group)) == 200 for group in waits)
    for attempt, group in enumerate(waits):
        top = min(30, 0.5 * 2**attempt)
        assert all(top / 2 <= wait <= top for wait in group)


@settings(max_examples=150, deadline=None)
@given(
    limit=st.floats(0.5, 20),
    concurrency=st.integers(1, 64),
    seed=st.integers(0, 1 << 30),
    already=st.floats(0, 5),
)
def test_the_budget_is_never_exceeded(limit: float, concurrency: int, seed: int, already: float) -> None:
    """Random schedules of prices and delays: real costs up to the worst case, refusals, unknown outcomes."""
    rng = random.Random(seed)

    async def work() -> None:
        budget = Budget(limit, spent=already)
        paid = already
        waiting = iter(range(200))

        async def ask() -> None:
            nonlocal paid
            for _ in waiting:
                worst = rng.uniform(0.01, 0.4)
                try:
                    await budget.reserve(worst)
                except BudgetError:
                    return
                await asyncio.sleep(rng.random())
                actual = rng.choice((0.0, worst, worst * rng.random()))
                paid += actual
                assert paid <= limit + 1e-9 or paid == already, "more was spent than allowed"
                await budget.settle(worst, actual)

        await asyncio.gather(*(ask() for _ in range(concurrency)))
        assert budget.reserved == pytest.approx(0, abs=1e-9)
        assert budget.spent == pytest.approx(paid)

    run(work())
