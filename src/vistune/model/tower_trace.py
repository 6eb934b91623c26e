"""Run a tower once without weights to find its hidden states, and its embeddings to find the order of its patches."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from vistune.errors import RecipeError, reason_of
from vistune.model.dispatch import OperationWatch
from vistune.model.tower_class import missing_package, not_a_tower
from vistune.model.tower_inputs import tower_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

TILES = 2  # images on the meta device: a tower that packs images into one sequence shows it with two


class Trace:
    """Record a tower's run on the meta device: its hidden states, and which modules returned which tensors."""

    def __init__(self, tower: PreTrainedModel) -> None:
        self.tower = tower
        self.states: tuple[Tensor, ...] = ()
        self.calls: list[tuple[str, nn.Module]] = []  # in the order in which they end
        self.returned: dict[str, Tensor] = {}

    def record(self, module: nn.Module, name: str, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        self.calls.append((name, module))
        if isinstance(first, Tensor):
            self.returned[name] = first

    def stack(self) -> str:
        """Return the name of the list of layers; "" if the hidden states are not its modules' outputs."""
        needed = self.states[1:]
        ends = [name for name, tensor in self.returned.items() if needed and tensor is needed[0]]
        for parent, dot, number in (name.rpartition(".") for name in ends):
            if number == "0" and all(
                self.returned.get(f"{parent}{dot}{k}") is state for k, state in enumerate(needed)
            ):  # fmt: skip
                return parent
        return ""

    def norm(self, stack: str, width: int) -> str:
        """Return the name of the first module with weights after the last layer, if it is a norm of this width."""
        last = f"{stack}.{len(self.states) - 2}"
        names = [name for name, _ in self.calls]
        for name, module in self.calls[names.index(last) + 1 :]:
            if weights := list(module.parameters(recurse=False)):
                return name if all(weight.shape == (width,) for weight in weights) else ""
        return ""


class _WholeMasks(OperationWatch):
    """Answer that a mask on the meta device is true: Idefics3 asks whether all patches of its images are there."""

    def watch(self, operation: OpOverload[..., object], args: tuple[Any, ...]) -> object:
        is_read = operation is torch.ops.aten._local_scalar_dense.default
        return True if is_read and args[0].is_meta and args[0].dtype == torch.bool else None


def run_on_meta(config: PreTrainedConfig, kind: type[PreTrainedModel], side: int) -> Trace:
    """Run a tower without weights on blank images. Raises RecipeError if it is not a tower."""
    name = config.model_type
    try:
        with torch.device("meta"):
            tower = kind(config).eval()
            pixels = torch.zeros(TILES, 3, side, side)
    except ImportError as error:
        raise missing_package(name, error) from None
    except Exception as error:  # transformers' models raise many types
        raise not_a_tower(name, f"transformers cannot build it: {reason_of(error)}") from None
    trace = Trace(tower)
    for path, module in tower.named_modules():
        if path:
            module.register_forward_hook(lambda module, _, output, path=path: trace.record(module, path, output))
    try:
        with _WholeMasks():
            output = tower(**tower_inputs(tower, pixels), output_hidden_states=True)
    except RecipeError:
        raise
    except Exception as error:  # as above
        raise not_a_tower(name, _why_not_run(kind, side, error)) from None
    trace.states = states_of(output)
    if not all(isinstance(state, Tensor) and state.ndim in (3, 4) for state in trace.states) or not trace.states:
        raise not_a_tower(name, "it returns no hidden states over patches")
    if any(len(state) != TILES for state in trace.states):
        raise not_a_tower(name, "it joins the patches of several images into one sequence")
    return trace


def _why_not_run(kind: type[PreTrainedModel], side: int, error: Exception) -> str:
    """Return the reason why a tower fails on pixels, with the further arguments that it takes."""
    if "meta" in str(error):
        return f"it cannot be described without weights: {reason_of(error)}"
    known = {"self", "pixel_values", "bool_masked_pos", "interpolate_pos_encoding", "labels", "return_dict"}
    parameters = inspect.signature(kind.forward).parameters.values()
    further = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD and one.name not in known]
    takes = f", and it also takes {' and '.join(further)}" if further else ""
    return f"{kind.__name__} fails on square images of {side} pixels{takes}: {reason_of(error)}"


def states_of(output: object) -> tuple[Tensor, ...]:
    """Return the hidden states in a tower's output; for Swin and its kin, those that are maps of patches."""
    return tuple(getattr(output, "reshaped_hidden_states", None) or getattr(output, "hidden_states", None) or ())


def first_tensor(args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor:
    """Return the hidden state among a layer's arguments, which may be named."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


class _FirstLayer(Exception):
    """Ends a tower's forward pass before its first layer."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings


def _end_before(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    raise _FirstLayer(first_tensor(args, kwargs))


def _embed(tower: PreTrainedModel, pixels: Tensor, stack: str) -> Tensor:
    """Return hidden state 0; no layer is run if `stack` names the list of layers."""
    if not stack:
        return states_of(tower(**tower_inputs(tower, pixels), output_hidden_states=True))[0]
    tower.get_submodule(f"{stack}.0").register_forward_pre_hook(_end_before, with_kwargs=True)
    try:
        tower(**tower_inputs(tower, pixels))
    except _FirstLayer as end:
        return end.embeddings
    raise AssertionError(f"{stack}.0 was not run")


def first_patch(
    config: PreTrainedConfig, kind: type[PreTrainedModel], side: int, grid: tuple[int, int], stack: str
) -> int:
    """Return the index of the first patch among a tower's tokens: the number of class tokens and registers before it.

    The embeddings of a tower with random weights are computed for images that differ in one patch: only that patch's
    token may differ. Raises RecipeError if the patches are not in rows from the top left.

    Args:
        config: The tower's config, with one layer if it can have that.
        grid: Rows and columns of patches.
        stack: Name of the list of layers, "" if there is none.
    """
    rows, columns = grid
    changed = [(0, columns - 1), (rows - 1, 0)]
    height, width = side // rows, side // columns
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        pixels = torch.rand(1, 3, side, side).repeat(1 + len(changed), 1, 1, 1)
        for image, (row, column) in zip(pixels[1:], changed, strict=True):
            image[:, row * height : (row + 1) * height, column * width : (column + 1) * width] += 1
        tower = kind(config).eval().float()
        embedded = _embed(tower, pixels, stack)
    moved = (embedded[1:] - embedded[:1]).norm(dim=-1)
    offsets = {
        int(index) - row * columns - column for index, (row, column) in zip(moved.argmax(dim=1), changed, strict=True)
    }
    if len(offsets) != 1 or not bool(moved.any()):
        raise not_a_tower(config.model_type, "its tokens are not patches in rows from the top left")
    return offsets.pop()
