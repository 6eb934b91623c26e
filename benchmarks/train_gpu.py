"""Training speed on one GPU at LLaVA-1.5's real shapes, beside a plain loop over transformers: CLIP-L/336 + Llama-7B.

python benchmarks/train_gpu.py [--shared ../shared] [--stages stage1,lora,full] [--who ours,compiled,plain] [--steps 12]

Weights are random (no file of 28 GB is written or read), data are the real photographs and GPT-4 texts of shared/bench,
8 samples a step. LoRA and stage 1 hold the frozen weights in bf16, full fine-tuning holds fp32 weights under bf16
autocast with AdamW and recomputes the language model (both sides). The plain loop's batches are made before
its clock runs; ours reads, decodes and packs inside it. Each measurement is a process of its own; of its steps, the
first four warm up, and the median of the others counts. MFU: FLOPs that must be done (planner/work.py) by this card's
measured bf16 matmul rate, for both sides from the same rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from train import RATE, SAMPLES, _messages, prepare, recipe_of

WARM = 4
CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 336, "patch_size": 14, "projection_dim": 768}  # fmt: skip
LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096}  # fmt: skip


def configs() -> tuple[Any, Any]:
    from transformers import CLIPVisionConfig, LlamaConfig

    return CLIPVisionConfig(**CLIP), LlamaConfig(**LLAMA)


def held_in(stage: str) -> torch.dtype:
    return torch.float32 if stage == "full" else torch.bfloat16


def ours(work: Path, stage: str, steps: int, compile_layers: bool) -> tuple[list[float], list[float]]:
    """Seconds of each step of the real trainer, and the FLOPs that it needed."""
    from transformers import AutoModelForCausalLM, CLIPVisionModel

    from vistune.data.stages import plan_stages
    from vistune.model import VisionLanguageModel
    from vistune.model.attention import register
    from vistune.model.projectors import build_projector
    from vistune.model.vision import VisionTower
    from vistune.progress import no_progress
    from vistune.training import Run
    from vistune.training.stage import compiled

    recipe = recipe_of(work, stage, "bf16", steps)
    changes = {"compile": "on" if compile_layers else "off", "recompute": ["language"] if stage == "full" else []}
    tree = recipe.model_copy(update={"workers": 4, "stages": [recipe.stages[0].model_copy(update=changes)]})
    run = Run(tree, work / "unused", progress=no_progress)
    planned = plan_stages(tree, run.processor, no_progress)[0][0]
    vision, language = configs()
    with torch.device("cuda"):
        llm = AutoModelForCausalLM.from_config(language, dtype=held_in(stage), attn_implementation=register())
        tower = CLIPVisionModel._from_config(vision, dtype=torch.bfloat16, attn_implementation="sdpa")
    spec = run.processor.spec
    model = VisionLanguageModel(VisionTower(tower, spec), build_projector(spec, seed=0), llm, spec).to("cuda")
    run.prepare(model, planned.stage, 0)
    trainer = run.make_trainer(model, planned, 0).trainer
    reports: list[Any] = []

    def after_step(report: Any) -> None:
        reports.append(report)
        if len(reports) == WARM:
            torch.cuda.reset_peak_memory_stats()

    with compiled(trainer, "single", 1e18, print):
        trainer.run(0, after_step)
    return [report.seconds for report in reports], [report.flops for report in reports]


def plain(work: Path, stage: str, steps: int) -> list[float]:
    """A loop as one writes it over transformers: padded batch, forward with labels under autocast, AdamW."""
    from peft import LoraConfig, get_peft_model
    from PIL import Image
    from train import ADAPTED
    from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(work / "llava-hf")
    rows = json.loads((work / "data.json").read_text())
    batches = []
    for step in range(steps):
        chosen = rows[step * SAMPLES : (step + 1) * SAMPLES]
        texts = [processor.apply_chat_template(list(_messages(row)), tokenize=False) for row in chosen]
        images = [Image.open(work / "images" / row["image"]).convert("RGB") for row in chosen]
        batch = processor(text=texts, images=images, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        batches.append(dict(batch) | {"labels": labels.masked_fill(labels == 32000, -100)})
    vision, language = configs()
    language.vocab_size = 32064
    config = LlavaConfig(vision_config=vision, text_config=language, image_token_index=32000,
                         vision_feature_layer=-2, vision_feature_select_strategy="default")  # fmt: skip
    with torch.device("cuda"):
        model = LlavaForConditionalGeneration._from_config(config, dtype=held_in(stage), attn_implementation="sdpa")
    for name, parameter in model.named_parameters():
        learns = "multi_modal_projector" in name or (stage == "full" and "vision_tower" not in name)
        parameter.requires_grad_(learns)
        if learns and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    if stage == "lora":
        model = get_peft_model(model, LoraConfig(r=128, lora_alpha=256, target_modules=ADAPTED,
                                                 modules_to_save=["multi_modal_projector"]))  # fmt: skip
    if stage == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE, fused=True)
    seconds = []
    for step, batch in enumerate(batches):
        if step == WARM:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        there = {name: tensor.to("cuda", non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**there).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


def measure(work: Path, who: str, stage: str, steps: int) -> dict[str, Any]:
    flops: list[float] = []
    if who == "plain":
        seconds = plain(work, stage, steps)
    else:
        seconds, flops = ours(work, stage, steps, who == "compiled")
    taken = seconds[WARM:]
    return {
        "seconds": statistics.median(taken),
        "spread": (min(taken), max(taken)),
        "first": seconds[0],
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "flops": statistics.median(flops[WARM:]) if flops else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--stages", default="stage1,lora,full")
    parser.add_argument("--who", default="ours,compiled,plain")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", nargs=3, metavar=("WORK", "WHO", "STAGE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        work, who, stage = given.one
        print(json.dumps(measure(Path(work), who, stage, given.steps)))
        return
    from vistune.planner.work import matmul_peak

    peak = matmul_peak("cuda", torch.bfloat16)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: bf16 products {peak / 1e12:.0f} TFLOP/s")
    torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, given.shared, SAMPLES * given.steps)
        for place, config in zip(("vision", "llm"), configs(), strict=True):
            config.save_pretrained(work / place)
        for stage in given.stages.split(","):
            compare(given, work, stage, peak)


def compare(given: argparse.Namespace, work: Path, stage: str, peak: float) -> None:
    needed = 0.0
    for who in sorted(given.who.split(","), key=lambda name: name == "plain"):
        command = [sys.executable, __file__, "--steps", str(given.steps), "--one", str(work), who, stage]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{stage} {who}: failed: {done.stderr[-1500:]}", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        needed = found["flops"] or needed  # the plain loop is to do the same work
        low, high = found["spread"]
        print(f"{stage:7} {who:8} {SAMPLES / found['seconds']:6.2f} samples/s (a step {found['seconds']:.3f} s, "
              f"{low:.3f}-{high:.3f}, the first {found['first']:.1f}), peak {found['peak_gb']:.1f} GB, "
              f"MFU {100 * needed / found['seconds'] / peak:.0f} %", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
