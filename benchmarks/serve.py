"""Tokens a second of 16 concurrent streams beside transformers one at a time; the wait of a seventeenth.

python benchmarks/serve.py MODEL [--pictures 0,4,16] [--tokens 64] [--repeats 3] [--threads N]

MODEL: a folder in the llava-hf layout. Sixteen requests come at once: text alone (0), or about so many pictures.
transformers answers some of the same requests one after the other with `generate`, same ids and pixels. Both times
begin with the prompt and end with the last token; on one thread, seconds are the processor's own, so that other work
on the machine counts less. Then the wait for a first token by the clock, with the engine idle and with sixteen other
streams running in its thread; each time a prompt (and picture) never seen before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from pathlib import Path

import torch
from evaluate import Peer, image, timed

from vistune.generation import Engine
from vistune.interop import layouts
from vistune.processor import Processor
from vistune.types import Example, ImageRef, Message

STREAMS = 16
ASKED = ("What is unusual about this?", "Describe what you see.", "Tell a short story about it.", "Write a poem.")


class Requests:
    """Prompts of a benchmark: request k of a round is about picture k modulo `images`, or about none."""

    def __init__(self, processor: Processor, images: int) -> None:
        self.processor = processor
        self.images = images
        self.asked = 0

    def some(self, count: int) -> list[Example]:
        self.asked += 1
        return [self._prompt(k) for k in range(count)]

    def _prompt(self, number: int) -> Example:
        text = f"({self.asked}.{number}) {ASKED[number % len(ASKED)]}"
        if not self.images:
            return self.processor.encode_prompt([Message("user", (text,))])
        shown = ImageRef(image(1000 * self.asked + number % self.images))
        return self.processor.encode_prompt([Message("user", (shown, text))])


def throughput(engine: Engine, prompts: list[Example], tokens: int) -> tuple[float, list[str]]:
    """Tokens a second of all prompts at once, and what was said."""
    seconds, answers = timed(lambda: [a for a in [engine.submit(p, max_tokens=tokens) for p in prompts] if a.result()])
    return sum(answer.completion_tokens for answer in answers) / seconds, [answer.text for answer in answers]


def first_token(engine: Engine, prompt: Example) -> float:
    """Seconds until the first token is there, seen from another thread; it may not be a whole character yet."""
    answer = engine.submit(prompt, max_tokens=8)
    began = time.perf_counter()
    while not answer.completion_tokens:
        time.sleep(0.0005)
    seconds = time.perf_counter() - began
    answer.result()
    return seconds


def waits(engine: Engine, requests: Requests, times: int) -> tuple[list[float], list[float]]:
    """Seconds to a first token: idle, and beside sixteen streams that are asked anew as they end."""
    idle = [first_token(engine, requests.some(1)[0]) for _ in range(times)]
    leaving = threading.Event()
    company = requests.some(STREAMS)

    def keep_asking(prompt: Example) -> None:
        while not leaving.is_set():
            engine.submit(prompt, max_tokens=128).result()

    threads = [threading.Thread(target=keep_asking, args=(prompt,)) for prompt in company]
    for thread in threads:
        thread.start()
    while engine.running < STREAMS:
        time.sleep(0.01)
    loaded = []
    for _ in range(times):
        time.sleep(0.3)
        loaded.append(first_token(engine, requests.some(1)[0]))
    leaving.set()
    for thread in threads:
        thread.join()
    return idle, loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", default="0,4,16", help="of sixteen requests; 0 for text alone")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", type=int, default=2, help="requests a repetition that transformers answers")
    parser.add_argument("--waits", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, processor = layouts.load(given.model, template="v1")
    peer = Peer(given.model, processor)
    print(f"{STREAMS} streams of {given.tokens} tokens, {given.threads} threads, load {os.getloadavg()[0]:.1f}")
    for images in map(int, given.images.split(",")):
        requests = Requests(processor, images)
        rows, same = [], True
        for _ in range(given.repeats):
            prompts = requests.some(STREAMS)
            ours, said = throughput(Engine(model, processor), prompts, given.tokens)
            seconds, alone = timed(
                lambda: [peer.answer([p], given.tokens)[0] for p in prompts[: given.alone]]  # noqa: B023
            )
            rows.append((ours, sum(map(len, alone)) / seconds))
            same &= said[: given.alone] == [processor.answer(tokens) for tokens in alone]
        ours, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
        with Engine(model, processor) as engine:
            idle, loaded = (statistics.median(seconds) for seconds in waits(engine, requests, given.waits))
        print(f"{images or 'no'} pictures: {ours:.0f} tokens/s against {theirs:.0f} one at a time, "
              f"{statistics.median(a / b for a, b in rows):.1f} x, answers {'the same' if same else 'DIFFER'}; "
              f"first token after {1000 * idle:.0f} ms idle, {1000 * loaded:.0f} ms as the seventeenth, "
              f"{loaded / idle:.1f} x", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
