"""Next-token loss over supervised tokens. The head is applied to no other position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vistune.model.head import Head, LogitRule
from vistune.types import IGNORE, LossSum

CHUNK = 256  # positions whose logits are in memory at once; the fastest number on two CPU cores


def next_token_loss(hidden: Tensor, head: Head, labels: Tensor, starts: Tensor) -> LossSum:
    """Sum the cross-entropy of the supervised tokens in fp32, and count them.

    Position t predicts label t + 1 of the same document; a document's first token is never predicted.

    Args:
        hidden: (tokens, width).
        labels: (tokens,), not shifted.
        starts: (documents + 1,).
    """
    positions, targets = supervised_positions(labels, starts)
    return head_loss(hidden.index_select(0, positions), head, targets)


def supervised_positions(labels: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions (n,) that predict a supervised token, and these tokens (n,)."""
    targets = torch.full_like(labels, IGNORE)
    targets[:-1] = labels[1:]
    targets[starts[1:].long() - 1] = IGNORE
    positions = (targets != IGNORE).nonzero(as_tuple=True)[0]
    return positions, targets[positions]


def head_loss(states: Tensor, head: Head, targets: Tensor) -> LossSum:
    """Sum the cross-entropy of target tokens (n,), given the states (n, width) that predict them."""
    total: Tensor
    losses: Tensor
    total, losses = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        states, head.weight, head.bias, targets, head.rule, torch.is_grad_enabled()
    )
    return LossSum(total, len(states), losses)


def token_losses(states: Tensor, head: Head, targets: Tensor) -> Tensor:
    """Return the cross-entropy (n,) of each target token in fp32. Each may get another gradient.

    `head_loss` is faster, but computes only the gradient of the sum.
    """
    losses: Tensor = _TokenLosses.apply(states, head.weight, head.bias, targets, head.rule)  # type: ignore[no-untyped-call]
    return losses


class _TokenLosses(torch.autograd.Function):
    """Each token's loss. The backward pass computes the logits again, chunk by chunk, so none are kept."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rule: LogitRule
    ) -> Tensor:
        device = states.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        ctx.rule = rule
        ctx.save_for_backward(states, weight, bias, targets)
        inputs = states.to(ctx.dtype)
        head = Head(weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype), rule)
        losses = states.new_empty(len(states), dtype=torch.float32)
        for begin in range(0, len(states), CHUNK):
            part = slice(begin, begin + CHUNK)
            _add_chunk(inputs[part], head, targets[part, None], losses[part], None, None, None)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, losses_grad: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets = ctx.saved_tensors
        inputs = states.to(ctx.dtype)
        head = Head(weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype), ctx.rule)
        states_grad = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        bias_grad = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        losses = losses_grad.new_empty(len(states), dtype=torch.float32)
        for begin in range(0, len(states), CHUNK):
            part = slice(begin, begin + CHUNK)
            own = None if states_grad is None else states_grad[part]
            _add_chunk(inputs[part], head, targets[part, None], losses[part], own, weight_grad, bias_grad,
                       losses_grad[part, None])  # fmt: skip
        return states_grad, weight_grad, bias_grad, None, None


class _HeadLoss(torch.autograd.Function):
    """The summed loss, and each token's loss without gradient.

    A chunk's gradients are computed in the forward pass, so that its logits need not be kept. A row without supervised
    tokens still gives the head a gradient, of zeros, because every rank must exchange the same gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rule: LogitRule, with_grad: bool
    ) -> tuple[Tensor, Tensor]:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        inputs, head = states.to(dtype), Head(weight.to(dtype), bias if bias is None else bias.to(dtype), rule)
        states_grad = torch.empty_like(states) if with_grad and states.requires_grad else None
        weight_grad = torch.zeros_like(weight) if with_grad and weight.requires_grad else None
        bias_grad = torch.zeros_like(bias) if with_grad and bias is not None and bias.requires_grad else None
        losses = states.new_empty(len(states), dtype=torch.float32)
        for begin in range(0, len(states), CHUNK):
            part = slice(begin, begin + CHUNK)
            _add_chunk(inputs[part], head, targets[part, None], losses[part],
                       None if states_grad is None else states_grad[part], weight_grad, bias_grad)  # fmt: skip
        ctx.save_for_backward(states_grad, weight_grad, bias_grad)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, sum_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states_grad, weight_grad, bias_grad = ctx.saved_tensors
        # The factor stays in fp32: rounded to bf16 it would be off by the same amount for a whole step.
        scaled = None if states_grad is None else (states_grad.to(sum_grad.dtype) * sum_grad).to(states_grad.dtype)
        own = (None if grad is None else grad.mul_(sum_grad) for grad in (weight_grad, bias_grad))
        return scaled, *own, None, None, None


def _add_chunk(
    states: Tensor,
    head: Head,
    targets: Tensor,
    losses: Tensor,
    states_grad: Tensor | None,
    weight_grad: Tensor | None,
    bias_grad: Tensor | None,
    weights: Tensor | None = None,
) -> None:
    """Write a chunk's losses and its states' gradients, and add to the head's gradients.

    `weights`: (n, 1), a factor of each token's gradients.
    """
    raw, scale, cap = states @ head.weight.T, head.rule.scale, head.rule.cap
    logits = (raw if head.bias is None else raw.add_(head.bias)).float()
    squashed = None if cap is None else logits.mul_(scale / cap).tanh_()
    if cap is not None:
        logits = logits * cap
    elif scale != 1:
        logits *= scale
    log_probabilities = logits.log_softmax(dim=-1)
    losses.copy_(-log_probabilities.gather(1, targets)[:, 0])
    if states_grad is None and weight_grad is None and bias_grad is None:
        return
    probabilities = log_probabilities.exp_()
    logits_grad = probabilities.scatter_add_(1, targets, probabilities.new_full(targets.shape, -1.0))
    if squashed is not None:
        logits_grad.mul_(squashed.square_().neg_().add_(1))
    if scale != 1:
        logits_grad *= scale
    if weights is not None:
        logits_grad *= weights
    raw_grad = logits_grad.to(states.dtype)
    if states_grad is not None:
        states_grad.copy_(raw_grad @ head.weight)
    if weight_grad is not None and weight_grad.dtype == states.dtype:
        weight_grad.addmm_(raw_grad.T, states)  # adds in place, without a temporary of the head's size
    elif weight_grad is not None:
        weight_grad += raw_grad.T @ states
    if bias_grad is not None:
        bias_grad += logits_grad.sum(dim=0)
