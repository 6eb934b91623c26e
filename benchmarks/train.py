"""Training speed and memory beside what people use today: the same weights, data and batch, side by side in one run.

python benchmarks/train.py [--shared ../shared] [--stages stage1,lora,full] [--rounds 3] [--steps 6] [--trl FOLDER]
    [--who ours:fp32,compiled:fp32,kept:fp32,ours:bf16,plain:bf16,plain:fp32,single:bf16,trl:bf16]
    [--tokens-per-row 2048]

Backbones and data are those of shared/bench: CLIP 8x384 at 336 pixels (576 slots), Llama 8x512 with the Llama
tokenizer's 32,000 tokens, real photographs and GPT-4's texts; 8 samples a step. Peers: a plain loop over transformers'
LlavaForConditionalGeneration (padded batch, AdamW; bf16 autocast and fp32; `single`: a sample at a time, gradients
added, which takes less memory), and TRL's SFTTrainer where `--trl` names a folder that holds it. Ours packs the same 8
samples into rows of `--tokens-per-row`; `compiled`: layers by torch.compile, four steps to warm up; `kept`: with the
tower's features on disk, as every epoch but the first is (`kept-compiled`: both). First the losses of one
batch are compared at equal masks. Each measurement is a process of its own, the rounds are interleaved, and of each the
median step counts. "Peak" is the process's most resident memory. MFU: FLOPs that the step needs (planner/work.py:
forward and backward of what must be computed, the causal half of attention within documents, no weight gradient of
frozen parts, logits of supervised positions) by second, over the rate of a large product in that precision, measured in
the same process; of `kept` the tower is not needed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLES = 8
WARM = {False: 2, True: 4}  # steps that do not count; compiled or not
RATE = 1e-4
ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def recipe_of(
    work: Path,
    stage: str,
    precision: str,
    steps: int,
    tokens_per_row: int,
    *,
    compiles: bool = False,
    keep: bool = False,
) -> Any:
    """The same stage as a recipe of ours."""
    from vistune.recipe import validate

    learn = {
        "stage1": {"projector": RATE},
        "lora": {"projector": RATE, "adapters": RATE},
        "full": {"projector": RATE, "language": RATE},
    }[stage]
    tree: dict[str, Any] = {
        "name": stage,
        "learn": learn,
        "steps": steps,
        "samples_per_step": SAMPLES,
        "tokens_per_row": tokens_per_row,
        "cache_features": "on" if keep else "off",
        "compile": "on" if compiles else "off",
        "schedule": "constant",
        "warmup_share": 0,
        "precision": precision,
    }
    if stage == "lora":
        tree["lora"] = {"rank": 128, "alpha": 256}
    model = {"vision": str(work / "vision"), "language": str(work / "llm"), "template": "v1"}
    return validate({"model": model, "data": [{"file": work / "data.json", "images": work / "images"}],
                     "stages": [tree], "workers": 1}, "benchmark")  # fmt: skip


def ours(
    work: Path, stage: str, precision: str, steps: int, tokens_per_row: int, **how: bool
) -> tuple[list[float], float]:
    """Seconds of each step of the real trainer, and the share of this machine's speed that they use (MFU)."""
    import torch

    from vistune.data.stages import plan_stages
    from vistune.planner.work import matmul_peak
    from vistune.progress import no_progress
    from vistune.training import Run
    from vistune.training.stage import compiled

    os.environ["VISTUNE_CACHE"] = str(work / "cache" / precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matmul_peak("cpu", dtype)
    recipe = recipe_of(work, stage, precision, steps, tokens_per_row, **how)
    run = Run(recipe, work / "unused", progress=no_progress)
    planned = plan_stages(recipe, run.processor, no_progress)[0][0]
    model = run.first_model(None)
    run.prepare(model, planned.stage, 0)
    trainer = run.make_trainer(model, planned, 0).trainer
    reports: list[Any] = []
    with compiled(trainer, "single", 0.0, print):
        trainer.run(0, reports.append)
    seconds = [report.seconds for report in reports]
    peak = matmul_peak("cpu", dtype)  # the faster of both: something may have held a core for one moment
    rates = [report.flops / report.seconds for report in reports[WARM[how["compiles"]] :]]
    return seconds, statistics.median(rates) / peak


def hf_model(work: Path, stage: str) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(work / "llava-hf")
    for name, parameter in model.named_parameters():
        learns = "multi_modal_projector" in name or (stage == "full" and "vision_tower" not in name)
        parameter.requires_grad_(learns)
    if stage == "lora":
        model = get_peft_model(model, LoraConfig(r=128, lora_alpha=256, target_modules=ADAPTED,
                                                 modules_to_save=["multi_modal_projector"]))  # fmt: skip
    return model


def plain(work: Path, stage: str, precision: str, steps: int, at_once: int = SAMPLES) -> list[float]:
    """A loop as one writes it over transformers: processor, padded batch, forward with labels, AdamW.

    Fewer samples `at_once` add their gradients, each batch's mean loss weighing the same.
    """
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(work / "llava-hf")
    model = hf_model(work, stage).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    rows = json.loads((work / "data.json").read_text())
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        for first in range(step * SAMPLES, (step + 1) * SAMPLES, at_once):
            texts, images = [], []
            for row in rows[first : first + at_once]:
                texts.append(processor.apply_chat_template(list(_messages(row)), tokenize=False))
                images.append(Image.open(work / "images" / row["image"]).convert("RGB"))
            batch = processor(text=texts, images=images, return_tensors="pt", padding=True)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = model(**batch, labels=labels.masked_fill(labels == 32000, -100)).loss
            (loss * (at_once / SAMPLES)).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return seconds


def _messages(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number, turn in enumerate(row["conversations"]):
        content = [{"type": "text", "text": turn["value"].replace("<image>\n", "")}]
        if number == 0:
            content = [{"type": "image"}, *content]
        yield {"role": "user" if turn["from"] == "human" else "assistant", "content": content}


def losses(work: Path) -> tuple[float, float]:
    """Mean loss of one step's rows, ours and transformers', over the same ids and labels."""
    import torch
    from transformers import LlavaForConditionalGeneration

    from vistune.data import Loader
    from vistune.data.stages import plan_stages
    from vistune.model import next_token_loss
    from vistune.progress import no_progress
    from vistune.training import Run

    recipe = recipe_of(work, "full", "fp32", 1, 16384)
    run = Run(recipe, work / "unused", progress=no_progress)
    planned = plan_stages(recipe, run.processor, no_progress)[0][0]
    model = run.first_model(None)
    (batch,) = Loader(planned.samples, planned.processor, planned.plan).load(0)
    peer = LlavaForConditionalGeneration.from_pretrained(work / "llava-hf").eval()
    theirs = peer.model.multi_modal_projector
    model.projector.load_state_dict(
        {f"{place}.{name}": tensor for place, layer in ((0, theirs.linear_1), (2, theirs.linear_2))
         for name, tensor in layer.state_dict().items()}
    )  # fmt: skip
    words = model.head.weight.shape[0]  # the peer's head has more rows than its tokenizer has tokens
    peer.lm_head.weight = torch.nn.Parameter(peer.lm_head.weight[:words])
    peer.config.text_config.vocab_size = words
    with torch.no_grad():
        mine = next_token_loss(model.eval()(batch), model.head, batch.labels, batch.starts)
        normal = (batch.images.float() - model.vision.mean) / model.vision.std
        total = 0.0
        for number, (begin, end) in enumerate(zip(batch.starts[:-1], batch.starts[1:], strict=True)):
            ids = batch.input_ids[begin:end].masked_fill(batch.input_ids[begin:end] < 0, 32000)[None]
            labels = batch.labels[begin:end][None]
            out = peer(input_ids=ids, pixel_values=normal[number][None], labels=labels)
            total += float(out.loss) * int((labels[:, 1:] != -100).sum())
    return float(mine.sum) / mine.count, total / mine.count


def prepare(work: Path, shared: Path, samples: int) -> None:
    """Backbones and data, made by the scripts beside the fixtures."""
    photographs = shared / "data" / "coco-mini" / "train2017"
    (work / "images").symlink_to(photographs.resolve())
    scripts = shared / "bench"
    tokenizer = shared / "data" / "llama-tokenizer"
    for command in (
        [str(scripts / "make_backbones.py"), str(work), str(tokenizer)],
        [str(scripts / "make_data.py"), str(photographs), str(shared / "data" / "llava-coco30" / "gpt4_qa.jsonl"),
         str(work / "data.json"), str(samples)],
    ):  # fmt: skip
        subprocess.run([sys.executable, *command], check=True, capture_output=True)


def trl(work: Path, shared: Path, folder: Path, stage: str, precision: str) -> dict[str, Any]:
    """What shared/bench's script measures of TRL."""
    name = {"stage1": "1"}.get(stage, stage)
    command = [sys.executable, str(shared / "bench" / "peer_trl.py"), str(work), str(work / "data.json"),
               str(work / "images"), name, *(["--fp32"] if precision == "fp32" else [])]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)})
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not found:
        raise SystemExit(f"TRL failed: {done.stderr[-2000:]}")
    values = dict(part.split("=") for part in found[0].split() if "=" in part)
    return {"samples_per_s": float(values["samples/s"]), "peak_mb": int(values["peak_rss"].removesuffix("MB"))}


