"""Projectors from the tower's features to the language model's width.

LLaVA's linear projector (arXiv 2304.08485, section 4.1) and MLPs (arXiv 2310.03744, section 3.3), and two projectors
that join four patches into one slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from vistune.errors import RecipeError, raised_at
from vistune.registry import lookup
from vistune.types import PatchBudget, Spec


@dataclass(frozen=True, slots=True)
class Projector:
    """How to build a projector from two widths, and its number of slots for a tile's tokens.

    Attributes:
        slots: Raises ValueError for a number of tokens that the projector cannot take.
        cell: For NaFlex towers, whose images have different grids: the projector makes one slot of cell x cell patches,
            1 if it projects each patch by itself. Above 1, `forward` takes (features, grids), the rows and columns of
            each tile; both are multiples of `cell`, and tokens after the last patch may be anything. None: the
            projector is not for NaFlex.
    """

    build: Callable[[int, int], nn.Module]
    slots: Callable[[int], int] = lambda tokens: tokens
    cell: int | None = None


def _mlp(depth: int) -> Callable[[int, int], nn.Module]:
    """Return `mlp{depth}x_gelu`: linear layers with exact GELU between them, at indices 0, 2, 4, as in LLaVA."""

    def build(vision: int, language: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(vision, language)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(language, language)]
        return nn.Sequential(*layers)

    return build


def cells_of(features: Tensor, grids: Tensor) -> Tensor:
    """Group the patches of NaFlex tiles by 2x2 cells: (tiles, patches, width) -> (tiles, patches // 4, 4, width).

    A tile's cells are in rows; those after its last cell repeat other patches.
    """
    tokens = features.shape[1]
    cells = torch.arange(tokens // 4, device=features.device)[None, :]
    columns = grids[:, 1:]
    across = (columns // 2).clamp(min=1)  # a blank tile has one patch
    first = (cells // across * 2 * columns + cells % across * 2)[..., None]
    right, below = (
        torch.tensor([0, 1, 0, 1], device=features.device),
        torch.tensor([0, 0, 1, 1], device=features.device),
    )
    indices = (first + right + below * columns[..., None]).clamp(max=tokens - 1)
    return features[torch.arange(len(features), device=features.device)[:, None, None], indices]


class Pool(nn.Module):
    """Average 2x2 patches; at an odd edge, the patches that exist."""

    def forward(self, features: Tensor, grids: Tensor | None = None) -> Tensor:
        """(tiles, side * side, width) -> (tiles, ceil(side / 2) ** 2, width); with grids, the means of `cells_of`."""
        if grids is not None:
            return cells_of(features, grids).mean(dim=2)
        side = math.isqrt(features.shape[1])
        grid = features.mT.reshape(len(features), -1, side, side)
        return avg_pool2d(grid, 2, ceil_mode=True, count_include_pad=False).flatten(2).mT


class Shuffle(nn.Module):
    """Concatenate 2x2 patches to one of four times the width (space to depth, as in InternVL and Idefics3)."""

    def forward(self, features: Tensor, grids: Tensor | None = None) -> Tensor:
        """(tiles, side * side, width) -> (tiles, (side / 2) ** 2, 4 * width); with grids, the cells of `cells_of`."""
        if grids is not None:
            return cells_of(features, grids).flatten(2)
        tiles, tokens, width = features.shape
        half = math.isqrt(tokens) // 2
        grid = features.reshape(tiles, half, 2, half, 2, width)
        return grid.transpose(2, 3).reshape(tiles, half * half, 4 * width)


class Joining(nn.Sequential):
    """Join 2x2 patches, then project each result."""

    def forward(self, features: Tensor, grids: Tensor | None = None) -> Tensor:
        """(tiles, tokens, width) -> (tiles, slots, language width); with grids, of NaFlex tiles."""
        joined, project = self
        slots: Tensor = project(joined(features, grids))
        return slots


def _side(tokens: int) -> int:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens do not form a square of patches: it needs feature_tokens=patch")
    return side


def _pooled(tokens: int) -> int:
    return ((_side(tokens) + 1) // 2) ** 2


def _shuffled(tokens: int) -> int:
    if _side(tokens) % 2:
        raise ValueError(
            f"a grid of {_side(tokens)} x {_side(tokens)} patches cannot be halved: use pool2x2_mlp2x_gelu"
        )
    return tokens // 4


PROJECTORS: Mapping[str, Projector] = {
    "linear": Projector(nn.Linear, cell=1),
    **{f"mlp{depth}x_gelu": Projector(_mlp(depth), cell=1) for depth in range(1, 9)},
    "identity": Projector(lambda vision, language: nn.Identity(), cell=1),
    "pool2x2_mlp2x_gelu": Projector(
        lambda vision, language: Joining(Pool(), _mlp(2)(vision, language)), _pooled, cell=2
    ),
    "shuffle2x2_mlp2x_gelu": Projector(
        lambda vision, language: Joining(Shuffle(), _mlp(2)(4 * vision, language)), _shuffled, cell=2
    ),
}


def projector_named(name: str) -> Projector:
    """Return the projector called `name`. Raises RecipeError if there is none."""
    entry: object = lookup(name, PROJECTORS, "projector")
    if not isinstance(entry, Projector):
        kind = "a class" if isinstance(entry, type) else f"of type {type(entry).__name__}"
        raise RecipeError(
            f"model.projector={name}: is {kind}, not a Projector",
            "write NAME = Projector(CLASS) in that module, and give model.projector=MODULE:NAME",
        )
    return entry


def slots_after(name: str, tokens: int) -> int:
    """Return the number of slots for a tile's tokens. Raises RecipeError if the projector cannot take them."""
    projector = projector_named(name)
    try:
        slots: object = projector.slots(tokens)
    except ValueError as error:
        raise RecipeError(f"model.projector={name}: {error}", "choose another projector or tower") from None
    except Exception as error:  # a user's function
        raise RecipeError(f"model.projector={name}: `slots` fails: {raised_at(error)}", "correct `slots`") from error
    if type(slots) is not int or slots < 1:
        raise RecipeError(
            f"model.projector={name}: `slots` returns {slots!r} for {tokens} tokens", "return a whole number above 0"
        )
    return slots


def budget_for(name: str, budget: PatchBudget) -> PatchBudget:
    """Return the patch budget of a NaFlex tower with this projector's cell. Raises RecipeError if they do not fit."""
    cell = projector_named(name).cell
    if cell is None:
        raise RecipeError(
            f"model.projector={name}: it does not say how it takes a NaFlex tower's images, whose grids of patches "
            "differ",
            "give Projector(..., cell=1) if it projects each patch by itself, or use model.image_mode=square",
        )
    if budget.most < cell**2:
        raise RecipeError(
            f"model.projector={name}: joins {cell} x {cell} patches, the tower has at most {budget.most}",
            "increase max_num_patches in its preprocessor_config.json, or use mlp2x_gelu",
        )
    return replace(budget, cell=cell)


def tried_slots(
    name: str, tokens: int, vision_width: int, language_width: int, budget: PatchBudget | None = None
) -> int:
    """Return the number of slots for a tile's tokens, after running the projector once without weights.

    Args:
        budget: The patch budget of a NaFlex tower; `tokens` is then the most tokens of an image.

    Raises RecipeError if the projector fails, or if its output does not have this number of slots or this width.
    """
    if name == "identity" and vision_width != language_width:
        raise RecipeError(
            f"model.projector=identity: the tower's width {vision_width} is not the language model's {language_width}",
            "use linear or mlp2x_gelu",
        )
    slots = slots_after(name, tokens) if budget is None else budget.most // budget.cell**2
    cell = 1 if budget is None else budget.cell
    try:
        try:
            output = _run_once(name, (2, tokens, vision_width), language_width, "meta", cell)
        except Exception:  # the module may read values, which tensors on the meta device do not have
            output = _run_once(name, (2, tokens, vision_width), language_width, "cpu", cell)
    except Exception as error:  # a user's module
        raise RecipeError(
            f"model.projector={name}: fails on features of shape {(2, tokens, vision_width)}: {raised_at(error)}",
            "build it from (vision width, language width); forward takes (tiles, tokens, vision width)",
        ) from error
    require_shape(name, output, (2, slots, language_width))
    return slots


def _run_once(name: str, shape: tuple[int, int, int], language_width: int, device: str, cell: int) -> object:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device(device):
        module = projector_named(name).build(shape[-1], language_width)
        return module(torch.zeros(shape), *([torch.full((shape[0], 2), cell)] if cell > 1 else []))


def require_shape(name: str, output: object, expected: tuple[int, int, int]) -> None:
    """Raise RecipeError if a projector's output is not a tensor of the expected shape (tiles, slots, width)."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else None
    if shape == expected:
        return
    problem = f"an output of shape {shape}" if shape is not None else f"{type(output).__name__} instead of a tensor"
    hint = "return the language model's width" if shape is not None and shape[:2] == expected[:2] else ""
    raise RecipeError(
        f"model.projector={name}: returns {problem}, expected {expected}: tiles, slots, width of the language model",
        hint or "make forward return this shape, or give the number of slots: Projector(CLASS, slots=lambda tokens: …)",
    )


def build_projector(spec: Spec, *, seed: int) -> nn.Module:
    """Build a projector with torch's default initialisation; `seed` does not change the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return projector_named(spec.projector).build(spec.vision_width, spec.language_width)
