"""Next-token loss over supervised tokens only: the head never sees another position.

hidden (tokens, width) · head (vocabulary, width) · labels (tokens,), not shifted -> LossSum
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vistune.types import IGNORE, LossSum

CHUNK = 1024  # positions whose logits are held at once


def next_token_loss(hidden: Tensor, head: Tensor, labels: Tensor, starts: Tensor) -> LossSum:
    """Sum cross-entropy, in fp32, over the tokens that are learnt, and count them.

    starts (documents + 1,). A document's first token has no context to be predicted from, so packing supervises none:
    position t predicts label t + 1 of the same document.
    """
    targets = torch.full_like(labels, IGNORE)
    targets[:-1] = labels[1:]
    targets[starts[1:].long() - 1] = IGNORE
    learnt = (targets != IGNORE).nonzero(as_tuple=True)[0]
    count = int(learnt.numel())
    rows, wanted = hidden.index_select(0, learnt), targets[learnt]
    total = hidden.new_zeros((), dtype=torch.float32)
    tokens = []
    # A row that learns nothing runs once over no position: the head keeps a gradient, of zeros, on every rank.
    for begin in range(0, max(count, 1), CHUNK):
        logits = rows[begin : begin + CHUNK] @ head.T.to(rows.dtype)
        losses = cross_entropy(logits.float(), wanted[begin : begin + CHUNK], reduction="none")
        total = total + losses.sum()
        tokens.append(losses.detach())
    return LossSum(total, count, torch.cat(tokens))