def measure(work: Path, who: str, stage: str, precision: str, steps: int, tokens_per_row: int) -> dict[str, Any]:
    """One measurement in this process; the first steps warm up."""
    mfu, compiles = None, who.endswith("compiled")
    if who in ("plain", "single"):
        seconds = plain(work, stage, precision, steps, 1 if who == "single" else SAMPLES)
    else:
        extra = 2 if compiles else 0
        seconds, mfu = ours(
            work, stage, precision, steps + extra, tokens_per_row, compiles=compiles, keep=who.startswith("kept")
        )
    return {
        "samples_per_s": SAMPLES / statistics.median(seconds[WARM[compiles] :]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "mfu": mfu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--stages", default="stage1,lora,full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--trl", type=Path)
    parser.add_argument("--who", default="ours:fp32,compiled:fp32,kept:fp32,ours:bf16,plain:bf16,plain:fp32,trl:bf16")
    parser.add_argument("--tokens-per-row", type=int, default=2048)
    parser.add_argument("--one", nargs=4, metavar=("WORK", "WHO", "STAGE", "PRECISION"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        work, who, stage, precision = given.one
        print(json.dumps(measure(Path(work), who, stage, precision, given.steps, given.tokens_per_row)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, given.shared, SAMPLES * (given.steps + 2))
        mine, theirs = losses(work)
        print(f"loss of one batch at equal masks: ours {mine:.6f}, transformers {theirs:.6f}", flush=True)
        for stage in given.stages.split(","):
            compare(given, work, stage)


def compare(given: argparse.Namespace, work: Path, stage: str) -> None:
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(given.rounds):
        for who, precision in (pair.split(":") for pair in given.who.split(",")):
            if who == "trl" and given.trl is None:
                continue
            if who == "trl":
                result = trl(work, given.shared, given.trl, stage, precision)
            else:
                sizes = ["--steps", str(given.steps), "--tokens-per-row", str(given.tokens_per_row)]
                command = [sys.executable, __file__, *sizes, "--one", str(work), who, stage, precision]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                result = json.loads(done.stdout.splitlines()[-1])
            print(f"  ({who} {precision}: {result})", flush=True)
            runs.setdefault((who, precision), []).append(result)
    speeds = {key: [run["samples_per_s"] for run in listed] for key, listed in runs.items()}
    best = max(statistics.median(values) for (who, _), values in speeds.items() if who in ("ours", "compiled"))
    print(f"\n{stage} (load {os.getloadavg()[0]:.1f})")
    for (who, precision), values in speeds.items():
        middle, peak = statistics.median(values), max(run["peak_mb"] for run in runs[who, precision])
        spread = f"{min(values):.3f}-{max(values):.3f}"
        used = [run["mfu"] for run in runs[who, precision] if run.get("mfu") is not None]
        share = f", MFU {statistics.median(used):.0%}" if used else ""
        print(f"  {who:8} {precision}: {middle:6.3f} samples/s ({spread}), peak {peak:,} MB{share}: "
              f"ours at its best {best / middle:.2f} x", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
