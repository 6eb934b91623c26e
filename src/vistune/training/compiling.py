"""The layers of tower and language model by torch.compile, as long as a stage learns.

stage + model -> whether it pays, whether it can -> layers compiled where they stand, lengths dynamic -> as they were
Layers alone: all of a kind share one graph, and what is between them stays plain Python.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from torch import nn

from vistune.model import VisionLanguageModel
from vistune.model.language import unwrap
from vistune.progress import OnMessage
from vistune.recipe import Stage
from vistune.training.distributed.sharding import Way
from vistune.training.trainer import Trainer

# FLOPs of a stage from which on `auto` compiles: a graph takes a minute or so. By the work alone, not by a machine's
# speed at that moment, so that a run that goes on decides as it did before.
PAYS = {"cpu": 1e15, "cuda": 3e17}


def is_wanted(stage: Stage, device: str, flops: float) -> bool:
    """Whether a stage of so much work is compiled where it can be."""
    return stage.compile == "on" or (stage.compile == "auto" and flops >= PAYS[device.split(":")[0]])


def hindrance(device: str, way: Way) -> str | None:
    """Why torch.compile cannot work here, if it cannot."""
    if way == "fsdp":
        return "fsdp keeps their weights in slices"
    if device.startswith("cuda"):
        return None if find_spec("triton") is not None else "triton is not installed"
    named = os.environ.get("CXX")
    found = any(shutil.which(name) for name in ([named] if named else ("g++", "clang++")))
    return None if found else "there is no C++ compiler"


@contextmanager
def compiled(
    trainer: Trainer, way: Way, flops: float, on_message: OnMessage, *, backend: str = "inductor"
) -> Iterator[bool]:
    """While the block lasts, layers run compiled where that is wanted and can be; whether they do.

    `flops`: of the whole stage · `backend`: torch's; what hinders it is said in one line.
    """
    stage = trainer.stage
    if not is_wanted(stage, trainer.device, flops):
        yield False
        return
    if (why := hindrance(trainer.device, way)) is not None:
        if trainer.world.is_first:
            on_message(f"stage {stage.name}: layers are not compiled, since {why}: it goes on more slowly")
        yield False
        return
    layers: list[Any] = list(_layers(trainer.model))
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    try:
        yield True
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # what Module.compile sets; torch has no call that takes it back


def _layers(model: VisionLanguageModel) -> Iterator[nn.Module]:
    """The layers of both stacks; a quantised model's products are kernels that no compiler sees into."""
    body = model.vision.tower.vision_model if model.vision.joint else model.vision.tower
    yield from body.encoder.layers
    if not getattr(unwrap(model.language), "is_quantized", False):
        yield from unwrap(model.language).get_decoder().layers
