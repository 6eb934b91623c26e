"""In which precision a stage multiplies: what `auto` means, what follows of it, fp32 products in tf32 where asked for.

Where bf16 is faster than fp32 is a property of the hardware alone, so one machine always decides alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from vistune.errors import RecipeError
from vistune.planner.memory import how_of
from vistune.recipe import Stage

if TYPE_CHECKING:
    from vistune.model import VisionLanguageModel
    from vistune.planner.memory import Way


def uses_bf16(precision: str, device: str) -> bool:
    """`auto`: where the hardware multiplies bf16 faster than fp32: on a GPU that has it, on a CPU with AMX."""
    if precision != "auto":
        return precision == "bf16"
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def products_in(precision: str, device: str) -> Iterator[None]:
    """While the block lasts, fp32 products are in tf32 where `precision` says so.

    Raises RecipeError on a device that has none.
    """
    if precision != "tf32":
        yield
        return
    if not device.startswith("cuda"):
        raise RecipeError(f"precision: tf32 is of CUDA devices, this run is on {device}", "use auto, fp32 or bf16")
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def to_halve(stages: Sequence[Stage], learnt: Collection[str], device: str) -> list[str]:
    """Parts whose weights may lie in bf16 on this device: nothing learns them, and no stage multiplies them in fp32."""
    if not all(uses_bf16(stage.precision, device) for stage in stages):
        return []
    return frozen_for_good(stages, learnt)


def frozen_for_good(stages: Sequence[Stage], learnt: Collection[str]) -> list[str]:
    """Parts that no stage of the run learns, from the first to the last: their values are only ever read.

    Adapters become part of the language model where a stage follows. `learnt`: parts that others learnt before.
    """
    ever = set(learnt).union(*(stage.learn for stage in stages))
    if any("adapters" in stage.learn for stage in stages[:-1]):
        ever.add("language")
    return [part for part in ("vision", "projector", "language") if part not in ever]


def halve(model: VisionLanguageModel, parts: Collection[str]) -> None:
    """Weights of these parts in bf16, in which they are multiplied anyway; what learns keeps its fp32."""
    for part in parts:
        for _, parameter in model.parts()[part]:
            if not parameter.requires_grad and parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(torch.bfloat16)


def merge_where_exact(model: VisionLanguageModel, stage: Stage, way: Way, device: str) -> None:
    """Adapters learn in the sums with their weights where fp32 keeps both (model/merged.py)."""
    if how_of(stage, bf16=uses_bf16(stage.precision, device), way=way).merges:
        from vistune.model.merged import keep_merged  # brings peft in

        keep_merged(model.language)


def lay_weights_out(
    model: VisionLanguageModel,
    stages: Sequence[Stage],
    stage: Stage,
    way: Way,
    device: str,
    learnt: Collection[str],
) -> list[str]:
    """Weights as a stage of the run multiplies them: frozen parts in bf16, adapters in sums; the parts in bf16."""
    halved = [] if way == "fsdp" else to_halve(stages, learnt, device)
    halve(model, halved)
    merge_where_exact(model, stage, way, device)
    return halved
