"""Train one stage. Logging, saving and validation are passed in as callables.

Loader -> steps of packed rows -> mean loss over the step's supervised tokens, of all processes -> optimizer
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vistune.data import Interrupted, Loader, SampleSequence, ShardLoader
from vistune.errors import VistuneError, some
from vistune.model import VisionLanguageModel
from vistune.model.precision import matmul_precision, uses_bf16
from vistune.planner.sizes import Parallelism
from vistune.planner.work import work_of_model
from vistune.processor import blank_batch
from vistune.recipe import Stage
from vistune.training.distributed.parallelism import ModelWithLoss, gradient_sync, wrap
from vistune.training.distributed.world import World
from vistune.training.optimizer import make_optimizer, rate_schedule
from vistune.training.preference import MEASURES
from vistune.types import IGNORE, Batch


@dataclass(frozen=True, slots=True)
class SourceLoss:
    """Mean loss of a data source's supervised tokens in one step, and how many there are."""

    loss: float
    supervised_tokens: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """Totals of one optimizer step over all processes.

    Attributes:
        loss: Mean over the step's supervised tokens.
        tokens: Number of tokens, without those of blank rows.
        computed_tokens: Number of tokens, with those of blank rows.
        flops: FLOPs that the step needs (planner/work.py).
        seconds: Including the wait for data.
        busy: For each process, the seconds in which it read and computed without waiting for another process.
        by_source: Losses by data source.
        skip_reason: Why the update was skipped; "" if it was applied.
        preference: For preference pairs, the means of MEASURES over the step's pairs.
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
    by_source: Mapping[str, SourceLoss] = field(default_factory=dict)
    skip_reason: str = ""
    preference: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def supervised_share(self) -> float:
        return self.supervised_tokens / max(self.tokens, 1)


def documents_of(batch: Batch) -> np.ndarray:
    """Return the index of the document of each supervised token of a packed row on the CPU, (supervised,)."""
    starts = batch.starts.numpy()
    supervised = batch.labels.numpy() != IGNORE
    supervised[starts[:-1]] = False
    return np.searchsorted(starts, np.flatnonzero(supervised), side="right") - 1


class LossBySource:
    """Sum a step's losses by data source: one kind of samples of one file; `Rows.sources` lists them."""

    def __init__(self, samples: SampleSequence) -> None:
        self.samples = samples
        self.sums = np.zeros((len(samples.sources), 2))  # of losses, and of supervised tokens

    def add(self, batch: Batch, losses: Tensor) -> None:
        """Add a packed row on the CPU and the losses (supervised,) of its supervised tokens in their order."""
        if not batch.places:  # a blank row
            return
        sources = np.array([self.samples.source(index) for index in batch.places])
        if batch.pair_documents:  # (pairs, MEASURES): a pair counts once
            losses = losses[:, 0]
        else:
            sources = sources[documents_of(batch)]
        for column, weights in enumerate((losses.cpu().numpy(), None)):
            self.sums[:, column] += np.bincount(sources, weights, minlength=len(self.sums))

    def take(self) -> list[float]:
        """Return the sums since the last call as plain numbers to be exchanged, and begin anew."""
        sums: list[float] = self.sums.ravel().tolist()
        self.sums[:] = 0
        return sums

    def means(self, sums_by_process: Sequence[Sequence[float]]) -> dict[str, SourceLoss]:
        """Add the sums of all processes; return each source that the step has tokens of."""
        sums = np.array(sums_by_process).sum(0).reshape(self.sums.shape).tolist()
        return {
            name: SourceLoss(total / count, int(count))
            for name, (total, count) in zip(self.samples.sources, sums, strict=True)
            if count
        }


