"""Train with TRL's SFTTrainer as well as its documentation allows for images; run by the training benchmarks.

python benchmarks/peer_trl.py WORK STAGE PRECISION [--at-once 1] [--steps 8] [--device cpu] [--compiled] [--recompute]

TRL refuses packing and padding-free batches for data sets with images, so samples are computed `--at-once` at a time
and their gradients are added (gradient accumulation): at 1, nothing is padded. `max_length=None`, as TRL's
documentation asks for images, the loss on the assistant's text only, bf16 with frozen weights stored in bf16, and no
recomputed activations unless asked, because these models fit into memory without. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from machine import resident
from ours import LORA, RATE, SAMPLES, Setup, Steps
from pairs import messages
from peers import lora_config, peer_model

WARM = 2


def dataset(work: Path) -> Any:
    """Return the rows as TRL wants them: messages and the paths of images."""
    from datasets import Dataset, Image

    rows = []
    for row in json.loads((work / "data.json").read_text()):
        turns = [{"role": each["role"], "content": [{"text": None, **part} for part in each["content"]]}
                 for each in messages(row)]  # fmt: skip
        rows.append({"messages": turns, "images": [str(work / "images" / row["image"])]})
    return Dataset.from_list(rows).cast_column("images", [Image()])


def train(work: Path, setup: Setup, device: str, at_once: int) -> Steps:
    """Train some steps and return their times."""
    import torch
    from transformers import AutoProcessor, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        times: list[float] = []  # noqa: RUF012

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())
            if device == "cuda" and len(self.times) == WARM + 1:
                torch.cuda.reset_peak_memory_stats()

    bf16 = setup.precision == "bf16"
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=at_once,
        gradient_accumulation_steps=SAMPLES // at_once, max_steps=setup.steps, learning_rate=RATE, bf16=bf16,
        use_cpu=device == "cpu", report_to=[], save_strategy="no", logging_steps=1, max_length=None,
        gradient_checkpointing=setup.recompute, torch_compile=setup.compiled, remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True}, assistant_only_loss=True, lr_scheduler_type="constant",
        dataloader_num_workers=0 if device == "cpu" else 4,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=peer_model(work, setup, device, narrow=bf16),
        args=config,
        train_dataset=dataset(work),
        processing_class=AutoProcessor.from_pretrained(work / "llava-hf"),
        callbacks=[Clock()],
        **({"peft_config": lora_config(setup)} if setup.stage in LORA else {}),
    )
    trainer.train()
    times = Clock.times
    return Steps(tuple(later - earlier for earlier, later in pairwise(times)), (), WARM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("stage")
    parser.add_argument("precision", choices=("fp32", "bf16"))
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--cap", type=float, help="bytes that the GPU's allocator may give out")
    given = parser.parse_args()
    setup = Setup(given.stage, given.precision, given.steps, compiled=given.compiled, recompute=given.recompute)
    if given.cap is not None and given.device == "cuda":
        import torch

        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, given.cap / whole))
    steps = train(given.work, setup, given.device, given.at_once)
    result: dict[str, Any] = {"seconds": steps.seconds, "warm": steps.warm, "peak_bytes": resident()}
    if given.device == "cuda":
        import torch

        result["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    print("\nRESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
