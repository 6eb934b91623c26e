"""Compile the layers of the vision tower and the language model by torch.compile while a stage trains.

Only layers are compiled: all layers of a kind share one graph, and the code between them stays plain Python.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from torch import nn

from vistune.model import VisionLanguageModel
from vistune.model.language import is_quantised, unwrap
from vistune.planner.memory import Parallelism
from vistune.progress import OnMessage
from vistune.recipe import Stage
from vistune.training.trainer import Trainer

# FLOPs of a stage from which on `auto` compiles: a graph takes a minute or so. The decision depends on the work only,
# not on a machine's speed at that moment, so that a resumed run decides as before.
PAYS = {"cpu": 1e15, "cuda": 3e17}


def is_wanted(stage: Stage, device: str, flops: float) -> bool:
    """Tell whether to compile a stage of so many FLOPs, if it is possible."""
    return stage.compile == "on" or (stage.compile == "auto" and flops >= PAYS[device.split(":")[0]])


def hindrance(device: str, parallelism: Parallelism) -> str | None:
    """Return why torch.compile cannot work here; None if it can."""
    if parallelism == "fsdp":
        return "fsdp shards their weights"
    if device.startswith("cuda"):
        return None if find_spec("triton") is not None else "triton is not installed"
    named = os.environ.get("CXX")
    compilers = [named] if named else ["g++", "clang++"]
    return None if any(shutil.which(name) for name in compilers) else "there is no C++ compiler"


@contextmanager
def compiled(
    trainer: Trainer, parallelism: Parallelism, flops: float, on_message: OnMessage, *, backend: str = "inductor"
) -> Iterator[bool]:
    """While the block lasts, run layers compiled if the stage asks for it and it is possible; yield whether they are.

    Args:
        flops: Of the whole stage.
        on_message: Called with the reason if compiling is wanted but not possible.
    """
    stage = trainer.stage
    if not is_wanted(stage, trainer.device, flops):
        yield False
        return
    if (reason := hindrance(trainer.device, parallelism)) is not None:
        if trainer.world.is_first:
            on_message(f"stage {stage.name}: layers are not compiled because {reason}; training is slower")
        yield False
        return
    layers = list(_layers(trainer.model))
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    try:
        yield True
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # set by Module.compile; torch has no call that undoes it


def _layers(model: VisionLanguageModel) -> Iterator[nn.Module]:
    """The layers of both stacks, except the language model's last one and those of a quantised model.

    The last layer's MLP gets fewer tokens by hooks (`last_mlp_at`), and torch shares one graph among all layers without
    looking at their hooks. A quantised model multiplies in kernels that no compiler sees into.
    """
    body = model.vision.tower.vision_model if model.vision.joint else model.vision.tower
    yield from body.encoder.layers
    if not is_quantised(model.language):
        yield from unwrap(model.language).get_decoder().layers[:-1]