def seed_all(seed: int) -> None:
    """Seed every global random generator that our code, a library or a user's part may use."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_row(seed: int, step: int, row_index: int) -> None:
    """Seed for one packed row, whichever process computes it and whatever was computed before."""
    seed_all(int(np.random.SeedSequence([seed, step, row_index]).generate_state(1, np.uint64)[0]))


@dataclass(frozen=True, slots=True)
class _StepSizes:
    """Totals of a step over all processes; `computed_tokens` with those of blank rows.

    `units`: pairs, or supervised tokens, over which the loss is a mean.
    """

    units: int
    supervised: int
    tokens: int
    computed_tokens: int
    flops: float


class Trainer:
    """Train a model whose trainable parts are set.

    Args:
        parallelism: How the processes of `world` keep the model; under FSDP its parameters become shards here.
        seed: Random seed of dropout.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        loader: Loader | ShardLoader,
        stage: Stage,
        *,
        device: str = "cpu",
        world: World | None = None,
        parallelism: Parallelism = "single",
        seed: int = 0,
    ) -> None:
        self.model = model
        self.loader = loader
        self.stage = stage
        self.device = device
        self.world = world or World()
        self.seed = seed
        self.bf16 = uses_bf16(stage.precision, device)
        self.work = work_of_model(model)  # counted before parameters become shards
        self.model_with_loss = wrap(ModelWithLoss(model, stage.preference_loss), parallelism, self.world)
        self.optimizer = make_optimizer(model.parts(), stage)
        self.rate_factor = rate_schedule(stage, len(loader))
        self.trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.loss_by_source = LossBySource(loader.samples)
        self.measures = np.zeros(len(MEASURES))  # of this process's pairs in this step
        self.busy = 0.0  # seconds of this process in this step
        self.skips_left = 0  # steps that may still be skipped before the run fails
        self._warm_up_ddp()

    def _warm_up_ddp(self) -> None:
        """Run DDP's first all-reduce on a blank row.

        After its first all-reduce DDP reorders its gradient buckets. With three processes or more, the order in which
        gradients are summed depends on the buckets: without this a resumed run would sum its first step differently
        from a run that never stopped.
        """
        if isinstance(self.model_with_loss, DistributedDataParallel) and self.world.size > 2:
            self._add_gradients(0, blank_batch(self.model.spec), 1, last=True)
            self._forget()

    def run(self, start: int, after_step: Callable[[StepReport], None]) -> int:
        """Train every step from `start` on and return the steps done.

        `after_step` may save, log, or raise to stop. Fewer than all steps are done if a process is asked to stop while
        it waits for rows.
        """
        heartbeat, done = self.world.heartbeat, start
        with matmul_precision(self.stage.precision, self.device), closing(self.loader.steps(start=start)) as steps:
            heartbeat.beat("read", steps=start)
            began = time.perf_counter()
            with suppress(Interrupted):
                for step, batches in steps:
                    heartbeat.beat("learn")
                    self.busy = time.perf_counter() - began
                    report = self.train_step(step, batches)
                    after_step(replace(report, seconds=time.perf_counter() - began))
                    done = step + 1
                    heartbeat.beat("read", steps=done)
                    began = time.perf_counter()
                if done < len(self.loader):
                    self._agree_on_sizes(None)  # the others may have their rows, and wait for this process's sizes
        return done

    def train_step(self, step: int, batches: Sequence[Batch]) -> StepReport:
        """Do one optimizer step; every supervised token in it weighs the same, however it is packed into rows."""
        began = time.perf_counter()
        self.optimizer.set_rates(self.rate_factor(step))
        sizes = self._agree_on_sizes(batches)
        loss = 0.0
        for count, batch in enumerate(batches, start=1):
            loss += self._add_gradients(step, batch, sizes.units, last=count == len(batches))
        measures = self.measures.tolist()
        by_process = self.world.gather(loss, self.busy, *measures, *self.loss_by_source.take())
        losses = [values[0] for values in by_process]
        norm = self._clip_gradients()
        skip_reason = ""
        if math.isfinite(sum(losses)) and math.isfinite(norm):
            self.optimizer.step()
        else:
            skip_reason = self._skip(step, batches, losses, norm)
        self.optimizer.zero_grad()
        return StepReport(
            step=step,
            loss=sum(losses),
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            gradient_norm=norm,
            tokens=sizes.tokens,
            supervised_tokens=sizes.supervised,
            computed_tokens=sizes.computed_tokens,
            flops=sizes.flops,
            seconds=time.perf_counter() - began,
            busy=tuple(values[1] for values in by_process),
            by_source=self.loss_by_source.means([values[2 + len(measures) :] for values in by_process]),
            skip_reason=skip_reason,
            preference=self._preference([values[2 : 2 + len(measures)] for values in by_process], sizes.units),
        )

    def _preference(self, measures: Sequence[Sequence[float]], pairs: int) -> dict[str, float]:
        """Return the means of MEASURES over the step's pairs of all processes, without the loss; reset the sums."""
        self.measures[:] = 0
        if self.stage.preference_loss is None:
            return {}
        totals = np.array(measures).sum(0) / max(pairs, 1)
        return dict(zip(MEASURES[1:], totals[1:].tolist(), strict=True))

    def try_row(self, step: int, batch: Batch, *, times: int) -> None:
        """Compute a row's gradients `times` times and drop them; all processes call it together."""
        try:
            with matmul_precision(self.stage.precision, self.device):
                for _ in range(times):
                    self._add_gradients(step, batch, batch.units, last=False)
        finally:
            self._forget()

    def loss_sum(self, batch: Batch) -> float:
        """Return a validation row's summed loss."""
        return float(self._losses(batch)[0])

    def token_losses(self, batch: Batch) -> np.ndarray:
        """Return the losses (supervised,) of a row that is not trained on."""
        losses: np.ndarray = self._losses(batch)[1].cpu().numpy()
        return losses

    def answers(self, batch: Batch) -> Tensor:
        """Return the log-probabilities (documents,) of the answers of a row of pairs, on the CPU."""
        with torch.no_grad():
            return self._losses(replace(batch, reference=None))[1].float().cpu()

    def measure_pairs(self, batch: Batch) -> np.ndarray:
        """Return the sums (6,) of MEASURES over the pairs of a validation row; zeros for a blank row."""
        measures = self._losses(batch)[1]
        return measures.sum(0).double().cpu().numpy() if batch.pair_documents else np.zeros(len(MEASURES))

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with matmul_precision(self.stage.precision, self.device), self._autocast():
            loss, token_losses = self.model_with_loss(batch.to(self.device))
        self.world.heartbeat.beat()
        return loss.detach(), token_losses

    def _agree_on_sizes(self, batches: Sequence[Batch] | None) -> _StepSizes:
        """Add up the step's sizes over all processes.

        `batches` is None in a process that has no more rows to come. Raises Interrupted in all processes then.
        """
        rows = batches or ()
        own = (
            sum(batch.units for batch in rows),
            sum(batch.supervised for batch in rows),
            sum(len(batch.input_ids) for batch in rows if batch.ids),
            sum(len(batch.input_ids) for batch in rows),
            sum(self.work.of_batch(batch) for batch in rows),
            batches is None,
        )
        totals = [sum(values) for values in zip(*self.world.gather(*own), strict=True)]
        units, supervised, tokens, computed, flops, interrupted = totals
        if interrupted:
            raise Interrupted
        return _StepSizes(int(units), int(supervised), int(tokens), int(computed), flops)

    def _add_gradients(self, step: int, batch: Batch, units: int, *, last: bool) -> float:
        """Add a row's gradients to the step's; return the row's part of the step's mean loss."""
        seed_row(self.seed, step, batch.number)
        try:
            with gradient_sync(self.model_with_loss, last=last):
                began = time.perf_counter()
                with self._autocast():
                    loss_sum, token_losses = self.model_with_loss(batch.to(self.device))
                    loss = loss_sum / max(units, 1)
                self.busy += time.perf_counter() - began
                (loss * self.world.size).backward()  # torch averages gradients over processes; the step needs their sum
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise VistuneError(
                f"stage {self.stage.name}, step {step}: out of memory on {self.device}, rank {self.world.rank}, "
                f"at {len(batch.input_ids)} tokens and {len(batch.images)} tiles of samples {some(batch.ids, 8)}",
                "lower tokens_per_row, recompute: [language, vision], or parallel: fsdp over more processes",
            ) from error
        self.world.heartbeat.beat()
        self.loss_by_source.add(batch, token_losses)
        if batch.pair_documents:
            self.measures += token_losses.sum(0).double().cpu().numpy()
        return float(loss.detach())

    def _clip_gradients(self) -> float:
        """Scale all gradients down to the stage's limit; return their norm before, over all shards."""
        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.stage.clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _skip(self, step: int, batches: Sequence[Batch], losses: Sequence[float], norm: float) -> str:
        """Return why the update is skipped. Raises VistuneError if no more steps may be skipped.

        All processes know the same sums, so all call it or none does.
        """
        ids = self.world.gather_text(some([name for batch in batches for name in batch.ids], 8))
        bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)] or range(len(ids))
        reason = f"loss {sum(losses)}, gradient norm {norm}: the update is skipped; " + "; ".join(
            f"rank {rank} had samples {ids[rank]}" for rank in bad
        )
        if self.skips_left <= 0:
            raise VistuneError(
                f"stage {self.stage.name}, step {step}: {reason}",
                "lower the rates in `learn`, look at these samples, or raise `bad_steps` to skip some such steps",
            )
        self.skips_left -= 1
        return reason

    def _forget(self) -> None:
        self.optimizer.zero_grad()
        self.loss_by_source.take()
        self.measures[:] = 0

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.bf16)
