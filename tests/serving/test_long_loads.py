"""Load the server for minutes: a thousand faults, mixed requests, and the largest images that it accepts."""

from __future__ import annotations

import io
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from commanded import commanded
from PIL import Image
from reference import Bench
from running_servers import CHAT, PATIENCE, body, data_url, png, question, running, until
from server_events import event_texts

from vistune.serving.api import Limits

SECONDS = float(os.environ.get("VISTUNE_SOAK_SECONDS", "600"))
pytestmark = pytest.mark.soak


def users(count: int, seconds: float, work: Any) -> list[Any]:
    """What `work(user, random)` gave, called again and again by so many users for so long."""
    end = time.monotonic() + seconds

    def one(user: int) -> list[Any]:
        chance, found = random.Random(user), []
        while time.monotonic() < end:
            found.append(work(user, chance))
        return found

    with ThreadPoolExecutor(count) as pool:
        return [result for results in pool.map(one, range(count)) for result in results]


def test_minutes_of_mixed_load(model_folder: Path) -> None:
    """32 users, texts and pictures, streamed: every answer is that of a server with nothing else to do."""
    asked = [
        body(
            messages=question(f"Number {k}?", *([data_url(png(colour=colour))] if colour else [])), max_tokens=4 + 3 * k
        )
        for k, colour in enumerate([None, "red", "blue", None, "green", None, "white", "black"])
    ]
    with commanded(model_folder, "--name", "tiny", "--slots", "32", "--queue", "64") as found:
        wanted = [found.http.post(CHAT, json=one).json()["choices"][0]["message"]["content"] for one in asked]
        clients = [httpx2.Client(base_url=found.address, timeout=PATIENCE, trust_env=False) for _ in range(32)]

        def work(user: int, chance: random.Random) -> float:
            number = chance.randrange(len(asked))
            began, first, text = time.monotonic(), None, ""
            with clients[user].stream("POST", CHAT, json={**asked[number], "stream": True}) as response:
                assert response.status_code == 200
                for part in response.iter_text():
                    text += part
                    if first is None and any(event_texts(text.rpartition("\n\n")[0])):
                        first = time.monotonic() - began
            assert text.endswith("data: [DONE]\n\n")
            assert "".join(event_texts(text)) == wanted[number]
            return first or 0.0

        users(32, SECONDS / 5, work)  # warm: caches fill
        until(found.idle)
        before, memory = found.kept(), found.resident_mb()
        waits = sorted(users(32, SECONDS, work))
        until(found.idle)
        print(f"mixed load: {len(waits)} answers in {SECONDS:.0f} s, first text after {waits[len(waits) // 2]:.2f} s "
              f"(median), {waits[int(0.99 * len(waits))]:.2f} s (99th percentile); memory {memory} -> "
              f"{found.resident_mb()} MB, files and threads {before} -> {found.kept()}")  # fmt: skip
        assert found.resident_mb() <= 1.02 * memory
        assert found.kept()[0] <= before[0] + 4
        for client in clients:
            client.close()


def test_images_as_large_as_are_accepted(model_folder: Path) -> None:
    """16 users send JPEGs of 6000 x 6000 pixels: memory stays within what the slots may hold, and does not grow."""
    noise = np.random.default_rng(0).integers(0, 256, (375, 375, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((6000, 6000)).save(buffer, "JPEG", quality=70)
    url = data_url(buffer.getvalue()).replace("image/png", "image/jpeg")
    slots, highest = 4, 0
    with commanded(model_folder, "--name", "tiny", "--slots", str(slots), "--queue", "16") as found:
        base = found.resident_mb()

        def work(user: int, chance: random.Random) -> int:
            nonlocal highest
            status = found.http.post(CHAT, json=body(messages=question(f"{chance.random()}", url))).status_code
            highest = max(highest, found.resident_mb())
            return status

        users(16, SECONDS / 5, work)
        until(found.idle)
        warm, before = found.resident_mb(), found.kept()
        statuses = users(16, SECONDS, work)
        until(found.idle)
        grown = found.resident_mb()
        print(f"large images: {len(statuses)} of {len(buffer.getvalue()) >> 10} KB, {statuses.count(200)} answered; "
              f"memory {base} -> {warm} -> {grown} MB, at most {highest} MB, files and threads {before} -> "
              f"{found.kept()}")  # fmt: skip
        assert set(statuses) <= {200, 429}
        assert statuses.count(200)
        assert highest <= base + slots * 250
        assert grown <= 1.02 * warm
        assert found.kept()[0] <= before[0] + 4


def test_a_thousand_faults(bench: Bench) -> None:
    with running(bench, limits=Limits(slots=4)) as found:
        batch = found.service.engine.batch
        step, chance = batch.step, random.Random(0)

        def sometimes() -> None:
            if chance.random() < 0.3:
                raise RuntimeError("a fault")
            step()

        batch.step = sometimes
        try:
            with ThreadPoolExecutor(8) as pool:
                statuses = list(pool.map(lambda k: found.ask(max_tokens=8).status_code, range(2000)))
        finally:
            batch.step = step
        until(found.idle)
        print(f"faults: {statuses.count(500)} of {len(statuses)} requests failed, {statuses.count(200)} were answered")
        assert statuses.count(500) >= 1000
        assert set(statuses) <= {200, 500, 429}
        assert found.ask().status_code == 200
        assert found.http.get("/health").status_code == 200
