"""Attention inside documents only, registered with transformers once under the name `vistune`.

Packed: query, key, value (1, heads, tokens, width) and `starts` -> each document attends to itself, causally: on a GPU
by one kernel over all documents, elsewhere by one after another
With a `past` (cache.py): new tokens of documents look back over what was read before
transformers builds no mask for an attention function it has no mask function for, and hands the rest through.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

NAME = "vistune"
MOST_SCORES = 2**26  # held at once where scores are written out


class Past(Protocol):
    """What was read before, as `attend` asks it."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        """(1, heads, tokens, width), of a row's new tokens over the past and themselves."""


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
    starts: Sequence[int] | Tensor | None = None,
    starts_there: Tensor | None = None,
    longest: int = 0,
    past: Past | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(1, tokens, heads, width). `starts`: where documents begin, and the row's end; as a tensor, on the CPU.

    A sliding window of w lets a token see itself and the w - 1 before it. `starts_there`, `longest`: see `documents`.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if past is not None:
        out = past.attend(query, key, value, scaling, sliding_window)
    elif starts_there is not None and dropout == 0.0 and (half := half_precision(query, value)) is not None:
        out = varlen_attention(query, key, value, starts_there, longest, scaling, sliding_window, half)
    elif isinstance(starts, Tensor) and torch.compiler.is_compiling():
        out = between_graphs(query, key, value, starts, scaling, sliding_window, dropout)
    elif starts is not None:
        listed = starts.tolist() if isinstance(starts, Tensor) else starts
        out = packed_attention(query, key, value, listed, scaling, sliding_window, dropout)
    else:
        raise ValueError("vistune's attention needs `starts` (packed) or `past` (reading on)")
    return out.transpose(1, 2), None


def documents(starts: Tensor, device: torch.device) -> dict[str, Any]:
    """What `attend` is to know of a row's documents; on a GPU also `starts` there, and the tokens of the longest."""
    known: dict[str, Any] = {"starts": starts}
    if device.type == "cuda":
        known["starts_there"] = starts.to(device, torch.int32, non_blocking=True)
        known["longest"] = int((starts[1:] - starts[:-1]).max())
    return known


def half_precision(query: Tensor, value: Tensor) -> torch.dtype | None:
    """The 16-bit type in which these heads are multiplied, if the kernel over all documents serves them at all."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    width = query.shape[-1]
    served = dtype in (torch.bfloat16, torch.float16) and width == value.shape[-1] <= 256 and width % 8 == 0
    return dtype if served else None


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    longest: int,
    scaling: float,
    window: int | None,
    dtype: torch.dtype,
) -> Tensor:
    """Each document over itself alone, all in one FlashAttention kernel: (1, heads, tokens, width), as the query."""
    q, k, v = (t[0].transpose(0, 1).to(dtype) for t in (query, key, value))
    back = -1 if window is None or window >= longest else window - 1
    grouped = q.shape[1] != k.shape[1]
    seen = (back, 0)
    out: Any = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=scaling, window_size=seen, enable_gqa=grouped
    )  # fmt: skip
    whole: Tensor = out.transpose(0, 1)[None]
    return whole


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Sequence[int],
    scaling: float,
    window: int | None,
    dropout: float = 0.0,
) -> Tensor:
    """Each document over itself alone: (1, heads, tokens, width), as the query."""
    grouped = query.shape[1] != key.shape[1]
    lengths = [end - begin for begin, end in pairwise(starts)]
    outs = []
    # split, not slices: the gradient of a slice is as large as the row, that of a split is one concatenation
    for q, k, v in zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True):
        mask = window_mask(q.shape[2], window, query.device)
        outs.append(
            scaled_dot_product_attention(
                q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(outs, dim=2)


@torch.compiler.disable
def between_graphs(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scaling: float, window: int | None, dropout: float
) -> Tensor:
    """`packed_attention` in a compiled layer: how many documents there are, the compiler does not see."""
    return packed_attention(query, key, value, starts.tolist(), scaling, window, dropout)


def window_mask(tokens: int, window: int | None, device: torch.device) -> Tensor | None:
    """(tokens, tokens) bool of who sees whom; None where the window reaches over all of them."""
    if window is None or tokens <= window:
        return None
    place = torch.arange(tokens, device=device)
    back = place[:, None] - place[None, :]
    return (back >= 0) & (back < window)


def partial_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention over a part of the keys, and the logarithm of its weights' sum, by which `join` puts parts together.

    query (batch, heads, tokens, width) · key, value (batch, kv heads, keys, width) · seen (batch or 1, 1, tokens, keys)
    bool; a token that sees none of the keys gets zeros -> (batch, heads, tokens, width), (batch, heads, tokens)
    """
    batch, heads, tokens, _ = query.shape
    shared_by = heads // key.shape[1]
    if shared_by > 1 and causal:
        key, value = key.repeat_interleave(shared_by, dim=1), value.repeat_interleave(shared_by, dim=1)
    elif shared_by > 1:  # the heads that share keys look as so many tokens of one head: no key is copied
        query = query.reshape(batch, key.shape[1], shared_by * tokens, -1)
        seen = seen.repeat(1, 1, shared_by, 1) if seen is not None and tokens > 1 else seen
    blocked = None if seen is None else torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, -torch.inf)
    if query.device.type == "cpu" and key.shape[-1] == value.shape[-1]:
        # What scaled_dot_product_attention runs here, which keeps the sums to itself.
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=blocked, scale=scaling
        )
    else:
        out, sums = _written_out(query, key, value, scaling, blocked, causal)
    if seen is not None:
        blind = ~seen.any(dim=-1).expand(sums.shape)
        out, sums = out.masked_fill(blind[..., None], 0.0), sums.masked_fill(blind, -torch.inf)
    return out.reshape(batch, heads, tokens, -1), sums.reshape(batch, heads, tokens)


def _written_out(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, blocked: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """The same in plain products, for any device, over stretches of tokens so that memory stays bounded."""
    batch, heads, tokens, _ = query.shape
    keys = key.shape[2]
    outs, sums = [], []
    for rows in torch.arange(tokens, device=query.device).split(max(1, MOST_SCORES // (batch * heads * keys))):
        scores = (query[:, :, rows] @ key.transpose(-1, -2)).float() * scaling
        if causal:
            scores.masked_fill_(torch.arange(keys, device=query.device) > rows[:, None], -torch.inf)
        if blocked is not None:
            scores += blocked if blocked.shape[2] == 1 else blocked[:, :, rows]
        sums.append(scores.logsumexp(dim=-1))
        outs.append(scores.softmax(dim=-1).to(value.dtype) @ value)
    return torch.cat(outs, dim=2), torch.cat(sums, dim=2)


def join(parts: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two parts' keys together, from what `partial_attention` gave for each."""
    (out, sums), (other, other_sums) = parts, others
    share = (other_sums - sums).sigmoid()[..., None]
    return torch.lerp(out, other, share.to(out.dtype))
