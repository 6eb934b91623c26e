"""Test that slots are freed and the next request is answered, whatever fails and whoever disconnects."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx2
import pytest
from commanded import commanded
from PIL import Image
from reference import Bench
from running_servers import CHAT, PATIENCE, Gate, Running, body, data_url, post, question, read_all, running, until

from vistune.serving.api import Limits


@pytest.fixture(scope="module")
def small(bench: Bench) -> Iterator[Running]:
    """Two slots, a queue of one, and answers that take many steps."""
    with running(bench, limits=Limits(slots=2, queue=1, write_seconds=0.5, heartbeat_seconds=0.1)) as found:
        yield found


def long_body(**changes: Any) -> dict[str, Any]:
    """An answer that goes on for hundreds of steps: random tokens seldom end it."""
    return body(**{"max_tokens": 900, "temperature": 2, "seed": 11, **changes})


def begin(found: Running, given: dict[str, Any]) -> socket.socket:
    connection = found.connect()
    connection.sendall(post(given))
    return connection


def reset(connection: socket.socket) -> None:
    """Close as a program that is killed does: RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def texts(answer: bytes) -> list[str]:
    events = answer.decode().split("data: ")[1:]
    return [event.partition("\n\n")[0] for event in events]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closed", "reset"])
def test_a_client_that_leaves_frees_its_slot_within_a_step(
    small: Running, stream: bool, leave: Callable[[socket.socket], None]
) -> None:
    with Gate(small) as gate:
        connection = begin(small, long_body(stream=stream))
        until(lambda: small.service.engine.running == 1)
        gate.steps.release(3)
        until(lambda: all(len(sequence.tokens) >= 3 for sequence in small.service.engine.batch.sequences))
        (place,) = small.service.active
        leave(connection)
        until(lambda: place.answers[0].is_cancelled)
        said = place.answers[0].completion_tokens
        until(lambda: not small.service.active)
        gate.steps.release(2)
        until(small.idle)
        assert place.answers[0].completion_tokens <= said + 1
    assert small.ask().status_code == 200


def test_requests_beyond_capacity_are_asked_to_retry(small: Running) -> None:
    with Gate(small):
        waiting = [begin(small, long_body(max_tokens=4)) for _ in range(3)]
        until(lambda: len(small.service.active) == 3)
        response = small.ask()
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] == "queue_full"
        huge = small.raw(post(b" " * 1000))
        assert huge.startswith(b"HTTP/1.1 429")
        for path in ("/health", "/ready", "/metrics", "/v1/models"):
            assert small.http.get(path).status_code == 200
        page = small.http.get("/metrics").text
        counts = [
            float(line.split()[1]) for line in page.splitlines() if line.startswith(("vistune_run", "vistune_wai"))
        ]
        assert sum(counts) == 3
    assert all(read_all(connection).startswith(b"HTTP/1.1 200") for connection in waiting)
    assert small.ask().status_code == 200


def test_a_stream_with_nothing_to_say_is_kept_alive(small: Running) -> None:
    with Gate(small):
        connection = begin(small, long_body(stream=True, max_tokens=4))
        received = b""
        while b": waiting for text" not in received:
            part = connection.recv(1 << 16)
            assert part, received
            received += part
    assert (received + read_all(connection)).rstrip(b"\r\n0").endswith(b"data: [DONE]")


