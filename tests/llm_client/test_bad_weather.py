"""Whole runs through hours of failures in virtual time: limits, an outage, broken lines, budgets."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

import pytest
from fake_teacher import TEXTS, Behaviour, FakeService, Request, completion, error
from paid_runs import check_accounts, paid, records
from virtual_time import ask_about, made_up, now, run

from vistune.datagen import GenerationConfig, TeacherOptions, make_requests
from vistune.datagen.teachers.options import prepare_request
from vistune.errors import BudgetError, TeacherError
from vistune.llm_client import Client, Price, RequestRunner
from vistune.llm_client.client import Outcome
from vistune.llm_client.limits import PROBE_SECONDS

RETRY_AFTER = {"1": 1.0, "30": 30.0, "600": 600.0, "date": 598.0, "soon": 1.0, "none": 1.0}


@pytest.mark.parametrize("form", RETRY_AFTER)
def test_nothing_is_sent_before_retry_after_is_over(tmp_path: Path, form: str) -> None:
    limited_at: list[float] = []
    under_way: list[tuple[float, int]] = []

    def behave(request: Request) -> Behaviour:
        under_way.append((request.at, teacher.under_way))
        if request.number == 100:
            limited_at.append(request.at + 0.2)
            header = formatdate(time.time() + 600, usegmt=True) if form == "date" else form
            given = {} if form == "none" else {"Retry-After": header}
            return Behaviour(429, error(429).body, given, delay=0.2)
        return Behaviour(delay=0.2)

    teacher = FakeService(behave)

    async def work() -> None:
        async with teacher.serving():
            settled, _ = await ask_about(made_up(600), teacher, tmp_path)
            assert all(not each.failures for each in settled)

    run(work())
    over = limited_at[0] + RETRY_AFTER[form]
    later = [request.at for request in teacher.asked if request.at > limited_at[0] + 0.01]
    assert min(later) >= over - 0.01, "sent while silence was asked for"
    assert min(later) < over + 5
    assert len(teacher.asked) == 601
    first = min(later)
    assert max(count for at, count in under_way if first <= at < first + 0.19) <= 4, "the slots did not shrink"
    assert max(count for at, count in under_way if at > first + 2) == 8, "the slots did not come back"


@pytest.mark.soak
def test_a_service_that_bears_eight_is_found_out(tmp_path: Path) -> None:
    """At most 5 % of 2,000 requests are refused after the first 200."""
    teacher = FakeService(
        lambda request: error(429, Retry_After="1") if teacher.under_way > 8 else Behaviour(delay=0.2)
    )

    async def work() -> None:
        async with teacher.serving():
            settled, _ = await ask_about(made_up(2000), teacher, tmp_path, concurrency=64)
            assert all(not each.failures for each in settled)

    run(work())
    refused = [request.status == 429 for request in teacher.asked[200:]]
    print(f"{sum(refused)} of {len(refused)} refused")
    assert sum(refused) <= 0.05 * len(refused)


def test_an_outage_of_a_minute_costs_nobody_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 % of answers are 5xx, then all of them for 60 s, then none."""
    chance = random.Random(5)
    began = 0.0
    waits: list[float] = []
    wait = RequestRunner.wait

    async def noted(self: RequestRunner, seconds: float) -> None:
        waits.append(seconds)
        await wait(self, seconds)

    monkeypatch.setattr(RequestRunner, "wait", noted)

    def behave(request: Request) -> Behaviour:
        nonlocal began
        began = began or request.at
        since = request.at - began
        broken = chance.random() < 0.2 if since < 3 else since < 63
        if broken:
            return Behaviour(chance.choice((500, 502, 503, 529)), b"", delay=0.05)
        return Behaviour(delay=0.2)

    teacher = FakeService(behave)

    async def work() -> None:
        async with teacher.serving():
            settled, _ = await ask_about(made_up(600), teacher, tmp_path, concurrency=16)
            assert all(not each.failures for each in settled)

    run(work())
    assert max(Counter(request.key.split("/")[0] for request in teacher.asked).values()) <= 6
    assert len(waits) > 60
    assert len(set(waits)) == len(waits), "two waits are equal"
    down = [request.at - began for request in teacher.asked if 3 <= request.at - began < 63]
    probes = [at for at in down if at > 8]  # the circuit is open by then
    assert probes
    assert all(later - earlier >= PROBE_SECONDS - 0.05 for earlier, later in pairwise(probes))


STALLS = {
    "drip": Behaviour(body=b"x" * 1000, drip=1.0),
    "stall after the headers": Behaviour(body=b"x", hang=True),
    "no answer": Behaviour(body=b"x", delay=3600),
}


@pytest.mark.parametrize("name", STALLS)
def test_the_deadline_holds_to_a_tenth(name: str) -> None:
    async def work() -> tuple[Outcome, float]:
        teacher = FakeService(lambda request: STALLS[name])
        async with teacher.serving():
            client = Client(teacher.url, None, concurrency=1, deadline_seconds=120)
            began = now()
            try:
                return await client.complete(b"{}"), now() - began
            finally:
                await client.close()

    outcome, took = run(work())
    assert outcome.kind == "unknown"
    assert took == pytest.approx(120, rel=0.1)


