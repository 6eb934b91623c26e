"""One stage of training. Everything that is not the algorithm is a callable handed in.

Loader -> steps of batches -> summed loss over the step's supervised tokens, of all processes -> AdamW
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vistune.data import Interrupted, Loader, ShardLoader
from vistune.errors import VistuneError, some
from vistune.model import VisionLanguageModel
from vistune.planner.flops import needed_by
from vistune.planner.precision import products_in, uses_bf16
from vistune.processor import blank_batch
from vistune.recipe import Stage
from vistune.training.by_source import BySource
from vistune.training.distributed.parallel import World
from vistune.training.distributed.sharding import Learner, Way, keeping_gradients, wrap
from vistune.training.optim import make_optimizer, stage_factor
from vistune.training.state import seed_row
from vistune.types import Batch


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimiser step did, over all processes; loss is the mean over its supervised tokens.

    seconds: with the wait for data · busy: seconds that each process read and computed before it needed another one ·
    computed_tokens: with those of blank rows · flops: that the step needs (flops.py) · by_source: {source: {loss,
    supervised_tokens}} (by_source.py) · left_out: why nothing was learnt from it; "" where it was.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    supervised_tokens: int
    computed_tokens: int
    flops: float
    seconds: float
    busy: tuple[float, ...] = ()
    by_source: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class Trainer:
    """Runs a stage's steps on a model whose learning parts are set; `learner` is the model with its loss.

    `way`: how the model is kept over the processes of `world`; under fsdp its parameters become slices here ·
    `seed`: of dropout.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        loader: Loader | ShardLoader,
        stage: Stage,
        *,
        device: str = "cpu",
        world: World | None = None,
        way: Way = "alone",
        seed: int = 0,
    ) -> None:
        self.model = model
        self.loader = loader
        self.stage = stage
        self.device = device
        self.world = world or World()
        self.seed = seed
        self.busy = 0.0  # of this process in this step
        self.may_leave_out = 0  # steps, before the stage ends
        self.by_source = BySource(loader.samples)
        needed = needed_by(model)  # before parameters become slices
        self.learner = wrap(Learner(model), way, self.world)
        self.optimizer = make_optimizer(model.parts(), stage)
        self.factor = stage_factor(stage, len(loader))
        self.learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.bf16 = uses_bf16(stage.precision, device)
        self.needed = needed
        self._lay_gradients_out()

    def _lay_gradients_out(self) -> None:
        """Have DDP's first exchange behind it, over a blank row.

        Behind that it lays gradients out anew, and in what order three processes or more are summed depends on where a
        gradient lies: a run that goes on would sum its first step otherwise than one that was left alone.
        """
        if isinstance(self.learner, DistributedDataParallel) and self.world.size > 2:
            self._add_gradients(0, blank_batch(self.model.spec.image_side), 1, last=True)
            self.optimizer.zero_grad()
            self.by_source.take()

    def run(self, start: int, after_step: Callable[[StepReport], None]) -> int:
        """Every step from `start` on; `after_step` may save, log, or raise to stop.

        The steps done: fewer than all where a process is asked to stop while it waits for rows.
        """
        pulse, done = self.world.pulse, start
        with products_in(self.stage.precision, self.device), closing(self.loader.steps(start=start)) as steps:
            pulse.beat("read", steps=start)
            began = time.perf_counter()
            with suppress(Interrupted):
                for step, batches in steps:
                    pulse.beat("learn")
                    self.busy = time.perf_counter() - began
                    report = self.learn(step, batches)
                    after_step(replace(report, seconds=time.perf_counter() - began))
                    done = step + 1
                    pulse.beat("read", steps=done)
                    began = time.perf_counter()
                if done < len(self.loader):
                    self._sizes(None)  # the others may have their rows, and wait for this one's
        return done

    def learn(self, step: int, batches: Sequence[Batch]) -> StepReport:
        """One optimiser step; every supervised token in it weighs the same, however it is packed into rows."""
        began = time.perf_counter()
        self.optimizer.set_rates(self.factor(step))
        count, tokens, computed, flops = self._sizes(batches)
        total = 0.0
        for place, batch in enumerate(batches, start=1):
            total += self._add_gradients(step, batch, count, last=place == len(batches))
        sums = self.world.gather(total, self.busy, *self.by_source.take())
        losses, busy = [own[0] for own in sums], [own[1] for own in sums]
        norm = self._clip()
        if math.isfinite(sum(losses)) and math.isfinite(norm):
            left_out = ""
            self.optimizer.step()
        else:
            left_out = self._left_out(step, batches, losses, norm)
        self.optimizer.zero_grad()
        return StepReport(
            step=step,
            loss=sum(losses),
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            gradient_norm=norm,
            tokens=tokens,
            supervised_tokens=count,
            computed_tokens=computed,
            flops=flops,
            seconds=time.perf_counter() - began,
            busy=tuple(busy),
            by_source=self.by_source.told([own[2:] for own in sums]),
            left_out=left_out,
        )

    def try_row(self, step: int, batch: Batch, *, times: int) -> None:
        """A row's gradients, made so many times over and thrown away; all processes call it together."""
        try:
            with products_in(self.stage.precision, self.device):
                for _ in range(times):
                    self._add_gradients(step, batch, batch.supervised, last=False)
        finally:
            self.optimizer.zero_grad()
            self.by_source.take()

    def loss_sum(self, batch: Batch) -> float:
        """The row's summed loss, for what is measured and not learnt."""
        with products_in(self.stage.precision, self.device), self._precision():
            loss, _ = self.learner(batch.to(self.device))
        self.world.pulse.beat()
        return float(loss.detach())

    def _sizes(self, batches: Sequence[Batch] | None) -> tuple[int, int, int, float]:
        """Of the step, over all processes: supervised tokens, tokens, those of blank rows too, FLOPs that it needs.

        Without rows the others are told that there are none to come. Raises Interrupted in all then.
        """
        own = (
            sum(batch.supervised for batch in batches or ()),
            sum(len(batch.input_ids) for batch in batches or () if batch.ids),
            sum(len(batch.input_ids) for batch in batches or ()),
            sum(self.needed.of(batch) for batch in batches or ()),
            batches is None,
        )
        count, tokens, computed, flops, ended = (sum(values) for values in zip(*self.world.gather(*own), strict=True))
        if ended:
            raise Interrupted
        return int(count), int(tokens), int(computed), flops

    def _add_gradients(self, step: int, batch: Batch, count: int, *, last: bool) -> float:
        """The row's part of the step's mean loss, its gradients added to the others'."""
        seed_row(self.seed, step, batch.number)
        try:
            with keeping_gradients(self.learner, last=last):
                began = time.perf_counter()
                with self._precision():
                    loss, losses = self.learner(batch.to(self.device))
                    loss = loss / max(count, 1)
                self.busy += time.perf_counter() - began
                (loss * self.world.size).backward()  # torch averages gradients over the processes: here they are summed
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise VistuneError(
                f"stage {self.stage.name}, step {step}: out of memory on {self.device}, rank {self.world.rank}, "
                f"at {len(batch.input_ids)} tokens and {len(batch.images)} tiles of samples {some(batch.ids, 8)}",
                "lower tokens_per_row, recompute: [language, vision], or parallel: fsdp over more processes",
            ) from error
        self.world.pulse.beat()
        self.by_source.add(batch, losses)
        return float(loss.detach())

    def _clip(self) -> float:
        """The norm of all gradients together, in whatever slices they lie; what is over the limit is scaled down."""
        norm = torch.nn.utils.clip_grad_norm_(self.learning, self.stage.clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _left_out(self, step: int, batches: Sequence[Batch], losses: Sequence[float], norm: float) -> str:
        """What was wrong, in words. Raises VistuneError where no more steps may be left out.

        All processes come here or none does, since all know the same sums: no one applies the update.
        """
        ids = self.world.listed(some([name for batch in batches for name in batch.ids], 8))
        bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)] or range(len(ids))
        said = f"loss {sum(losses)}, gradient norm {norm}, nothing learnt from it; " + "; ".join(
            f"rank {rank} had samples {ids[rank]}" for rank in bad
        )
        if self.may_leave_out <= 0:
            raise VistuneError(
                f"stage {self.stage.name}, step {step}: {said}",
                "lower the rates in `learn`, look at these samples, or let bad_steps leave some such steps out",
            )
        self.may_leave_out -= 1
        return said

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.bf16)
