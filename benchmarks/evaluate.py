"""Questions a second in the shape of two benchmarks, beside transformers on the same model, inputs and CPU.

python benchmarks/evaluate.py MODEL [--shape pope|mmbench] [--pictures 2] [--repeats 5] [--tokens 2] [--threads N]

MODEL: a folder in the llava-hf layout. pope: 18 questions a picture; mmbench: a question of four options, asked in
four rotations. Both sides get the same ids and the same decoded pictures, and what they say is compared. Each
repetition has new pictures: ours answers the questions of all of them, transformers some of these one at a time, from
every picture as far as they go, and one picture's as a batch; the medians of the repetitions' ratios are printed. On
one thread, seconds are the processor's own, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
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


SHAPES: dict[str, Callable[[], list[str]]] = {"pope": pope, "mmbench": mmbench}


class Peer:
    """transformers' own model of the folder, fed what our processor made."""

    def __init__(self, folder: Path, processor: Processor) -> None:
        from transformers import LlavaForConditionalGeneration

        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.image_id = self.model.config.image_token_id
        self.mean, self.std = (
            255 * torch.tensor(numbers).view(1, 3, 1, 1)
            for numbers in (processor.spec.image_mean, processor.spec.image_std)
        )

    def inputs(self, prompts: Sequence[Example]) -> dict[str, Any]:
        """Left-padded, as transformers wants a batch to be."""
        most = max(map(len, prompts))
        ids = torch.zeros(len(prompts), most, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, most - len(prompt) :] = torch.where(prompt.input_ids == IMAGE_ID, self.image_id, prompt.input_ids)
            mask[row, most - len(prompt) :] = 1
        pixels = [(prompt.images - self.mean) / self.std for prompt in prompts if len(prompt.images)]
        return {"input_ids": ids, "attention_mask": mask} | ({"pixel_values": torch.cat(pixels)} if pixels else {})

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Example], tokens: int) -> list[list[int]]:
        inputs = self.inputs(prompts)
        said = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        return [row.tolist() for row in said[:, inputs["input_ids"].shape[1] :]]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor where one thread works, else of the clock; and what came of it."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    done = work()
    return clock() - began, done


def resident_peak() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="pope")
    parser.add_argument("--pictures", type=int, default=2, help="of a repetition")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2, help="of an answer: a word and its end")
    parser.add_argument("--alone", type=int, default=6, help="questions a repetition that are asked one at a time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, processor = layouts.load(given.model, template="v1")
    questions = SHAPES[given.shape]()

    def prompts_of(seed: int) -> list[Example]:
        shown = ImageRef(image(seed))
        return [processor.encode_prompt([Message("user", (shown, text))]) for text in questions]

    def ours(prompts: Sequence[Example]) -> list[str]:
        said = generate(model, processor, prompts, max_tokens=given.tokens, batch_size=64)
        return [completion.text for completion in said]

    before = resident_peak()
    ours([prompt for seed in range(given.images) for prompt in prompts_of(seed)])
    grown = resident_peak() - before
    peer = Peer(given.model, processor)
    peer.answer(prompts_of(0)[:1], given.tokens)
    rows, same = [], True
    for repeat in range(given.repeats):
        images = [prompts_of(1000 + repeat * given.images + k) for k in range(given.images)]
        asked = [prompt for of_image in images for prompt in of_image]
        stride = max(len(asked) // given.alone, 1)
        alone, batch = asked[::stride][: given.alone], images[-1]
        our_seconds, our_said = timed(lambda: ours(asked))  # noqa: B023 - called at once
        alone_seconds, alone_said = timed(lambda: [peer.answer([p], given.tokens)[0] for p in alone])  # noqa: B023
        batch_seconds, batch_said = timed(lambda: peer.answer(batch, given.tokens))  # noqa: B023
        rows.append((len(asked) / our_seconds, len(alone) / alone_seconds, len(batch) / batch_seconds))
        same &= our_said[::stride][: len(alone)] == [processor.answer(tokens) for tokens in alone_said]
        same &= our_said[-len(batch) :] == [processor.answer(tokens) for tokens in batch_said]
    rates = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(f"{given.shape}: {given.images} pictures, {len(questions)} questions each of {len(asked[0])} tokens, "
          f"{given.tokens} tokens said, {given.threads} threads, load {os.getloadavg()[0]:.1f}, "
          f"{given.repeats} repetitions")  # fmt: skip
    print(f"ours {rates[0]:.2f} questions/s, transformers alone {rates[1]:.2f}, as a batch {rates[2]:.2f}")
    print(f"ratio to one at a time {statistics.median(r[0] / r[1] for r in rows):.1f}, "
          f"to batches {statistics.median(r[0] / r[2] for r in rows):.1f}; answers {'the same' if same else 'DIFFER'}; "
          f"memory beside the model {grown / 2**20:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