@asynccontextmanager
async def no_tls() -> AsyncIterator[str]:
    """A port that answers a TLS greeting in plain text; its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


@asynccontextmanager
async def nobody() -> AsyncIterator[str]:
    with socket.socket() as taken:  # bound and not listening: nobody else gets this port meanwhile
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


@asynccontextmanager
async def no_name() -> AsyncIterator[str]:
    """A name with an empty label: no resolver has it, and none is asked."""
    yield "http://name..invalid/v1"


UNREACHABLE = {"refused": nobody, "no such name": no_name, "no TLS": no_tls}
BROKEN = {**STALLS, "reset": Behaviour(body=completion("x"), cut=9)}


@pytest.mark.parametrize("name", [*UNREACHABLE, *BROKEN])
def test_a_line_that_stays_broken_is_tried_six_times_and_its_slot_is_free(tmp_path: Path, name: str) -> None:
    async def work() -> None:
        teacher = FakeService(lambda request: BROKEN[name])
        async with teacher.serving(), UNREACHABLE.get(name, no_name)() as url:
            url = url if name in UNREACHABLE else teacher.url
            if name in UNREACHABLE:  # the service was there before: this is an outage and no wrong address
                teacher.behave = lambda request: Behaviour()
                await ask_about(made_up(1), teacher, tmp_path)
                teacher.asked.clear()
            settled, runner = await ask_about(made_up(3)[-2:], teacher, tmp_path, url=url, concurrency=2)
            assert [each.failures[0].code for each in settled] == ["no_answer"] * 2
            assert runner.rate_limiter.in_flight == 0
            assert runner.budget.in_flight == 0
        failures = [record for record in records(tmp_path) if record["t"] == "failure"]
        assert Counter(record["key"] for record in failures).most_common()[-1][1] == 6
        kind = "failed" if name in UNREACHABLE else "unknown"
        assert Counter(record["kind"] for record in failures) == {kind: 12}, failures[0]
        assert len(teacher.asked) == (0 if name in UNREACHABLE else 12)

    run(work())


@pytest.mark.parametrize("name", UNREACHABLE)
@pytest.mark.parametrize("concurrency", [1, 16])
def test_an_address_where_nobody_ever_answered_ends_the_run_in_seconds(
    tmp_path: Path, name: str, concurrency: int
) -> None:
    async def work() -> None:
        teacher = FakeService()
        async with teacher.serving(), UNREACHABLE[name]() as url:
            began = now()
            with pytest.raises(TeacherError) as caught:
                await ask_about(made_up(30), teacher, tmp_path, url=url, concurrency=concurrency)
            assert now() - began < 5
        assert type(caught.value) is TeacherError
        assert caught.value.exit_code == 5
        assert f"cannot connect to {url}" in str(caught.value)
        assert "check --base-url" in str(caught.value)
        assert len([record for record in records(tmp_path) if record["t"] == "failure"]) <= 3 + 1.5 * concurrency

    run(work())


@pytest.mark.parametrize("name", BROKEN)
def test_a_line_that_breaks_now_and_then_costs_nobody_its_answer(tmp_path: Path, name: str) -> None:
    async def work() -> None:
        teacher = FakeService(lambda request: BROKEN[name] if request.number % 3 == 1 else Behaviour(delay=0.2))
        async with teacher.serving():
            settled, _ = await ask_about(made_up(30), teacher, tmp_path)
            assert all(not each.failures for each in settled)
            check_accounts(tmp_path, teacher.asked, kills=3)  # so many were billed and never arrived, at most

    run(work())


def spend_at_random(out: Path, seed: int) -> bool:
    """One schedule of prices, delays, usage, failures and slots; whether the budget ended it."""
    chance = random.Random(seed)
    price = Price(chance.uniform(0.1, 50), chance.uniform(0.1, 200))
    concurrency = chance.randint(1, 64)
    [order, *_] = make_requests(made_up(1), GenerationConfig(kinds=("conversation",)))
    most = prepare_request(order, TeacherOptions(model="fake-1"), price)
    worst = price.dollars(most.prompt_bound, most.completion_bound)
    budget = worst * chance.uniform(0.5, 80)
    real = 0.0

    def behave(request: Request) -> Behaviour:
        nonlocal real
        kind = chance.random()
        delay = chance.choice((0.0, 0.1, 1.0)) * chance.random()
        if kind < 0.1:
            return Behaviour(500, b"", delay=delay)
        usage = {
            "prompt_tokens": chance.choice((most.prompt_bound, chance.randint(1, most.prompt_bound))),
            "completion_tokens": chance.choice((most.completion_bound, chance.randint(1, most.completion_bound))),
        }
        real += price.dollars(*usage.values())  # billed from the moment that the service takes it
        assert real <= budget, "the service billed more than the budget"
        if kind < 0.15:
            return Behaviour(body=completion("cut"), cut=9, delay=delay)
        text = TEXTS["en"]["conversation"] if kind < 0.9 else "no"
        return Behaviour(body=completion(text, usage=usage if kind > 0.2 else None), delay=delay)

    async def work() -> bool:
        teacher = FakeService(behave)
        async with teacher.serving():
            asked = ask_about(made_up(30), teacher, out, concurrency=concurrency, price=price, budget=budget)
            [ended] = await asyncio.gather(asked, return_exceptions=True)
            stopped = now()
            await asyncio.sleep(5)
            assert not [request for request in teacher.asked if request.at > stopped], "sent after the end"
            if not isinstance(ended, BaseException):
                return False
            assert isinstance(ended, BudgetError), repr(ended)
            assert ended.exit_code == 4
            return True

    ended = run(work())
    assert paid(out) <= budget
    return ended


def test_no_schedule_exceeds_the_budget(tmp_path: Path) -> None:
    assert 0 < sum([spend_at_random(tmp_path / str(seed), seed) for seed in range(8)]) < 8


@pytest.mark.soak
def test_no_schedule_of_a_thousand_exceeds_the_budget(tmp_path: Path) -> None:
    ended = sum([spend_at_random(tmp_path / str(seed), seed) for seed in range(1000)])
    print(f"{ended} of 1,000 runs were ended by their budget")
    assert 100 < ended < 900
