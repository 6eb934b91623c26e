"""Proof on the user's own model and rows that packing, accumulation and several processes change no gradient.

recipe -> each stage's first step, its samples packed, one by one, in two halves, and under torchrun dealt over all
processes -> losses and gradients compared
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vistune.data import Loader, StagePlan
from vistune.data.packing import PackedRow, Step
from vistune.data.stages import PlannedStage, plan_stages, with_first_shard
from vistune.model import VisionLanguageModel, next_token_loss
from vistune.planner.precision import merge_where_exact
from vistune.training.distributed.parallel import World
from vistune.training.distributed.sharding import Learner, Way, keeping_gradients, way_of, whole_copy, wrap
from vistune.training.run import Run

TOLERANCE = 1e-3  # of the largest entry of a parameter's gradient, in fp32


@dataclass(frozen=True, slots=True)
class Comparison:
    """A step of a stage arranged in another way; `difference`: of its gradients, over the largest entry of each."""

    stage: str
    arrangement: str
    rows: int
    loss: float
    loss_packed: float
    difference: float
    parameter: str  # where the difference is largest

    @property
    def equal(self) -> bool:
        return self.difference <= TOLERANCE and abs(self.loss - self.loss_packed) <= TOLERANCE * abs(self.loss_packed)


def selftest(run: Run) -> list[Comparison]:
    """Every stage's first step, on the model that the recipe begins with; nothing is learnt or written.

    The model computes in fp32, without dropout: what is compared is the arrangement. Packed rows, and those dealt over
    processes, go the way that training goes; the others through every layer whole, with adapters apart.
    """
    planned, _ = plan_stages(run.recipe, run.processor, run.progress)
    model = run.first_model(None)
    found = []
    for number, whole in enumerate(planned):
        item = with_first_shard(whole, run.out / f"shard-{run.world.rank}-{number}")
        run.prepare(model, item.stage, number, quantise=False)
        model.set_trainable(item.stage.learn)
        model.eval()
        way = way_of(run.recipe, item.stage, model, run.world)
        found += _compare(model, item, run.world, way)
    return found


def _compare(model: VisionLanguageModel, item: PlannedStage, world: World, way: Way) -> list[Comparison]:
    packed = item.plan.steps[0]
    samples = [index for row in packed for index in row]
    half = (len(samples) + 1) // 2
    arrangements: dict[str, Sequence[PackedRow]] = {
        "one by one": [(index,) for index in samples],
        "two halves, turned round": [tuple(reversed(part)) for part in (samples[:half], samples[half:]) if part],
    }
    whole = {name: (len(rows), *_gradients(model, item, tuple(rows))) for name, rows in arrangements.items()}
    merge_where_exact(model, item.stage, way, world.device)
    loss_packed, wanted = _gradients(model, item, packed, as_trained=True)

    def compared(name: str, rows: int, loss: float, gradients: Mapping[str, Tensor]) -> Comparison:
        off = {key: _distance(gradients[key], wanted[key].to(gradients[key].device)) for key in wanted}
        worst = max(off, key=lambda key: off[key])
        return Comparison(item.stage.name, name, rows, loss, loss_packed, off[worst], worst)

    found = [compared(name, *gone) for name, gone in whole.items()]
    if way != "alone":
        dealt = _dealt(copy.deepcopy(model), item, tuple(arrangements["one by one"]), world, way)
        found.append(compared(f"over {world.size} processes, {way}", len(samples), *dealt))
    return found


def _dealt(
    model: VisionLanguageModel, item: PlannedStage, step: Step, world: World, way: Way
) -> tuple[float, dict[str, Tensor]]:
    """The same as `_gradients` with the rows dealt over all processes, as training does it; gradients on the CPU."""
    model.zero_grad(set_to_none=True)
    learner = wrap(Learner(model), way, world)
    plan = StagePlan((step,), item.plan.made_from, item.plan.lengths)
    batches = Loader(item.samples, item.processor, plan, share=(world.rank, world.size)).load(0)
    count = sum(own for (own,) in world.gather(sum(batch.supervised for batch in batches)))
    total = 0.0
    for place, batch in enumerate(batches, start=1):
        with keeping_gradients(learner, last=place == len(batches)):
            loss = learner(batch.to(world.device))[0] / max(count, 1)
            (loss * world.size).backward()
        total += float(loss.detach())
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = {name: torch.zeros(p.shape) if p.grad is None else whole_copy(p.grad) for name, p in learning.items()}
    return sum(own for (own,) in world.gather(total)), gradients


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-8))


def _gradients(
    model: VisionLanguageModel, item: PlannedStage, step: Step, *, as_trained: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss over the step's supervised tokens, and the gradient of every learning parameter."""
    model.zero_grad(set_to_none=True)
    plan = StagePlan((step,), item.plan.made_from)
    batches = Loader(item.samples, item.processor, plan).load(0)
    count = sum(batch.supervised for batch in batches)
    learner, total = Learner(model), 0.0
    for batch in batches:
        row = batch.to(str(model.head.device))
        if as_trained:
            loss, _ = learner(row)
        else:
            loss = next_token_loss(model(row), model.head, row.labels, row.starts).sum
        loss = loss / max(count, 1)
        loss.backward()
        total += float(loss.detach())
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return total, {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in learning.items()}
