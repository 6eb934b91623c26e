"""Adapters added into the weights they adapt while a stage learns in fp32: one product where there were three.

A layer's W x + s B (A x) is (W + s B A) x, and so is what goes back into x; of A and B themselves only their inner
products stay to be computed. Sums lie beside the frozen weights, and are made again when adapters have changed.
Not under bf16 or tf32: there an update of A or B would be lost in the digits of W.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from vistune.model.language import unwrap
from vistune.model.shapes import merging_pays


class Merged(Linear):
    """PEFT's adapted layer with its sum in `whole` (out, in); PEFT's own `disable_adapters` is not heard."""

    whole: Tensor
    made_of: tuple[int, int] = (-1, -1)  # versions of A and B

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the sum of the adapters as they are; a parameter that is written to past torch's counter is not seen."""
        a, b, scaling = adapter_of(self)
        if self.made_of != (a._version, b._version):
            torch.addmm(self.base_layer.weight, b, a, alpha=scaling, out=self.whole)
            self.made_of = (a._version, b._version)

    @property
    def numbers_merged(self) -> int:
        """Of A and B."""
        a, b, _ = adapter_of(self)
        return a.numel() + b.numel()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        a, b, scaling = adapter_of(self)
        out: Tensor = _Product.apply(x, self.whole, self.base_layer.bias, a, b, scaling)
        return out


class _Product(torch.autograd.Function):
    """x (…, in), whole (out, in), a (rank, in), b (out, rank) -> (…, out); learns x, a and b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, whole: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x, whole, a, b)
        ctx.scaling = scaling
        return linear(x, whole, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, whole, a, b = ctx.saved_tensors
        into = gradient @ whole if ctx.needs_input_grad[0] else None
        rows, back = x.flatten(0, -2), gradient.flatten(0, -2)
        for_a = (back @ (ctx.scaling * b)).T @ rows
        for_b = back.T @ (rows @ (ctx.scaling * a).T)
        return into, None, None, for_a, for_b, None


def keep_merged(language: nn.Module) -> None:
    """Let adapted layers compute by their sums from now on, where that pays and is the same.

    Before every pass of the decoder sums are made anew of the adapters that have changed.
    """
    layers: list[Any] = [module for module in language.modules() if type(module) is Linear and _is_merged(module)]
    for layer in layers:
        layer.register_buffer("whole", torch.empty_like(layer.base_layer.weight), persistent=False)
        layer.__class__ = Merged
    body = unwrap(language).get_decoder()
    if _refresh not in body._forward_pre_hooks.values():  # an earlier stage's stays
        body.register_forward_pre_hook(_refresh)


def _refresh(body: nn.Module, _: Any) -> None:
    for module in body.modules():
        if isinstance(module, Merged):
            module.refresh()


def adapter_of(layer: Any) -> tuple[Tensor, Tensor, float]:
    """A (rank, in), B (out, rank) and scaling of a layer's one adapter."""
    (name,) = layer.active_adapters
    return layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]


def _is_merged(layer: Any) -> bool:
    """Whether the sum says all, and pays: one adapter, no dropout before it, no DoRA, all in fp32."""
    (name, *others) = layer.active_adapters
    if others or not isinstance(layer.lora_dropout[name], nn.Identity) or name in layer.lora_variant:
        return False
    a, b, _ = adapter_of(layer)
    if {p.dtype for p in (layer.base_layer.weight, a, b)} != {torch.float32}:
        return False
    return merging_pays(a.shape[1], len(b), len(a))
