"""Training speed and memory on one GPU at LLaVA-1.5's real shapes (CLIP-L/336 and Llama-7B), beside the best peers.

python benchmarks/train_gpu.py [--stages stage1,lora,qlora,full] [--who ours,plain,trl,compiled,single,trl-single]
    [--trl FOLDER] [--steps 10] [--limit 400] [--json FILE] [--shared ../shared] [--tiny] [--device cuda]

Weights are random, data are the real photographs and GPT-4 texts of shared/bench, 8 samples per step, bf16. Stage 1 and
LoRA hold the frozen weights in bf16; QLoRA holds the language model in NF4 like the recipe llava-v1.5-7b-qlora-24gb
(recomputed, rows of 2,048 tokens), and the allocator gets 24 GB at most; full tuning holds fp32 weights under autocast
with AdamW. Both sides recompute the language model in QLoRA and in full tuning. Every measurement is a process of its
own; one that fails or exceeds what is left of the stage's `--limit` is a row of the result, and does not stop the
others. Name `ours` or `compiled` before the peers: their FLOPs count the peers' MFU. The plain loop's batches are made
before its clock runs, and TRL has four workers; ours reads, decodes and packs within its time.

MFU: FLOPs that must be computed (planner/work.py), per second, over the measured rate of bf16 products and over the
data sheet's; peers are counted with the FLOPs of ours on the same samples. Memory is what the allocator gave out at
most, and the process's resident memory. `--tiny` runs the same code on tiny shapes; with `--device cpu` it needs no
GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import Results, add_json, resident, run_child
from ours import SAMPLES, Setup
from pairs import prepare

SHORTEST = 10.0  # seconds in which no measurement can end
RECOMPUTED = ("qlora", "full")
CAPPED = {"qlora": 24e9}  # bytes that the allocator may give out
WHO = "ours,plain,trl,compiled,single,trl-single"
TRL_AT_ONCE = {"trl": SAMPLES, "trl-single": 1}


@dataclass(frozen=True)
class Part:
    """One measurement: an implementation of a stage."""

    who: str
    stage: str


def setup_of(part: Part, given: argparse.Namespace) -> Setup:
    """Return how the stage is run; rows of 2,048 tokens for QLoRA as in its recipe, else of 8,192."""
    return Setup(
        part.stage,
        "bf16",
        given.steps,
        tokens_per_row=512 if given.tiny else 2048 if part.stage == "qlora" else 8192,
        compiled=part.who == "compiled",
        recompute=part.stage in RECOMPUTED,
        workers=1 if given.tiny else 4,
    )


def cap(stage: str, device: str) -> None:
    """Let the allocator give out no more than CAPPED of the stage."""
    import torch

    if device == "cuda" and stage in CAPPED:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAPPED[stage] / whole))


def measure(work: Path, part: Part, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one part in this process."""
    import torch

    cap(part.stage, given.device)
    reset: Callable[[], None] = torch.cuda.reset_peak_memory_stats if given.device == "cuda" else lambda: None
    setup = setup_of(part, given)
    if part.who in ("ours", "compiled"):
        import ours

        steps = ours.train(work, setup, given.device, reset)
    else:
        import peers

        steps = peers.train(work, part.who, setup, given.device, reset)
    result: dict[str, Any] = {"seconds": steps.seconds, "warm": steps.warm, "flops": steps.flops,
                              "peak_bytes": resident()}  # fmt: skip
    if given.device == "cuda":
        result["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
        result["gpu_reserved_bytes"] = torch.cuda.max_memory_reserved()
    return result


def measure_in_child(work: Path, part: Part, given: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Measure one part in a process of its own, within the limit in seconds."""
    if limit < SHORTEST:
        return {"failed": "no time is left of the stage's limit"}
    here, environment = Path(__file__).parent, {}
    if part.who in TRL_AT_ONCE:
        command = [str(here / "peer_trl.py"), str(work), part.stage, "bf16", "--steps", str(given.steps),
                   "--at-once", str(TRL_AT_ONCE[part.who]), "--device", given.device]  # fmt: skip
        command += ["--recompute"] if part.stage in RECOMPUTED else []
        command += ["--cap", str(CAPPED[part.stage])] if part.stage in CAPPED else []
        found = [str(given.trl.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"PYTHONPATH": os.pathsep.join(found)}
    else:
        command = [str(here / "train_gpu.py"), "--steps", str(given.steps), "--device", given.device,
                   *(["--tiny"] if given.tiny else []), "--one", str(work), part.who, part.stage]  # fmt: skip
    done = run_child([sys.executable, *command], environment, limit)
    if done.code:
        return {"failed": " ".join(done.errors.split())[-300:]}
    last = next(line for line in reversed(done.out.splitlines()) if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(last.removeprefix("RESULT "))
    return result


def report(part: Part, found: dict[str, Any], needed: float, results: Results) -> None:
    """Print and keep one measurement. `needed`: FLOPs of a step, as ours counts them."""
    name = {"stage": part.stage, "who": part.who}
    if "failed" in found:
        results.add(f"{part.stage:7} {part.who:9} failed: {found['failed']}", **name, **found)
        return
    counted = found["seconds"][found["warm"] :]
    step = statistics.median(counted)
    rate, sheet = results.machine["rates_gflops"]["bf16"], results.machine.get("data_sheet_bf16_gflops")
    mfu = needed / step / rate / 1e9 if needed else None
    of_sheet = needed / step / sheet / 1e9 if needed and sheet else None
    memory = found.get("gpu_peak_bytes", found["peak_bytes"]) / 1e9
    shares = "".join(f", MFU {share:.0%} of {what}" for share, what in
                     ((mfu, "the measured rate"), (of_sheet, "the data sheet")) if share is not None)  # fmt: skip
    results.add(
        f"{part.stage:7} {part.who:9} {SAMPLES / step:7.2f} samples/s (a step {step:.3f} s, {min(counted):.3f}-"
        f"{max(counted):.3f}; the first {found['seconds'][0]:.1f}), peak {memory:.1f} GB{shares}",
        **name, samples_per_s=SAMPLES / step, mfu=mfu, mfu_of_data_sheet=of_sheet, memory_gb=memory, **found,
    )  # fmt: skip


def compare(work: Path, stage: str, given: argparse.Namespace, results: Results) -> None:
    """Measure a stage, print each measurement and ours at its best against the peers at theirs."""
    needed, speeds, end = 0.0, {}, time.monotonic() + given.limit
    for who in given.who.split(","):
        if who in TRL_AT_ONCE and given.trl is None:
            continue
        found = measure_in_child(work, Part(who, stage), given, end - time.monotonic())
        if found.get("flops"):
            needed = statistics.median(found["flops"][found["warm"] :])
        report(Part(who, stage), found, needed, results)
        if "failed" not in found:
            speeds[who] = SAMPLES / statistics.median(found["seconds"][found["warm"] :])
    mine = max((speed for who, speed in speeds.items() if who in ("ours", "compiled")), default=None)
    peers = {who: speed for who, speed in speeds.items() if who not in ("ours", "compiled")}
    if mine is None:
        return
    for name, family in (("the best plain loop", peers.keys() - TRL_AT_ONCE.keys()), ("TRL", TRL_AT_ONCE.keys())):
        best = max((who for who in peers if who in family), key=lambda who: peers[who], default=None)
        if best is not None:
            results.add(f"{stage:7} ours at its best against {name} ({best}): {mine / peers[best]:.2f} x",
                        stage=stage, against=name, peer=best, speed=mine / peers[best])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--stages", default="stage1,lora,qlora,full")
    parser.add_argument("--who", default=WHO)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--limit", type=float, default=400, help="seconds that all measurements of a stage may take")
    parser.add_argument("--trl", type=Path, help="folder that has TRL and datasets")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, which show only that the script runs")
    parser.add_argument("--one", nargs=3, metavar=("WORK", "WHO", "STAGE"), help=argparse.SUPPRESS)
    add_json(parser)
    given = parser.parse_args()
    if given.one:
        work, who, stage = given.one
        print("\nRESULT " + json.dumps(measure(Path(work), Part(who, stage), given)))
        return
    results = Results.begin(given.json, given.device)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, given.shared, SAMPLES * given.steps, "tiny-drawn" if given.tiny else "7b")
        for stage in given.stages.split(","):
            compare(work, stage, given, results)


if __name__ == "__main__":
    main()
