"""Run vistune's own trainer for a benchmark: the same recipe, loader, packing and steps as `vistune train`."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairs import Pair

SAMPLES = 8  # per step
RATE = 1e-4
LEARN: Mapping[str, Mapping[str, float]] = {
    "stage1": {"projector": RATE},
    "lora": {"projector": RATE, "adapters": RATE},
    "qlora": {"projector": RATE, "adapters": RATE},
    "full": {"projector": RATE, "language": RATE},
}
LORA = {"lora": {"rank": 128, "alpha": 256}, "qlora": {"rank": 64, "alpha": 128}}


@dataclass(frozen=True)
class Setup:
    """How a stage is run.

    Attributes:
        compiled: Whether layers are compiled.
        cached: Whether the tower's features are on disk, as in every epoch but the first.
        recompute: Whether the language model's activations are recomputed.
    """

    stage: str
    precision: str
    steps: int
    tokens_per_row: int = 2048
    compiled: bool = False
    cached: bool = False
    recompute: bool = False
    workers: int = 1


@dataclass(frozen=True)
class Steps:
    """Seconds and FLOPs of each step, and the number of them that warm up."""

    seconds: tuple[float, ...]
    flops: tuple[float, ...]
    warm: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds[self.warm :])

    @property
    def flops_per_second(self) -> float | None:
        """The median step's rate; None for a peer: its FLOPs are not counted."""
        if not self.flops:
            return None
        pairs = zip(self.flops[self.warm :], self.seconds[self.warm :], strict=True)
        return statistics.median(flops / seconds for flops, seconds in pairs)


def recipe_of(work: Path, setup: Setup) -> Any:
    """Return the recipe of a stage over a work folder."""
    from vistune.recipe import validate

    pair = Pair.read(work)
    learn = dict(LEARN[setup.stage])
    tree: dict[str, Any] = {
        "name": setup.stage,
        "learn": learn,
        "steps": setup.steps,
        "samples_per_step": SAMPLES,
        "tokens_per_row": setup.tokens_per_row,
        "cache_features": "on" if setup.cached else "off",
        "compile": "on" if setup.compiled else "off",
        "schedule": "constant",
        "warmup_share": 0,
        "precision": setup.precision,
        "recompute": ["language"] if setup.recompute else [],
    }
    if setup.stage in LORA:
        tree["lora"] = LORA[setup.stage]
    if setup.stage == "qlora":
        tree["quantize"] = 4
    model = {"vision": str(work / "vision"), "language": str(work / "llm"), "template": pair.template,
             "feature_layer": pair.feature_layer, "feature_norm": "off", "projector": "mlp2x_gelu"}  # fmt: skip
    return validate({"model": model, "data": [{"file": work / "data.json", "images": work / "images"}],
                     "stages": [tree], "workers": setup.workers}, "benchmark")  # fmt: skip


def train(work: Path, setup: Setup, device: str = "cpu", on_warm: Any = None) -> Steps:
    """Train with vistune, and return the times of its steps. `on_warm` is called after the last step that warms up."""
    from vistune.data.stages import plan_stages
    from vistune.progress import no_progress
    from vistune.training import Run
    from vistune.training.distributed.world import World
    from vistune.training.stage import compiled

    os.environ["VISTUNE_CACHE"] = str(work / "cache" / setup.precision)
    recipe = recipe_of(work, setup)
    run = Run(recipe, work / "unused", progress=no_progress, world=World(device=device))
    planned = plan_stages(recipe, run.processor, no_progress)[0][0]
    if Pair.read(work).drawn:
        model = drawn(work, setup, run.processor.spec, device)
    else:
        model = run.first_model(recipe.stages[0].quantize)
    run.prepare(model, planned.stage, 0)
    trainer = run.make_trainer(model, planned, 0).trainer
    reports: list[Any] = []
    warm = 4 if setup.compiled else 2

    def after_step(report: Any) -> None:
        reports.append(report)
        if len(reports) == warm and on_warm is not None:
            on_warm()

    with compiled(trainer, "single", 1e18, print):
        trainer.run(0, after_step)
    return Steps(tuple(report.seconds for report in reports), tuple(report.flops for report in reports), warm)


def drawn(work: Path, setup: Setup, spec: Any, device: str) -> Any:
    """Draw a model's weights on the device: fp32 for full tuning, 4 bits for QLoRA, else bf16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel

    from vistune.model import VisionLanguageModel
    from vistune.model.attention import register
    from vistune.model.projectors import build_projector
    from vistune.model.vision import VisionTower

    dtype = torch.float32 if setup.stage == "full" else torch.bfloat16
    with torch.device(device):
        language = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(work / "llm"), dtype=dtype, attn_implementation=register()
        )
        tower = CLIPVisionModel._from_config(
            AutoConfig.from_pretrained(work / "vision"), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    if setup.stage == "qlora":
        quantize(language, device)
        language.is_quantized = language.is_loaded_in_4bit = True
    return VisionLanguageModel(VisionTower(tower, spec), build_projector(spec, seed=0), language, spec).to(device)


def quantize(language: Any, device: str) -> None:
    """Replace the linear layers of a causal LM by bitsandbytes' NF4 ones, as `quantize: 4` loads them."""
    import bitsandbytes as bnb
    import torch

    head = language.get_output_embeddings()
    found = [(name, part) for name, part in language.named_modules() if isinstance(part, torch.nn.Linear)]
    for name, linear in found:
        if linear is head:
            continue
        narrow = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=linear.bias is not None,
                                   compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4",
                                   device="meta")  # fmt: skip
        narrow.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, compress_statistics=True,
                                          quant_type="nf4", module=narrow)  # fmt: skip
        narrow.bias = linear.bias
        linear.weight.data = torch.empty(0)
        language.set_submodule(name, narrow.to(device))
