"""Tokens per second of concurrent streams, beside transformers and llama.cpp; the wait of a further request.

python benchmarks/serve.py MODEL [--pictures 0,4,16] [--streams 1,16] [--precisions fp32,bf16] [--llama-cpp f32,q8_0]
    [--tokens 64] [--repeats 3] [--alone 2] [--waits 9] [--threads N] [--device cpu] [--json FILE] [--tiny] [--drawn]

MODEL: a folder in the llava-hf layout. `--tiny` makes a tiny one; `--drawn` draws CLIP-L/336 and Llama-7B in bf16 on
the device. The requests come at once: text only (0), or about so many images. The peers answer the same requests:
transformers some of them one after the other, and all of them as one padded batch, with the same ids and pixels;
llama.cpp all of them at once, on a GGUF export of MODEL (`--llama-cpp ""` leaves it out). llama.cpp reads the text and
the images itself within its time, so its prompts may differ by a few tokens. Times begin with the prompt and end with
the last token; on one thread, seconds are the processor's own, so that other work on the machine counts less.

For the first precision and the most streams, then the wait for a first token by the clock: with the engine idle, and
with all streams running in its thread; each time a prompt (and image) never seen before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evaluate import DTYPES, Peer, image, timed
from machine import Results, add_json, resident
from pairs import prepare

from vistune.generation import Engine
from vistune.interop import layouts
from vistune.processor import Processor
from vistune.types import Example, ImageRef, Message

ASKED = ("What is unusual about this?", "Describe what you see.", "Tell a short story about it.", "Write a poem.")


@dataclass(frozen=True)
class Request:
    """A question, and the seed of its image or None."""

    text: str
    image: int | None


class Requests:
    """Requests of a benchmark: request k of a round is about image k modulo `images`, or about none."""

    def __init__(self, processor: Processor | None, images: int) -> None:
        self.processor = processor
        self.images = images
        self.rounds = 0

    def some(self, count: int) -> list[Request]:
        self.rounds += 1
        return [self._request(k) for k in range(count)]

    def _request(self, number: int) -> Request:
        seed = 1000 * self.rounds + number % self.images if self.images else None
        return Request(f"({self.rounds}.{number}) {ASKED[number % len(ASKED)]}", seed)

    def encoded(self, request: Request) -> Example:
        assert self.processor is not None
        shown = () if request.image is None else (ImageRef(image(request.image)),)
        return self.processor.encode_prompt([Message("user", (*shown, request.text))])


def throughput(engine: Engine, prompts: list[Example], tokens: int) -> tuple[float, list[str]]:
    """Tokens per second of all prompts at once, and the answers."""
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


def waits(engine: Engine, requests: Requests, streams: int, times: int) -> tuple[float, float]:
    """Median seconds to a first token: idle, and while `streams` other answers run without a pause."""
    idle = [first_token(engine, requests.encoded(requests.some(1)[0])) for _ in range(times)]
    leaving = threading.Event()
    company = [requests.encoded(request) for request in requests.some(streams)]

    def keep_asking(prompt: Example) -> None:
        while not leaving.is_set():
            engine.submit(prompt, max_tokens=128).result()

    threads = [threading.Thread(target=keep_asking, args=(prompt,)) for prompt in company]
    for thread in threads:
        thread.start()
    while engine.running < streams:
        time.sleep(0.01)
    loaded = []
    for _ in range(times):
        time.sleep(0.3)
        loaded.append(first_token(engine, requests.encoded(requests.some(1)[0])))
    leaving.set()
    for thread in threads:
        thread.join()
    return statistics.median(idle), statistics.median(loaded)


@dataclass(frozen=True)
class Side:
    """Ours and transformers' model in one precision."""

    model: Any
    processor: Processor
    peer: Peer


def load(folder: Path, precision: str, given: argparse.Namespace) -> Side:
    """Load both sides in one precision."""
    dtype = DTYPES[precision]
    if given.drawn:
        import ours
        import peers

        from vistune.interop.load import recipe_processor

        setup = ours.Setup("stage1", precision, 1)
        processor = recipe_processor(ours.recipe_of(folder, setup))
        model = ours.drawn(folder, setup, processor.spec, given.device).to(dtype).eval()
        peer = Peer(peers.whole_model(folder, setup, given.device).to(dtype), processor)
    else:
        model, processor = layouts.load(folder, template="v1", dtype=dtype, device=given.device)
        peer = Peer.load(folder, processor, dtype)
        peer.model.to(given.device)
    return Side(model, processor, peer)


