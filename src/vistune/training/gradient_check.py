"""Check on the user's own model and samples that packing, accumulation and parallelism change no gradient.

1. The samples of each stage's first step are computed in several arrangements: in packed rows, with one sample per row,
   as two halves whose gradients are accumulated, and under torchrun over all processes. Losses and gradients are
   compared.
2. Random documents (some beyond the length at which RoPE changes) are computed in packed rows, and one by one by
   transformers' own attention. Losses and hidden states are compared.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from vistune.data import Loader, StagePlan
from vistune.data.packing import Step
from vistune.data.stages import PlannedStage, plan_stages, with_first_shard
from vistune.model import VisionLanguageModel, next_token_loss, supervised_positions
from vistune.model.language import read_as_transformers
from vistune.processor import blank_batch
from vistune.training.distributed.parallelism import (
    ModelWithLoss,
    choose_parallelism,
    gradient_sync,
    whole_copy,
    wrap,
)
from vistune.training.distributed.world import World
from vistune.training.run import Run
from vistune.types import Batch

TOLERANCE = 1e-3  # of the largest entry of a parameter's gradient, in fp32
# Gradients below this share of the largest entry are compared with that share of it. The gradient of a bias that
# shifts all keys alike is zero up to rounding.
LEAST = 1e-3
DOCUMENT = 24  # tokens of a random document that fits any model


@dataclass(frozen=True, slots=True)
class GradientComparison:
    """A stage's first step in another arrangement, compared with the packed one.

    Attributes:
        arrangement: How the samples are put into rows.
        difference: Largest difference of a gradient, over the largest entry of that gradient; or of hidden states.
        parameter: Where the difference is largest.
    """

    stage: str
    arrangement: str
    rows: int
    loss: float
    loss_packed: float
    difference: float
    parameter: str

    @property
    def equal(self) -> bool:
        return self.difference <= TOLERANCE and abs(self.loss - self.loss_packed) <= TOLERANCE * abs(self.loss_packed)

    def to_dict(self) -> dict[str, object]:
        """Return the comparison as `selftest --json` prints it."""
        return {**asdict(self), "equal": self.equal}


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Mean loss over a step's supervised tokens, and the gradient of every trainable parameter."""

    rows: int
    loss: float
    by_parameter: dict[str, Tensor]


def selftest(run: Run) -> list[GradientComparison]:
    """Check every stage's first step on the model that the recipe begins with; train and write nothing.

    The model computes in fp32, without dropout. The packed rows, and those over all processes, are computed as in
    training; the other arrangements run all layers on all tokens.
    """
    stages, _ = plan_stages(run.recipe, run.processor, run.progress)
    model = run.first_model(None)
    comparisons = []
    for number, whole in enumerate(stages):
        planned = with_first_shard(whole, run.out / f"shard-{run.world.rank}-{number}")
        run.prepare(model, planned.stage, number, quantise=False)
        model.set_trainable(planned.stage.learn)
        model.eval()
        if number == 0:
            comparisons.append(_against_transformers(model, planned.stage.name, run.device))
        comparisons += _compare(run, model, planned)
    return comparisons


