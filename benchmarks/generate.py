"""How much of a plain loop's speed is left when every reply is journaled and judged: requests a second and memory.

python benchmarks/generate.py [--requests 10000] [--latency 0.2] [--concurrency 64] [--rounds 3]

A loopback teacher answers after LATENCY seconds. In turn, each in a process of its own:
  plain    asyncio and httpx2 alone: a semaphore, POST, json.loads, the text kept in a list
  vistune  `generate_by_model`: intents and replies on disk before use, pace, budget, checks, samples.json at the end
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import resident

from vistune.datagen import (
    GenerationConfig,
    TeacherOptions,
    generate_by_model,
    make_requests,
    needs_request,
    write_generated,
)
from vistune.datagen.teachers.options import prepare_request
from vistune.types import AnnotatedImage, Box

CONVERSATION = (
    "Question:\nIs it a calm scene?\n===\nAnswer:\nYes, it looks calm and quiet.\n===\n"
    "Question:\nHow is the light?\n===\nAnswer:\nThe light is soft and even."
)
DETAIL = "The scene is calm and wide, with soft light that falls evenly on everything, and nothing is in a hurry."
WISHES = GenerationConfig(kinds=("conversation", "detail"))


def shown_images(requests: int) -> list[AnnotatedImage]:
    """Made-up descriptions as long as COCO's: five captions, four boxes."""
    boxes = tuple(Box("dog", 0.1 * k, 0.2, 0.1 * k + 0.3, 0.9) for k in range(4))
    return [
        AnnotatedImage(
            f"{k:012}",
            Path(f"{k:012}.jpg"),
            tuple(f"Scene {k}, told in way {n} at some length." for n in range(5)),
            boxes,
        )
        for k in range(requests // 2)
    ]


def serve(latency: float, port: Any) -> None:
    replies = {
        wanted: json.dumps(
            {
                "model": "fake-1",
                "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 900, "completion_tokens": 60},
            }
        ).encode()
        for wanted, text in ((b'"max_tokens":1024', CONVERSATION), (b'"max_tokens":768', DETAIL))
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(size)
                await asyncio.sleep(latency)
                reply = next(reply for wanted, reply in replies.items() if wanted in body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(reply), reply))
        except asyncio.IncompleteReadError:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


def plain(url: str, requests: int, concurrency: int) -> None:
    import httpx2

    service = TeacherOptions(model="fake-1", base_url=url)
    bodies = [prepare_request(order, service, None).body for order in make_requests(shown_images(requests), WISHES)]
    texts: list[str] = []

    async def main() -> None:
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        waiting = iter(bodies)
        async with httpx2.AsyncClient(timeout=60, limits=limits) as client:

            async def work() -> None:
                for body in waiting:
                    response = await client.post(f"{url}/chat/completions", content=body)
                    texts.append(json.loads(response.content)["choices"][0]["message"]["content"])

            await asyncio.gather(*(work() for _ in range(concurrency)))

    asyncio.run(main())
    assert len(texts) == len(bodies)


def ours(url: str, requests: int, concurrency: int) -> None:
    images = shown_images(requests)
    with tempfile.TemporaryDirectory() as folder:
        service = TeacherOptions(model="fake-1", base_url=url, concurrency=concurrency)
        made = generate_by_model(images, WISHES, service, Path(folder), lambda *_: None)
        write_generated(Path(folder), made, images)
    assert len(made.rows) == sum(map(needs_request, make_requests(images, WISHES))), made.rejects[:1]


def measured(role: Any, result: Any, *given: Any) -> None:
    began = time.monotonic()
    role(*given)
    result.put((time.monotonic() - began, resident() / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    server = context.Process(target=serve, args=(given.latency, port), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.05)
    url = f"http://127.0.0.1:{port.value}/v1"
    seconds: dict[str, list[float]] = {"plain": [], "vistune": []}
    for _ in range(given.rounds):
        for name, role in (("plain", plain), ("vistune", ours)):
            result = context.Queue()
            child = context.Process(target=measured, args=(role, result, url, given.requests, given.concurrency))
            child.start()
            took, memory = result.get()
            child.join()
            seconds[name].append(took)
            print(f"{name:8} {took:6.1f} s  {given.requests / took:6.1f} requests/s  peak {memory:.0f} MB", flush=True)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    best = given.requests * given.latency / given.concurrency
    print(f"speed of the plain loop kept: {middle['plain'] / middle['vistune']:.3f} (the teacher alone: {best:.1f} s)")
    sys.exit(0)


if __name__ == "__main__":
    main()
