"""One model over several processes, by torch: DDP keeps a whole copy in each, FSDP2 a slice of every tensor.

model -> Learner (its forward is the loss) -> DDP, or fully_shard by layer -> gradients averaged over all processes
A copy of tensors or optimiser state is whole in either case, so that any number of processes can go on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from vistune.errors import RecipeError
from vistune.model import VisionLanguageModel, head_loss, supervised_positions
from vistune.recipe import Recipe, Stage
from vistune.training.distributed.parallel import World
from vistune.types import Batch

Way = Literal["alone", "ddp", "fsdp"]
MOST_OF_A_GPU = 0.6  # that weights, gradients and AdamW's state may take under `auto`; the rest is for activations


class Learner(nn.Module):
    """The model with its loss: all that learns is used inside one forward, as DDP and FSDP2 both want it."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss summed over the row's supervised tokens, and that of each of them without gradient."""
        at, wanted = supervised_positions(batch.labels, batch.starts)
        loss = head_loss(self.model(batch, at), self.model.head, wanted)
        return loss.sum, loss.tokens


def way_of(recipe: Recipe, stage: Stage, model: nn.Module, world: World) -> Way:
    """How a stage's model is kept. Raises RecipeError where the recipe asks for what cannot be."""
    if world.size == 1:
        if recipe.parallel == "fsdp":
            raise RecipeError("parallel=fsdp: there is one process", "start several by torchrun, or use parallel=auto")
        return "alone"
    refuse_slices(recipe, stage)
    if recipe.parallel != "auto":
        return recipe.parallel
    if _needs_whole(stage) or not world.device.startswith("cuda"):
        return "ddp"
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    needed = sum(size * (4 if learns else 1) for size, learns in sizes)
    room = torch.cuda.get_device_properties(world.device).total_memory
    return "ddp" if needed < MOST_OF_A_GPU * room else "fsdp"


def refuse_slices(recipe: Recipe, stage: Stage) -> None:
    """Raise RecipeError if a stage needs whole matrices but the recipe shards them over processes."""
    if recipe.parallel == "fsdp" and (whole := _needs_whole(stage)):
        raise RecipeError(f"stage {stage.name}: {whole[0]} needs whole matrices, fsdp keeps slices", "use parallel=ddp")


def _needs_whole(stage: Stage) -> list[str]:
    settings = (("optimizer", stage.optimizer), ("quantize", stage.quantize))
    return [f"{key}={value}" for key, value in settings if value in ("muon", 4, 8)]


def wrap(learner: Learner, way: Way, world: World) -> nn.Module:
    """The learner over all processes; under fsdp the model's own parameters become slices."""
    if way == "ddp":
        # Only what learns is exchanged; buffers are constants, or sums that each process makes (model/merged.py). No
        # device_ids: the rows are there already.
        return DistributedDataParallel(learner, forward_sync_buffers=False, gradient_as_bucket_view=True)
    if way == "fsdp":
        mesh = init_device_mesh(world.device.split(":")[0], (world.size,))
        tower = list(learner.model.vision.parameters())
        # A frozen tower stays whole: it is small, and a row of kept features does without it, so processes do not all
        # come to its layers at once.
        whole = set() if any(p.requires_grad for p in tower) else set(tower)
        for layer in layers_of(learner):
            if not whole.issuperset(layer.parameters()):
                fully_shard(layer, mesh=mesh)
        fully_shard(learner, mesh=mesh, ignored_params=whole)
    return learner


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost layers of all stacks of layers: what is inside one (experts, say) stays in one piece with it."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from layers_of(child)


def keeping_gradients(learner: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Around every row of a step: DDP exchanges gradients once, behind the last one; FSDP2 slices them at once."""
    return learner.no_sync() if isinstance(learner, DistributedDataParallel) and not last else nullcontext()


def whole_copy(tensor: Tensor) -> Tensor:
    """A tensor as it is now, whole and on the CPU, whatever is learnt later; of slices all processes must call it."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor().cpu()
    return tensor.detach().to("cpu", copy=True)


def copying(world: World) -> Callable[[Tensor], Tensor]:
    """How rank 0 takes whole copies; the others give their slices and keep nothing."""

    def take(tensor: Tensor) -> Tensor:
        if world.is_first:
            return whole_copy(tensor)
        if isinstance(tensor, DTensor):
            tensor.full_tensor()
        return torch.empty(0)

    return take


def copied(states: Sequence[dict[str, Any]], take: Callable[[Tensor], Tensor]) -> list[dict[str, Any]]:
    """The states of optimisers with their tensors taken by `take`."""
    return [
        {
            "state": {
                number: {key: take(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
                for number, entry in state["state"].items()
            },
            "param_groups": state["param_groups"],
        }
        for state in states
    ]


def sliced(states: Sequence[dict[str, Any]], learning: Sequence[Sequence[nn.Parameter]]) -> list[dict[str, Any]]:
    """Whole states as each optimiser's parameters are kept: in slices where they are; `learning` by optimiser."""

    def fit(value: Any, like: nn.Parameter) -> Any:
        if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
            return value
        # Every process has read the same file: nothing need be sent.
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    return [
        {
            "state": {
                number: {key: fit(value, parameters[number]) for key, value in entry.items()}
                for number, entry in state["state"].items()
            },
            "param_groups": state["param_groups"],
        }
        for state, parameters in zip(states, learning, strict=True)
    ]