class _LossOfAllLayers(ModelWithLoss):
    """Runs all layers at all tokens; in training, the last layer's MLP runs at supervised positions only."""

    def predicting(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        positions, targets = supervised_positions(batch.labels, batch.starts)
        states: Tensor = self.model(batch)
        return states.index_select(0, positions), positions, targets


def _compare(run: Run, model: VisionLanguageModel, planned: PlannedStage) -> list[GradientComparison]:
    parallelism = choose_parallelism(run.recipe, planned.stage, model, run.world)
    step = planned.plan.steps[0]
    samples = [index for row in step for index in row]
    half = (len(samples) + 1) // 2
    one_by_one: Step = tuple((index,) for index in samples)
    halves: Step = tuple(tuple(reversed(part)) for part in (samples[:half], samples[half:]) if part)
    single, loss = World(device=run.device), planned.stage.preference_loss
    over_all_layers = _LossOfAllLayers(model, loss)
    others = {
        "one by one": _gradients(over_all_layers, model, planned, one_by_one, single),
        "two halves, turned round": _gradients(over_all_layers, model, planned, halves, single),
    }
    packed = _gradients(ModelWithLoss(model, loss), model, planned, step, single)
    if parallelism != "single":
        name, own = f"over {run.world.size} processes, {parallelism}", copy.deepcopy(model)
        own.zero_grad(set_to_none=True)
        others[name] = _gradients(
            wrap(ModelWithLoss(own, loss), parallelism, run.world), own, planned, one_by_one, run.world
        )
    return [_comparison(planned.stage.name, name, other, packed) for name, other in others.items()]


@torch.no_grad()
def _against_transformers(model: VisionLanguageModel, stage: str, device: str) -> GradientComparison:
    """Compare random documents, packed into one row, with each processed separately by transformers' own attention."""
    limit = model.rope_limit
    lengths = [5, DOCUMENT, *([limit + 3] if limit is not None else []), 2]
    ids = torch.randint(model.spec.vocabulary, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    starts = torch.tensor([0, *accumulate(lengths)])
    blank = blank_batch(model.spec)
    row = Batch(
        input_ids=ids,
        labels=ids,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        starts=starts,
        images=blank.images,
        supervised=len(ids) - len(lengths),
        grids=blank.grids,
    ).to(device)
    packed, loss_packed = model(row), ModelWithLoss(model)(row)[0]
    documents = model.embed_text(row.input_ids)[None].split(lengths, dim=1)
    separate = torch.cat([read_as_transformers(model.language, rows)[0] for rows in documents])
    loss = next_token_loss(separate, model.head, row.labels, starts).sum
    difference = float((packed - separate).abs().max() / separate.abs().max())
    return GradientComparison(
        stage,
        "transformers' own attention",
        len(lengths),
        float(loss / row.supervised),
        float(loss_packed / row.supervised),
        difference,
        "hidden states",
    )


def _comparison(stage: str, arrangement: str, other: _Gradients, packed: _Gradients) -> GradientComparison:
    least = LEAST * max(float(gradient.abs().max()) for gradient in packed.by_parameter.values())
    differences = {
        name: _difference(gradient, other.by_parameter[name], least) for name, gradient in packed.by_parameter.items()
    }
    worst = max(differences, key=lambda name: differences[name])
    return GradientComparison(stage, arrangement, other.rows, other.loss, packed.loss, differences[worst], worst)


def _difference(one: Tensor, other: Tensor, least: float) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp_min(max(least, 1e-8)))


def _gradients(
    model_with_loss: nn.Module, model: VisionLanguageModel, planned: PlannedStage, step: Step, world: World
) -> _Gradients:
    """Compute a step's gradients on the CPU, with its rows distributed to all processes of `world` as in training."""
    model.zero_grad(set_to_none=True)
    plan = StagePlan((step,), planned.plan.made_from, planned.plan.lengths)
    pair_documents = planned.stage.pair_documents
    loader = Loader(
        planned.samples, planned.processor, plan, share=(world.rank, world.size), pair_documents=pair_documents
    )
    if pair_documents:  # a small constant: with the model itself as reference, all margins would be zero
        loader.reference = torch.linspace(-1, 0, pair_documents).repeat(len(planned.samples), 1)
    batches = loader.load(0)
    units = sum(own for (own,) in world.gather(sum(batch.units for batch in batches)))
    total = 0.0
    for count, batch in enumerate(batches, start=1):
        with gradient_sync(model_with_loss, last=count == len(batches)):
            loss = model_with_loss(batch.to(world.device))[0] / max(units, 1)
            (loss * world.size).backward()
        total += float(loss.detach())
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = {name: torch.zeros(p.shape) if p.grad is None else whole_copy(p.grad) for name, p in trainable.items()}
    return _Gradients(len(step), sum(own for (own,) in world.gather(total)), gradients)
