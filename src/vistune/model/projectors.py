"""From the tower's width to the language model's: LLaVA's projectors (arXiv 2304.08485, 4.1; 2310.03744, 3.3).

features (tiles, tokens, vision width) -> (tiles, slots, language width); two of them make four patches one slot
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from vistune.errors import RecipeError
from vistune.registry import lookup
from vistune.types import Spec


@dataclass(frozen=True, slots=True)
class Projector:
    """How to build one, and how many slots it makes of a tile's tokens. `slots` raises ValueError where it cannot."""

    build: Callable[[int, int], nn.Module]
    slots: Callable[[int], int] = lambda tokens: tokens


def _mlp(depth: int) -> Callable[[int, int], nn.Module]:
    """`mlp{depth}x_gelu`: linear layers with exact GELU between; layers sit at indices 0, 2, 4, as in LLaVA."""

    def build(vision: int, language: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(vision, language)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(language, language)]
        return nn.Sequential(*layers)

    return build


class Pool(nn.Module):
    """The mean of each 2x2 patches; at an odd edge, of those that are there."""

    def forward(self, features: Tensor) -> Tensor:
        """(tiles, side * side, width) -> (tiles, ceil(side / 2) ** 2, width)"""
        side = math.isqrt(features.shape[1])
        grid = features.mT.reshape(len(features), -1, side, side)
        return avg_pool2d(grid, 2, ceil_mode=True, count_include_pad=False).flatten(2).mT


class Shuffle(nn.Module):
    """2x2 patches side by side in one of four times the width (pixel shuffle backwards, as InternVL and Idefics3)."""

    def forward(self, features: Tensor) -> Tensor:
        """(tiles, side * side, width) -> (tiles, (side / 2) ** 2, 4 * width)"""
        tiles, tokens, width = features.shape
        half = math.isqrt(tokens) // 2
        grid = features.reshape(tiles, half, 2, half, 2, width)
        return grid.transpose(2, 3).reshape(tiles, half * half, 4 * width)


def _side(tokens: int) -> int:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens are no square of patches: it works with feature_tokens=patch")
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
    "linear": Projector(nn.Linear),
    **{f"mlp{depth}x_gelu": Projector(_mlp(depth)) for depth in range(1, 9)},
    "identity": Projector(lambda vision, language: nn.Identity()),
    "pool2x2_mlp2x_gelu": Projector(lambda vision, language: nn.Sequential(Pool(), _mlp(2)(vision, language)), _pooled),
    "shuffle2x2_mlp2x_gelu": Projector(
        lambda vision, language: nn.Sequential(Shuffle(), _mlp(2)(4 * vision, language)), _shuffled
    ),
}


def projector_named(name: str) -> Projector:
    return lookup(name, PROJECTORS, "projector")


def slots_behind(name: str, tokens: int) -> int:
    """Slots that a projector makes of a tile's tokens. Raises RecipeError where it cannot."""
    try:
        return projector_named(name).slots(tokens)
    except ValueError as error:
        raise RecipeError(f"model.projector={name}: {error}", "choose another projector or tower") from None


def build_projector(spec: Spec, *, seed: int) -> nn.Module:
    """A fresh projector, initialised as torch does, from a chance of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return projector_named(spec.projector).build(spec.vision_width, spec.language_width)
