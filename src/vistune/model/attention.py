"""Attention inside documents only, registered with transformers once under the name `vistune`.

Packed: query, key, value (1, heads, tokens, width) and `starts` -> each document attends to itself, causally
Decoding: one query token a sequence against a padded cache and its mask
transformers builds no mask for an attention function it has no mask function for, and hands `starts` through.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "vistune"


def register() -> str:
    """Make transformers know our attention; calling it again changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    starts: Sequence[int] | None = None,
    decode_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(batch, tokens, heads, width). `starts`: where documents begin, and the row's end · `decode_mask` (batch, keys).

    A sliding window of w lets a token see itself and the w - 1 before it.
    """
    grouped = query.shape[1] != key.shape[1]
    if decode_mask is not None:
        mask = decode_mask
        if sliding_window is not None:
            newest = mask.sum(dim=1, keepdim=True)
            place = torch.arange(mask.shape[1], device=mask.device)
            mask = mask & (place > newest - 1 - sliding_window)
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None, :], scale=scaling, enable_gqa=grouped
        )
        return out.transpose(1, 2), None
    if starts is None:
        raise ValueError("vistune's attention needs `starts` (packed) or `decode_mask` (decoding)")
    lengths = [end - begin for begin, end in pairwise(starts)]
    outs = []
    # split, not slices: the gradient of a slice is as large as the row, that of a split is one concatenation
    for q, k, v in zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True):
        window = _window_mask(q.shape[2], sliding_window, query.device)
        outs.append(
            scaled_dot_product_attention(
                q, k, v, window, dropout, is_causal=window is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(outs, dim=2).transpose(1, 2), None


def _window_mask(tokens: int, window: int | None, device: torch.device) -> Tensor | None:
    if window is None or tokens <= window:
        return None
    place = torch.arange(tokens, device=device)
    back = place[:, None] - place[None, :]
    return (back >= 0) & (back < window)


class DocumentCache:
    """Keys and values of a batch of sequences, right-padded: filled once by a packed row, then a token at a time.

    `lengths` (sequences,) counts what each sequence holds. It speaks as much of transformers' cache protocol as its
    attention layers use: `update` and `get_seq_length`.
    """

    def __init__(self, starts: Sequence[int], room: int) -> None:
        self.starts = list(starts)
        self.lengths = torch.tensor([end - begin for begin, end in pairwise(starts)])
        self.room = int(self.lengths.max()) + room
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.filled = False

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Filling: store a packed row's (1, heads, tokens, width) and give it back. Decoding: append, give all."""
        if not self.filled:
            self.keys[layer_idx] = self._spread(key)
            self.values[layer_idx] = self._spread(value)
            return key, value
        rows = torch.arange(key.shape[0], device=key.device)
        at = self.lengths.to(key.device)
        self.keys[layer_idx][rows, :, at] = key[:, :, 0]
        self.values[layer_idx][rows, :, at] = value[:, :, 0]
        seen = int(self.lengths.max()) + 1
        return self.keys[layer_idx][:, :, :seen], self.values[layer_idx][:, :, :seen]

    def _spread(self, packed: Tensor) -> Tensor:
        _, heads, _, width = packed.shape
        padded = packed.new_zeros(len(self.lengths), heads, self.room, width)
        for row, (begin, end) in enumerate(pairwise(self.starts)):
            padded[row, :, : end - begin] = packed[0, :, begin:end]
        return padded

    def decode_mask(self, device: torch.device) -> Tensor:
        """(sequences, keys) bool for the next step: what each sequence holds, and the token that comes."""
        place = torch.arange(int(self.lengths.max()) + 1, device=device)
        return place[None, :] <= self.lengths.to(device)[:, None]

    def keep(self, rows: Tensor) -> None:
        """Go on with these sequences only."""
        self.lengths = self.lengths[rows]
        for layer in self.keys:
            self.keys[layer] = self.keys[layer][rows]
            self.values[layer] = self.values[layer][rows]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.lengths.max())
