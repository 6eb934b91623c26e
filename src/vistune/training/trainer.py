"""One stage of training. Everything that is not the algorithm is a callable handed in.

Loader -> steps of batches -> summed loss over the step's supervised tokens -> AdamW
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace

import torch

from vistune.data import Loader
from vistune.errors import VistuneError
from vistune.model import VisionLanguageModel, next_token_loss
from vistune.recipe import Stage
from vistune.training.optim import make_optimizer, stage_factor
from vistune.training.precision import uses_bf16
from vistune.types import Batch


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimiser step did; loss is the mean over its supervised tokens, seconds with the wait for data."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    supervised_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class Trainer:
    """Runs a stage's steps on a model whose learning parts are set."""

    def __init__(self, model: VisionLanguageModel, loader: Loader, stage: Stage, *, device: str = "cpu") -> None:
        self.model = model
        self.loader = loader
        self.stage = stage
        self.device = device
        self.optimizer = make_optimizer(model.parts(), stage)
        self.factor = stage_factor(stage, len(loader))
        self.learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.bf16 = uses_bf16(stage.precision, device)

    def run(self, start: int, after_step: Callable[[StepReport], None]) -> None:
        """Every step from `start` on; `after_step` may save, log, or raise to stop."""
        with closing(self.loader.steps(start=start)) as steps:
            began = time.perf_counter()
            for step, batches in steps:
                report = self.learn(step, batches)
                after_step(replace(report, seconds=time.perf_counter() - began))
                began = time.perf_counter()

    def learn(self, step: int, batches: Sequence[Batch]) -> StepReport:
        """One optimiser step; every supervised token in it weighs the same, however it is packed into rows."""
        began = time.perf_counter()
        self.optimizer.set_rates(self.factor(step))
        count = sum(batch.supervised for batch in batches)
        total = 0.0
        for batch in batches:
            with self._precision():
                loss = self._loss(batch.to(self.device)) / max(count, 1)
            loss.backward()
            total += float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.learning, self.stage.clip))
        if not (math.isfinite(total) and math.isfinite(norm)):
            names = [name for batch in batches for name in batch.ids]
            raise VistuneError(
                f"stage {self.stage.name}, step {step}: loss {total}, gradient norm {norm} "
                f"in samples {', '.join(names[:8])}",
                "lower the rates in `learn`, or look at these samples",
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepReport(
            step=step,
            loss=total,
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            gradient_norm=norm,
            tokens=sum(len(batch.input_ids) for batch in batches),
            supervised_tokens=count,
            seconds=time.perf_counter() - began,
        )

    def _loss(self, batch: Batch) -> torch.Tensor:
        return next_token_loss(self.model(batch), self.model.head, batch.labels, batch.starts).sum

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.bf16)
