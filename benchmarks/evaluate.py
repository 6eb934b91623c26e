"""Questions per second in the shape of two benchmarks, beside transformers at its best on the same model and inputs.

python benchmarks/evaluate.py MODEL [--shape pope,mmbench] [--precisions fp32,bf16] [--pictures 2] [--repeats 5]
    [--tokens 2] [--alone 6] [--threads N] [--json FILE] [--tiny]

MODEL: a folder in the llava-hf layout; `--tiny` makes a tiny one. pope: 18 questions per image; mmbench: a question of
four options, asked in four rotations. Both sides get the same ids and the same decoded images, in the same precision,
and their answers are compared. Each repetition has new images: ours answers the questions of all of them, transformers
some of these one at a time, and all questions of one image as a padded batch. The last line compares ours in its faster
precision with transformers' fastest form and precision. On one thread, seconds are the processor's own, so that other
work on the machine counts less. Memory is resident memory (VmHWM) above that of the loaded model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from machine import Results, add_json, resident
from pairs import prepare
from PIL import Image

from vistune.generation import generate
from vistune.interop import layouts
from vistune.processor import Processor
from vistune.types import IMAGE_ID, Example, ImageRef, Message

THINGS = ("person", "dog", "dining table", "traffic light", "boat", "umbrella", "cup", "bicycle", "bench", "bird",
          "car", "backpack", "bottle", "chair", "clock", "handbag", "truck", "skateboard")  # fmt: skip
OPTIONS = ("looking at a ball", "asleep under the table", "running after a boy", "there is no dog")


def image(seed: int) -> Image.Image:
    pixels = torch.randint(0, 256, (12, 16, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((640, 480))


def pope() -> list[str]:
    return [f"Is there a {thing} in the image?\nAnswer the question using a single word or phrase." for thing in THINGS]


def mmbench() -> list[str]:
    asked = "What is the dog in the middle of the picture doing?"
    rotations = [OPTIONS[k:] + OPTIONS[:k] for k in range(4)]
    listed = ["\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", r, strict=True)) for r in rotations]
    return [f"{asked}\n{text}\nAnswer with the option's letter from the given choices directly." for text in listed]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES: dict[str, Callable[[], list[str]]] = {"pope": pope, "mmbench": mmbench}


class Peer:
    """transformers' own model, fed the ids and pixels that our processor made."""

    def __init__(self, model: Any, processor: Processor) -> None:
        self.model = model.eval()
        self.image_id = self.model.config.image_token_id
        self.mean, self.std = (
            255 * torch.tensor(numbers).view(1, 3, 1, 1)
            for numbers in (processor.spec.image_mean, processor.spec.image_std)
        )

    @classmethod
    def load(cls, folder: Path, processor: Processor, dtype: torch.dtype) -> Peer:
        """Load the model of a llava-hf folder."""
        from transformers import LlavaForConditionalGeneration

        return cls(LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype), processor)

    def inputs(self, prompts: Sequence[Example]) -> dict[str, Any]:
        """Left-padded, as transformers wants a batch to be."""
        most = max(map(len, prompts))
        ids = torch.zeros(len(prompts), most, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, most - len(prompt) :] = torch.where(prompt.input_ids == IMAGE_ID, self.image_id, prompt.input_ids)
            mask[row, most - len(prompt) :] = 1
        pixels = [(prompt.images - self.mean) / self.std for prompt in prompts if len(prompt.images)]
        inputs = {"input_ids": ids, "attention_mask": mask}
        if pixels:
            inputs["pixel_values"] = torch.cat(pixels).to(self.model.dtype)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Example], tokens: int) -> list[list[int]]:
        inputs = self.inputs(prompts)
        said = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        return [self._cut(row.tolist()) for row in said[:, inputs["input_ids"].shape[1] :]]

    def _cut(self, tokens: list[int]) -> list[int]:
        """Return an answer without the padding that follows its end in a batch."""
        end = self.model.generation_config.eos_token_id
        ends = {end} if isinstance(end, int) else set(end or ())
        return tokens[: next((k + 1 for k, token in enumerate(tokens) if token in ends), len(tokens))]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds of the processor if one thread works without a GPU, else of the clock; and the result."""
    one_thread = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    clock = time.process_time if one_thread else time.perf_counter
    began = clock()
    done = work()
    return clock() - began, done


@dataclass(frozen=True)
class Rates:
    """Questions per second of ours, of transformers one at a time and as a batch; whether all answers are the same."""

    ours: float
    alone: float
    batch: float
    same: bool
    grown_bytes: int


def measure(model: Any, processor: Processor, peer: Callable[[], Peer], shape: str, given: argparse.Namespace) -> Rates:
    """Measure one shape in one precision."""
    questions = SHAPES[shape]()

    def prompts_of(seed: int) -> list[Example]:
        shown = ImageRef(image(seed))
        return [processor.encode_prompt([Message("user", (shown, text))]) for text in questions]

    def ours(prompts: Sequence[Example]) -> list[str]:
        said = generate(model, processor, prompts, max_tokens=given.tokens, batch_size=64)
        return [completion.text for completion in said]

    before = resident()
    ours([prompt for seed in range(given.pictures) for prompt in prompts_of(seed)])
    grown = resident() - before
    theirs = peer()
    theirs.answer(prompts_of(0)[:1], given.tokens)
    rows, same = [], True
    for repeat in range(given.repeats):
        images = [prompts_of(1000 + repeat * given.pictures + k) for k in range(given.pictures)]
        asked = [prompt for of_image in images for prompt in of_image]
        stride = max(len(asked) // given.alone, 1)
        alone, batch = asked[::stride][: given.alone], images[-1]
        our_seconds, our_said = timed(lambda: ours(asked))  # noqa: B023 - called at once
        alone_seconds, alone_said = timed(lambda: [theirs.answer([p], given.tokens)[0] for p in alone])  # noqa: B023
        batch_seconds, batch_said = timed(lambda: theirs.answer(batch, given.tokens))  # noqa: B023
        rows.append((len(asked) / our_seconds, len(alone) / alone_seconds, len(batch) / batch_seconds))
        same &= our_said[::stride][: len(alone)] == [processor.answer(tokens) for tokens in alone_said]
        same &= our_said[-len(batch) :] == [processor.answer(tokens) for tokens in batch_said]
    mine, one, together = (statistics.median(column) for column in zip(*rows, strict=True))
    return Rates(mine, one, together, same, grown)


def compare(folder: Path, shape: str, given: argparse.Namespace, results: Results) -> None:
    """Measure a shape in all precisions; print each, and ours at its best against transformers at its best."""
    found = {}
    for precision in given.precisions.split(","):
        dtype = DTYPES[precision]
        model, processor = layouts.load(folder, template="v1", dtype=dtype)
        rates = measure(model, processor, lambda: Peer.load(folder, processor, dtype), shape, given)  # noqa: B023
        found[precision] = rates
        results.add(f"{shape} {precision}: ours {rates.ours:.2f} questions/s, transformers one at a time "
                    f"{rates.alone:.2f}, as a batch {rates.batch:.2f}; answers {'the same' if rates.same else 'DIFFER'}"
                    f"; memory above the model {rates.grown_bytes / 2**20:.0f} MB (load {os.getloadavg()[0]:.1f})",
                    shape=shape, precision=precision, pictures=given.pictures, **asdict(rates))  # fmt: skip
    mine = max(found, key=lambda name: found[name].ours)
    peer = max(found, key=lambda name: max(found[name].alone, found[name].batch))
    best = max(found[peer].alone, found[peer].batch)
    results.add(f"{shape}: ours ({mine}) against transformers at its best ({peer}): {found[mine].ours / best:.1f} x",
                shape=shape, ours=mine, peer=peer, ratio=found[mine].ours / best)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--shape", default="pope,mmbench")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--pictures", type=int, default=2, help="of a repetition")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2, help="of an answer: a word and its end")
    parser.add_argument("--alone", type=int, default=6, help="questions per repetition that are asked one at a time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tiny", action="store_true", help="a tiny model, which shows only that the script runs")
    add_json(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.tiny == (given.model is not None):
        parser.error("give either MODEL or --tiny")
    results = Results.begin(given.json)
    with tempfile.TemporaryDirectory() as work:
        if given.tiny:
            prepare(Path(work), Path(), 1, "tiny")
        for shape in given.shape.split(","):
            compare(given.model or Path(work, "llava-hf"), shape, given, results)


if __name__ == "__main__":
    main()