def test_a_failing_model_fails_only_that_request(small: Running, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the whole batch, as out of memory is: told in shape, with an id that the log has, nothing leaks."""
    batch = small.service.engine.batch
    step = batch.step
    secret = "sk-canary in an error's words"

    def fail() -> None:
        batch.step = step
        raise RuntimeError(secret)

    for stream in (False, True) * 5:
        batch.step = fail
        response = small.ask(stream=stream, max_tokens=8)
        error = json.loads(texts(response.content)[-2])["error"] if stream else response.json()["error"]
        assert response.status_code == (200 if stream else 500)
        assert error["type"] == "server_error"
        assert secret not in response.text
        request_id = response.headers["x-request-id"]
        assert request_id in error["message"]
        until(lambda told=request_id: f"{told} failed: RuntimeError" in caplog.text)
        if stream:
            assert texts(response.content)[-1] == "[DONE]"
        until(small.idle)
        assert small.ask().status_code == 200
    assert secret not in caplog.text
    assert small.http.get("/health").status_code == 200


def test_an_unreadable_prompt_fails_only_its_request(small: Running) -> None:
    batch = small.service.engine.batch
    admit = batch.admit

    def fail(*given: Any) -> Any:
        raise MemoryError

    batch.admit = fail
    try:
        assert small.ask().status_code == 500
    finally:
        batch.admit = admit
    assert small.ask().status_code == 200


def test_health_tells_when_the_engine_is_gone(bench: Bench) -> None:
    with running(bench) as found:
        assert found.http.get("/health").status_code == 200
        found.service.engine.close()
        assert found.http.get("/health").status_code == 503
        assert found.http.get("/ready").status_code == 503


def test_an_answer_that_is_not_read_is_dropped_with_its_connection(bench: Bench) -> None:
    """A reader whose window is shut, with more to send than kernels hold: the connection is cut, others go on."""
    with running(bench, limits=Limits(write_seconds=0.3)) as found:
        connection = found.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        until(lambda: len(found.server.server_state.connections) == 1)
        connection.settimeout(0.1)
        try:
            while found.server.server_state.connections:
                connection.sendall(asked * 200)
        except OSError:  # nothing is taken from who takes nothing
            pass
        until(lambda: not found.server.server_state.connections)
        assert found.ask().status_code == 200


def test_large_images_leave_no_memory_behind(model_folder: Path) -> None:
    """Eight of a hundred megabytes, two at a time; the whole row is a soak test."""
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 5000), "red").save(buffer, "JPEG", quality=70)
    url = data_url(buffer.getvalue()).replace("image/png", "image/jpeg")
    with commanded(model_folder, "--name", "tiny") as found:

        def ask(number: int) -> int:
            asked = body(messages=question(f"{number}", *([url] if number else [])))
            return found.http.post(CHAT, json=asked).status_code

        assert ask(0) == 200
        before = found.resident_mb()
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(ask, range(1, 9))) == {200}
        until(lambda: found.resident_mb() < before + 50)  # half of one


def test_an_answer_that_takes_too_long_is_ended(bench: Bench) -> None:
    with running(bench, limits=Limits(answer_seconds=0.2)) as found:
        with Gate(found):
            whole = found.ask(max_tokens=50)
            streamed = found.ask(max_tokens=50, stream=True)
        assert whole.status_code == 504
        assert json.loads(texts(streamed.content)[-2])["error"]["code"] == "timeout"
        assert texts(streamed.content)[-1] == "[DONE]"
        until(found.idle)


def test_draining_finishes_answers_and_accepts_no_more(bench: Bench) -> None:
    with running(bench) as found, Gate(found) as gate:
        connection = begin(found, long_body(stream=True, max_tokens=20))
        until(lambda: found.service.engine.running == 1)
        found.server.drain()
        assert found.http.get("/ready").status_code == 503
        assert found.http.get("/health").status_code == 200
        response = found.ask()
        assert response.status_code == 503
        assert response.headers["retry-after"]
        gate.open.set()
        events = texts(read_all(connection))
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] in ("stop", "length")


def test_answers_that_take_longer_than_the_drain_are_ended(bench: Bench) -> None:
    with running(bench, limits=Limits(drain_seconds=0.2)) as found, Gate(found) as gate:
        connection = begin(found, long_body(stream=True))
        until(lambda: found.service.engine.running == 1)
        (place,) = found.service.active
        found.server.drain()
        until(lambda: place.answers[0].is_cancelled)
        gate.open.set()
        events = texts(read_all(connection))
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["error"]["code"] == "shutting_down"


def test_sigterm_under_load_exits_with_zero(model_folder: Path) -> None:
    """The command itself, as an operator runs it: streams end with [DONE], then the process does."""
    asked = long_body(stream=True, max_tokens=400, messages=question("A secret question"))
    with commanded(model_folder, "--name", "tiny") as found, ThreadPoolExecutor(4) as pool:
        client = found.http
        for _ in range(20):  # a busy machine may end one answer before the last has begun
            answers = [pool.submit(client.post, CHAT, json=asked) for _ in range(4)]
            while not (together := "vistune_running_answers 4.0" in client.get("/metrics").text):
                if any(answer.done() for answer in answers):
                    break
            if together:
                break
            wait(answers)
        found.process.send_signal(signal.SIGTERM)
        for answer in answers:
            assert answer.result().text.endswith("data: [DONE]\n\n")
        assert found.process.wait(PATIENCE) == 0
        assert not any("secret" in line for line in found.said)


@pytest.mark.soak
def test_thousands_of_requests_leave_nothing_behind(bench: Bench) -> None:
    """Thousands of requests, a third of them left half-way: nothing is kept of them."""
    import resource

    with running(bench, limits=Limits(slots=8)) as found:

        def some(number: int) -> None:
            if number % 3:
                assert found.ask(max_tokens=16, messages=question(f"number {number}")).status_code in (200, 429)
            else:
                connection = begin(found, long_body(stream=bool(number % 2)))
                time.sleep(0.05)
                reset(connection)

        def round_of(count: int) -> tuple[int, int]:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(some, range(count)))
            until(found.idle)
            files = len(os.listdir("/proc/self/fd"))
            return files, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        first = round_of(600)
        last = [round_of(600) for _ in range(4)][-1]
        print(f"open files {first[0]} -> {last[0]}, resident {first[1] >> 10} -> {last[1] >> 10} MB")
        assert last[0] <= first[0] + 16, "files or sockets are kept"
        assert last[1] <= first[1] * 1.02, "memory grows"
        assert found.ask().status_code == 200


@pytest.mark.soak
def test_hundreds_of_requests_at_once(model_folder: Path) -> None:
    """Six times as many as there are places: each is answered or told to come back, and health is told throughout.

    Bytes over bare connections, opened before: what is timed is the server, not a client.
    """

    async def storm(host: str, port: int) -> tuple[list[tuple[int, float]], list[float]]:
        given = post(body(max_tokens=32))
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        opened = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(300)))

        async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes) -> tuple[int, float]:
            began = time.monotonic()
            writer.write(said)
            status = int((await reader.readline()).split()[1])
            seconds = time.monotonic() - began
            await reader.read()
            writer.close()
            return status, seconds

        async def probe() -> list[float]:
            found = []
            while not asked.done():
                connection = await asyncio.open_connection(host, port)
                status, seconds = await ask(*connection, health)
                assert status == 200
                found.append(seconds)
            return found

        asked = asyncio.gather(*(ask(*connection, given) for connection in opened))
        healthy = await probe()
        return await asked, healthy

    with commanded(model_folder, "--name", "tiny", "--slots", "16", "--queue", "32") as found:
        url = httpx2.URL(found.address)
        answers, healthy = asyncio.run(storm(url.host, url.port or 80))
        until(found.idle)
        refused = sorted(seconds for status, seconds in answers if status == 429)
        print(
            f"storm: {len(refused)} of 300 refused, the first after {1000 * refused[0]:.0f} ms, the last after "
            f"{1000 * refused[-1]:.0f} ms; /health at most {1000 * max(healthy):.0f} ms"
        )
        assert {status for status, _ in answers} == {200, 429}
        assert len(answers) - len(refused) >= 48
        assert found.http.post(CHAT, json=body()).status_code == 200
