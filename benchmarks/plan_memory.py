"""What `vistune plan` foresees beside what a run takes: python benchmarks/plan_memory.py [--case NAME] [--steps 4]

Eight stages over random backbones (CLIP 4x256 at 112 pixels, Llama 8x512 of 16,000 tokens), each a process of its own.
Memory is the most resident memory of the real training, less what the process held before. `--vision FOLDER --language
FOLDER` measures real backbones instead, with shuffle2x2 and chatml. Time is the median step's in one thread, foreseen
from rates measured between the steps: what other work on the machine slows, it slows for both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vistune.cli.app import TUNABLES

RATE = 1e-4
# One thread, which other work on the machine does not make wait for another; and the heap settings of `vistune train`.
QUIET = {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": TUNABLES}
FULL = {"projector": RATE, "language": RATE}
LORA = {"learn": {"projector": RATE, "adapters": RATE}, "lora": {"rank": 64, "alpha": 64}}
CASES: dict[str, dict[str, Any]] = {
    "projector": {"learn": {"projector": RATE}},
    "lora": LORA,
    "full": {"learn": FULL},
    "full, layers recomputed": {"learn": FULL, "recompute": ["language"]},
    "full, tower too": {"learn": {**FULL, "vision": RATE}},
    "lora, layers recomputed": {**LORA, "recompute": ["language"]},
    "full, rows of 4,096": {"learn": FULL, "tokens_per_row": 4096, "samples_per_step": 16},
    "full, muon": {"learn": FULL, "optimizer": "muon"},
}


def write_backbones(folder: Path) -> None:
    """Random weights in transformers' layout, with the built-in tokenizer."""
    import shutil

    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    from vistune.recipe import source_of

    torch.manual_seed(0)
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=112,
            patch_size=14,
        )
    ).save_pretrained(folder / "vision")
    CLIPImageProcessor(size={"shortest_edge": 112}, crop_size={"height": 112, "width": 112}).save_pretrained(
        folder / "vision"
    )
    LlamaForCausalLM(
        LlamaConfig(
            hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, vocab_size=16000,
            max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    ).save_pretrained(folder / "language")  # fmt: skip
    for file in Path(source_of("builtin", "language")).glob("token*"):
        shutil.copy(file, folder / "language")


def write_data(folder: Path, rows: int) -> None:
    """Rows of a picture and one to three turns of made-up words."""
    import numpy as np
    from PIL import Image

    chance = random.Random(0)
    words = ["red", "blue", "circle", "square", "left", "right", "above", "below", "large", "small", "is", "the", "of"]
    made = []
    for k in range(rows):
        pixels = np.random.default_rng(k).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        turns = []
        for number in range(chance.randint(1, 3)):
            asked = " ".join(chance.choices(words, k=8)) + "?"
            turns += [
                {"from": "human", "value": f"<image>\n{asked}" if number == 0 else asked},
                {"from": "gpt", "value": " ".join(chance.choices(words, k=chance.randint(10, 60)))},
            ]
        made.append({"id": str(k), "image": f"{k}.png", "kind": "detail", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(made))


def recipe_of(folder: Path, name: str, steps: int, real: dict[str, str] | None = None) -> Any:
    from vistune.recipe import validate

    stage = {
        "name": "stage",
        "steps": steps,
        "samples_per_step": 8,
        "tokens_per_row": 1024,
        "precision": "fp32",
        **CASES[name],
    }
    model = {"vision": str(folder / "vision"), "language": str(folder / "language")}
    if real is not None:
        model = {**real, "projector": "shuffle2x2_mlp2x_gelu", "template": "chatml"}
    return validate({"model": model, "data": str(folder / "data.json"), "stages": [stage]}, "benchmark")


def measured(folder: Path, name: str, steps: int, real: dict[str, str] | None) -> dict[str, float]:
    """One stage run for real in this process: what it held at most and what its steps took."""
    import torch

    from vistune.data.stages import plan_stages
    from vistune.interop.load import recipe_processor
    from vistune.model.kernel_caches import limit_kernel_caches
    from vistune.planner.memory import memory
    from vistune.planner.sizes import load_of, setup_of, sizes_of
    from vistune.planner.work import Device, seconds, this_cpu
    from vistune.progress import no_progress
    from vistune.training import Run
    from vistune.training.trainer import Trainer

    recipe = recipe_of(folder, name, steps, real)
    processor = recipe_processor(recipe)
    (planned,), _ = plan_stages(recipe, processor, no_progress)
    sizes, _ = sizes_of(recipe.model)
    setup, load = setup_of(recipe.stages[0], bf16=False), load_of(planned)
    foreseen = memory(sizes, setup, load.worst)
    limit_kernel_caches()
    torch.ones(64, 64) @ torch.ones(64, 64)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = held("VmRSS")
    took: list[float] = []
    rates: list[Device] = []
    train_step = Trainer.train_step

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        report = train_step(*arguments)
        took.append(time.perf_counter() - began)
        rates.append(this_cpu(sizes, bf16=False))
        return report

    Trainer.train_step = timed  # type: ignore[method-assign]
    Run(recipe, Path(tempfile.mkdtemp(dir=folder)), progress=no_progress).start(resume=False)
    return {
        "foreseen": foreseen.total,
        "held": held("VmHWM") - before,
        "step": statistics.median(seconds(sizes, setup, load, device) for device in rates) / steps,
        "took": statistics.median(took[1:]),
    }


def held(what: str) -> float:
    """Bytes of this process's resident memory, now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.split(f"{what}:")[1].split()[0])


def in_a_child(call: Callable[[], Any]) -> Any:
    """What a call gives in a process of its own, forked from one that holds modules and nothing else."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(call()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as told:
        said = told.read()
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
    return json.loads(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--vision", type=Path)
    parser.add_argument("--language", type=Path)
    given = parser.parse_args()
    if (given.vision is None) != (given.language is None):
        parser.error("give both --vision and --language, or neither")
    real = None if given.vision is None else {"vision": str(given.vision), "language": str(given.language)}
    if any(os.environ.get(name) != value for name, value in QUIET.items()):  # read when a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **QUIET})
    import vistune.api  # noqa: F401  here, so that no child imports it again
    from vistune.training import Run  # noqa: F401

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VISTUNE_CACHE"] = str(folder / "cache")
        in_a_child(lambda: (write_backbones(folder), write_data(folder, 96)))
        print("| stage | memory foreseen | measured | off by | a step foreseen | measured | off by |")
        print("| --- " * 7 + "|", flush=True)
        for case in [given.case] if given.case else CASES:
            found = in_a_child(lambda case=case: measured(folder, case, given.steps, real))
            memory, step = found["foreseen"] / found["held"] - 1, found["step"] / found["took"] - 1
            print(f"| {case} | {found['foreseen'] / 1e6:,.0f} MB | {found['held'] / 1e6:,.0f} MB | {memory:+.0%} "
                  f"| {found['step']:.2f} s | {found['took']:.2f} s | {step:+.0%} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