def compare(side: Side, images: int, streams: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return the median tokens per second of ours, and of transformers one at a time and as a batch."""
    requests, rows, same = Requests(side.processor, images), [], True
    for _ in range(given.repeats):
        prompts = [requests.encoded(request) for request in requests.some(streams)]
        ours, said = throughput(Engine(side.model, side.processor), prompts, given.tokens)
        some = prompts[: given.alone]
        seconds, alone = timed(lambda: [side.peer.answer([p], given.tokens)[0] for p in some])  # noqa: B023
        together, batch = timed(lambda: side.peer.answer(prompts, given.tokens))  # noqa: B023
        rows.append((ours, sum(map(len, alone)) / seconds, sum(map(len, batch)) / together))
        same &= said[: given.alone] == [side.processor.answer(tokens) for tokens in alone]
    ours, one, many = (statistics.median(column) for column in zip(*rows, strict=True))
    return {"ours": ours, "alone": one, "batch": many, "same": same}


def llama_cpp(folder: Path, kind: str, cases: list[tuple[int, int]], given: argparse.Namespace) -> Iterator[Any]:
    """Yield (images, streams, tokens per second) of llama.cpp on a GGUF export in `kind`."""
    from llama_cpp import LlamaCpp

    from vistune.interop.gguf import export_gguf

    with tempfile.TemporaryDirectory() as out:
        export_gguf(folder, Path(out, "gguf"), kind=kind)
        for images, streams in cases:
            yield images, streams, llama_cpp_rate(LlamaCpp(Path(out, "gguf"), streams, given.threads), images, given)


def llama_cpp_rate(server: Any, images: int, given: argparse.Namespace) -> float:
    """Return the median tokens per second of llama.cpp with all its streams."""
    from llama_cpp import data_url

    rates, requests = [], Requests(None, images)
    server.answer([("Hello", None)], 2)  # the first request warms up
    for _ in range(given.repeats):
        shown = [(each.text, None if each.image is None else data_url(image(each.image)))
                 for each in requests.some(server.streams)]  # fmt: skip
        seconds, tokens = timed(lambda: server.answer(shown, given.tokens))  # noqa: B023
        rates.append(tokens / seconds)
    return statistics.median(rates)


def measure_waits(side: Side, given: argparse.Namespace, results: Results) -> None:
    """Measure the wait for a first token with the most streams, for each number of images."""
    streams = max(map(int, given.streams.split(",")))
    for images in map(int, given.pictures.split(",")):
        with Engine(side.model, side.processor) as engine:
            idle, busy = waits(engine, Requests(side.processor, images), streams, given.waits)
        results.add(f"{images or 'no'} images: first token after {1000 * idle:.0f} ms idle, {1000 * busy:.0f} ms "
                    f"beside {streams} streams, {busy / idle:.1f} x", images=images, beside=streams, idle_s=idle,
                    busy_s=busy)  # fmt: skip


def run(folder: Path, given: argparse.Namespace, results: Results) -> None:
    """Measure all cases, and print each and ours at its best against the best of each peer."""
    cases = [(images, streams) for images in map(int, given.pictures.split(","))
             for streams in map(int, given.streams.split(","))]  # fmt: skip
    speeds: dict[tuple[int, int], dict[str, dict[str, float]]] = {case: {} for case in cases}
    for number, precision in enumerate(given.precisions.split(",")):
        side = load(folder, precision, given)
        for images, streams in cases:
            found = compare(side, images, streams, given)
            keep(speeds[images, streams], "ours", precision, found["ours"])
            keep(speeds[images, streams], "transformers", f"{precision}, one at a time", found["alone"])
            keep(speeds[images, streams], "transformers", f"{precision}, batch", found["batch"])
            same = "" if given.drawn else f"; answers {'the same' if found['same'] else 'DIFFER'}"
            results.add(f"{images or 'no'} images, {streams} streams, {precision}: ours {found['ours']:.0f} "
                        f"tokens/s, transformers one at a time {found['alone']:.0f}, as a batch "
                        f"{found['batch']:.0f}{same}", images=images, streams=streams, precision=precision,
                        load=os.getloadavg()[0], peak_bytes=resident(), **found)  # fmt: skip
        if number == 0 and given.waits:
            measure_waits(side, given, results)
    for kind in filter(None, given.llama_cpp.split(",")):
        for images, streams, rate in llama_cpp(folder, kind, cases, given):
            keep(speeds[images, streams], "llama.cpp", kind, rate)
            results.add(f"{images or 'no'} images, {streams} streams: llama.cpp {kind} {rate:.0f} tokens/s",
                        images=images, streams=streams, llama_cpp=kind, tokens_per_s=rate)  # fmt: skip
    for (images, streams), families in speeds.items():
        mine = best(families["ours"])
        for name in families.keys() - {"ours"}:
            peer = best(families[name])
            ratio = families["ours"][mine] / families[name][peer]
            results.add(f"{images or 'no'} images, {streams} streams: ours ({mine}) against {name} ({peer}): "
                        f"{ratio:.2f} x", images=images, streams=streams, ours=mine, against=name, peer=peer,
                        ratio=ratio)  # fmt: skip


def keep(families: dict[str, dict[str, float]], family: str, form: str, rate: float) -> None:
    families.setdefault(family, {})[form] = rate


def best(rates: Mapping[str, float]) -> str:
    """Return the name of the fastest form."""
    rate: Callable[[str], float] = rates.__getitem__
    return max(rates, key=rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--pictures", default="0,4,16", help="number of images of the requests; 0 for text only")
    parser.add_argument("--streams", default="1,16")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--llama-cpp", default="f32,q8_0", help="types of GGUF exports; empty for none")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", type=int, default=2, help="requests per repetition that transformers answers alone")
    parser.add_argument("--waits", type=int, default=9, help="first tokens that are measured; 0 for none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--drawn", action="store_true", help="CLIP-L/336 and Llama-7B with random weights, bf16")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, which shows only that the script runs")
    add_json(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if (given.model is None) != (given.tiny or given.drawn):
        parser.error("give either MODEL, or --tiny, --drawn, or both of these")
    if given.drawn:
        given.precisions, given.llama_cpp = "bf16", ""
    results = Results.begin(given.json, given.device)
    with tempfile.TemporaryDirectory() as work:
        if given.model is None:
            pair = ("tiny-drawn" if given.drawn else "tiny") if given.tiny else "7b"
            prepare(Path(work), given.shared, 1, pair)
        run(given.model or (Path(work) if given.drawn else Path(work, "llava-hf")), given, results)


if __name__ == "__main__":
    main()
