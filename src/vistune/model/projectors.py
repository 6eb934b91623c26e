"""From the tower's width to the language model's: LLaVA's projectors (arXiv 2304.08485, 4.1; 2310.03744, 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from vistune.registry import lookup
from vistune.types import Spec


def _linear(vision: int, language: int) -> nn.Module:
    return nn.Linear(vision, language)


def _identity(vision: int, language: int) -> nn.Module:
    return nn.Identity()


def _mlp(depth: int) -> Callable[[int, int], nn.Module]:
    """`mlp{depth}x_gelu`: linear layers with exact GELU between; layers sit at indices 0, 2, 4, as in LLaVA."""

    def build(vision: int, language: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(vision, language)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(language, language)]
        return nn.Sequential(*layers)

    return build


PROJECTORS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "linear": _linear,
    "mlp2x_gelu": _mlp(2),
    "mlp3x_gelu": _mlp(3),
    "mlp4x_gelu": _mlp(4),
    "identity": _identity,
}


def build_projector(spec: Spec, *, seed: int) -> nn.Module:
    """A fresh projector, initialised as torch does, from a chance of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return lookup(spec.projector, PROJECTORS, "projector")(spec.vision_width, spec.language_width)
