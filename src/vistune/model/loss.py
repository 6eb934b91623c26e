"""Next-token loss over supervised tokens only: the head never sees another position.

hidden (tokens, width) · head (vocabulary, width) · labels (tokens,), not shifted -> LossSum
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vistune.types import IGNORE, LossSum

CHUNK = 256  # positions whose logits are held at once: on two CPU cores no other number was faster


def next_token_loss(hidden: Tensor, head: Tensor, labels: Tensor, starts: Tensor) -> LossSum:
    """Sum cross-entropy, in fp32, over the tokens that are learnt, and count them.

    starts (documents + 1,). A document's first token has no context to be predicted from, so packing supervises none:
    position t predicts label t + 1 of the same document.
    """
    learnt, wanted = learnt_positions(labels, starts)
    return head_loss(hidden.index_select(0, learnt), head, wanted)


def learnt_positions(labels: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (n,) from whose states a token is learnt, and these tokens (n,)."""
    targets = torch.full_like(labels, IGNORE)
    targets[:-1] = labels[1:]
    targets[starts[1:].long() - 1] = IGNORE
    learnt = (targets != IGNORE).nonzero(as_tuple=True)[0]
    return learnt, targets[learnt]


def head_loss(rows: Tensor, head: Tensor, wanted: Tensor) -> LossSum:
    """Cross-entropy of tokens (n,) from the states before them (n, width)."""
    total: Tensor
    losses: Tensor
    total, losses = _Head.apply(rows, head, wanted, torch.is_grad_enabled())
    return LossSum(total, len(rows), losses)


class _Head(torch.autograd.Function):
    """rows (n, width) · head · wanted (n,) -> the losses' sum, and each of them without gradient.

    A chunk's gradients are made at once while its logits are there, so that no logits wait for the backward pass.
    A row that learns nothing gives the head a gradient too, of zeros: on every rank there is the same to exchange.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, head: Tensor, wanted: Tensor, learns: bool) -> tuple[Tensor, Tensor]:
        kind = rows.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
        states, weight = rows.to(dtype), head.to(dtype)
        for_rows = torch.empty_like(rows) if learns and rows.requires_grad else None
        for_head = torch.zeros_like(head) if learns and head.requires_grad else None
        losses = rows.new_empty(len(rows), dtype=torch.float32)
        for begin in range(0, len(rows), CHUNK):
            part = slice(begin, begin + CHUNK)
            _add_chunk(states[part], weight, wanted[part, None], losses[part],
                       None if for_rows is None else for_rows[part], for_head)  # fmt: skip
        ctx.save_for_backward(for_rows, for_head)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        for_rows, for_head = ctx.saved_tensors
        # Of bf16 rows the factor keeps its fp32: rounded, it would be off alike for a whole step.
        into = None if for_rows is None else (for_rows.to(of_sum.dtype) * of_sum).to(for_rows.dtype)
        return into, None if for_head is None else for_head.mul_(of_sum), None, None


def _add_chunk(
    states: Tensor, weight: Tensor, wanted: Tensor, losses: Tensor, for_rows: Tensor | None, for_head: Tensor | None
) -> None:
    """Write a chunk's losses and its rows' gradients, and add to the head's; what they were made of ends here."""
    log_shares = (states @ weight.T).float().log_softmax(dim=-1)
    losses.copy_(-log_shares.gather(1, wanted)[:, 0])
    if for_rows is None and for_head is None:
        return
    shares = log_shares.exp_()
    gradients = shares.scatter_add_(1, wanted, shares.new_full(wanted.shape, -1.0)).to(states.dtype)
    if for_rows is not None:
        for_rows.copy_(gradients @ weight)
    if for_head is not None and for_head.dtype == states.dtype:
        for_head.addmm_(gradients.T, states)  # no product of the head's size by itself
    elif for_head is not None:
        for_head += gradients.T @ states
