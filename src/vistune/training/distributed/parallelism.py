"""Keep one model in several processes: DDP keeps a copy in each, FSDP2 a shard of every tensor.

model -> ModelWithLoss -> DDP, or fully_shard by layer -> gradients averaged over all processes
Checkpoints contain whole tensors and optimizer state, so any number of processes can resume from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from vistune.errors import RecipeError
from vistune.model import VisionLanguageModel, head_loss, supervised_positions, token_losses
from vistune.planner.sizes import Parallelism
from vistune.recipe import Preference, Recipe, Stage
from vistune.training.distributed.world import World
from vistune.training.optimizer import State
from vistune.training.preference import answers_of, preference_loss
from vistune.types import Batch

MOST_OF_A_GPU = 0.6  # that weights, gradients and AdamW's state may take under `auto`; the rest is for activations


class ModelWithLoss(nn.Module):
    """The model and its loss in one forward pass: DDP and FSDP2 need every trainable parameter used inside one.

    `preference`: the loss on rows of preference pairs.
    """

    def __init__(self, model: VisionLanguageModel, preference: Preference | None = None) -> None:
        super().__init__()
        self.model = model
        self.preference = preference

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the row's summed loss, and without gradient the loss of each supervised token.

        For a row of preference pairs, return MEASURES of each pair instead. The pass that computes the reference, which
        has no reference and no gradient, returns the log-probability of each answer.
        """
        states, positions, targets = self.predicting(batch)
        if not batch.pair_documents:
            loss = head_loss(states, self.model.head, targets)
            return loss.sum, loss.tokens
        answers = answers_of(token_losses(states, self.model.head, targets), positions, batch)
        if self.preference is None or (not torch.is_grad_enabled() and batch.reference is None):
            return answers.log_probabilities.sum(), answers.log_probabilities.detach()
        return preference_loss(answers, batch, self.preference)

    def predicting(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hidden states (n, width) that predict supervised tokens, their positions, and these tokens."""
        positions, targets = supervised_positions(batch.labels, batch.starts)
        states: Tensor = self.model(batch, positions)
        return states, positions, targets


def choose_parallelism(recipe: Recipe, stage: Stage, model: VisionLanguageModel, world: World) -> Parallelism:
    """Choose how the processes keep a stage's model. Raises RecipeError if the recipe's choice is not possible."""
    if world.size == 1:
        if recipe.parallel == "fsdp":
            raise RecipeError(
                "parallel=fsdp: this run has one process", "start several by torchrun, or use parallel=auto"
            )
        return "single"
    refuse_shards(recipe, stage)
    if recipe.parallel == "fsdp" and not model.packed:  # processes would gather shards once per document of their own
        raise RecipeError(
            "parallel=fsdp: the language model runs unpacked, so processes would not reach its layers together",
            "use parallel=ddp",
        )
    if recipe.parallel != "auto":
        return recipe.parallel
    if _needs_whole_matrices(stage) or not model.packed or not world.device.startswith("cuda"):
        return "ddp"
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    needed = sum(size * (4 if trainable else 1) for size, trainable in sizes)
    available = torch.cuda.get_device_properties(world.device).total_memory
    return "ddp" if needed < MOST_OF_A_GPU * available else "fsdp"


def refuse_shards(recipe: Recipe, stage: Stage) -> None:
    """Raise RecipeError if a stage needs whole matrices but the recipe shards them over processes."""
    if recipe.parallel == "fsdp" and (settings := _needs_whole_matrices(stage)):
        raise RecipeError(
            f"stage {stage.name}: {settings[0]} needs whole matrices, fsdp keeps shards of them", "use parallel=ddp"
        )


def _needs_whole_matrices(stage: Stage) -> list[str]:
    settings = (("optimizer", stage.optimizer), ("quantize", stage.quantize))
    return [f"{key}={value}" for key, value in settings if value in ("muon", 4, 8)]


def wrap(model: ModelWithLoss, parallelism: Parallelism, world: World) -> nn.Module:
    """Spread the model over all processes; under FSDP its own parameters become shards."""
    if parallelism == "ddp":
        # Buffers are constants, so only gradients are exchanged. No device_ids: batches are on the device already.
        return DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)
    if parallelism == "fsdp":
        mesh = init_device_mesh(world.device.split(":")[0], (world.size,))
        tower = list(model.model.vision.parameters())
        # A frozen tower stays whole: it is small, and a row of cached features does not run it, so processes would not
        # reach its layers at the same time.
        whole = set() if any(p.requires_grad for p in tower) else set(tower)
        for layer in layers_of(model):
            if not whole.issuperset(layer.parameters()):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh, ignored_params=whole)
    return model


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost layers of all stacks of layers: lists inside a layer (of experts, say) stay with it."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from layers_of(child)


def gradient_sync(model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Wrap the computation of one row: DDP exchanges gradients only after a step's last row, FSDP2 after every row."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()


def whole_copy(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU as it is now, unsharded; all processes must call it for a sharded one."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor().cpu()
    return tensor.detach().to("cpu", copy=True)


def take_on_first(world: World) -> Callable[[Tensor], Tensor]:
    """Return a function by which rank 0 takes whole tensors; the others send their shards and keep nothing.

    On a GPU it takes copies, also of AdamW's step counts, which are on the CPU. On a CPU it takes the tensors
    themselves, so training must wait until they are written.
    """

    def take(tensor: Tensor) -> Tensor:
        if world.is_first:
            in_place = world.device == "cpu" and not isinstance(tensor, DTensor)
            return tensor.detach() if in_place else whole_copy(tensor)
        if isinstance(tensor, DTensor):
            tensor.full_tensor()
        return torch.empty(0)

    return take


def take_states(states: Sequence[State], take: Callable[[Tensor], Tensor]) -> list[State]:
    """Collect the states of optimizers, their tensors by `take`."""
    return [_map_state(state, lambda index, value: take(value) if isinstance(value, Tensor) else value)
            for state in states]  # fmt: skip


def shard_states(states: Sequence[State], parameters: Sequence[Sequence[nn.Parameter]]) -> list[State]:
    """Shard whole states of optimizers as their parameters (by optimizer) are sharded."""

    def shard(value: object, like: nn.Parameter) -> object:
        if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
            return value
        # Every process has read the same file: nothing needs to be sent.
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    return [
        _map_state(state, lambda index, value, own=own: shard(value, own[index]))  # type: ignore[misc]
        for state, own in zip(states, parameters, strict=True)
    ]


def _map_state(state: State, change: Callable[[int, object], object]) -> State:
    """Change every value in an optimizer's state. `change` gets the value and the index of its parameter."""
    return {
        "state": {
            index: {key: change(index, value) for key, value in entry.items()}
            for index, entry in state["state"].items()
        },
        "param_groups": state["param_groups"],
    }
