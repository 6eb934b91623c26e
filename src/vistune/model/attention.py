"""Attention within documents, registered with transformers under the name `vistune`.

With `starts`, each document of a packed row attends causally to itself: on a GPU one kernel computes all documents,
elsewhere they are computed one after another. With `past` (cache.py), new tokens also attend to the tokens before them.
No mask function is registered under this name, so transformers builds no mask. Most models pass further arguments, such
as `starts`, on to `attend`; for the others, `attending` supplies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

NAME = "vistune"
MOST_SCORES = 2**26  # in memory at once where scores are computed explicitly
# The arguments of the running call. Some layers (StableLM, Nemotron) do not pass arguments through to attention.
_arguments: ContextVar[Mapping[str, Any] | None] = ContextVar("arguments", default=None)


class Past(Protocol):
    """The tokens that were read before: `Prefill` or `KVCache`, or a recorder of attention weights."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        """Return (1, heads, tokens, width): attention of the new tokens to the past and themselves."""


def register() -> str:
    """Register our attention with transformers, and return its name. Calling it again changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME


@contextmanager
def attending(**arguments: object) -> Iterator[None]:
    """While the block lasts, attention that receives neither `starts` nor `past` gets these arguments."""
    token = _arguments.set(arguments)
    try:
        yield
    finally:
        _arguments.reset(token)


def attending_again() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Return the contexts of torch's checkpoint: a layer that runs again attends as it did the first time."""
    return nullcontext(), attending(**(_arguments.get() or {}))


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
    starts_on_device: Tensor | None = None,
    longest: int = 0,
    past: Past | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Compute attention in the form that transformers calls; returns (1, tokens, heads, width).

    Args:
        sliding_window: A token attends to itself and to `sliding_window - 1` tokens before it.
        starts: Where documents begin, and the row's end; a tensor must be on the CPU.
        starts_on_device, longest: See `documents`.
        past: The tokens that were read before, instead of `starts`.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if starts is None and past is None:
        aside = _arguments.get() or {}
        starts, past = aside.get("starts"), aside.get("past")
        starts_on_device, longest = aside.get("starts_on_device"), aside.get("longest", 0)
    if past is not None:
        out = past.attend(query, key, value, scaling, sliding_window)
    elif starts_on_device is not None and dropout == 0.0 and (half := half_precision(query, value)) is not None:
        q, k, v = (tensor.to(half) for tensor in (query, key, value))
        out = varlen_attention(q, k, v, starts_on_device, longest, scaling, sliding_window)
    elif starts is not None:
        is_compiled = isinstance(starts, Tensor) and torch.compiler.is_compiling()
        packed = packed_attention_uncompiled if is_compiled else packed_attention
        out = packed(query, key, value, starts, scaling, sliding_window, dropout)
    else:
        raise ValueError("vistune's attention needs `starts` or `past`")
    # Some models (AFMoE) need it contiguous; the others' own reshape would copy it.
    return out.transpose(1, 2).contiguous(), None


class Documents(TypedDict, total=False):
    """`attend`'s arguments for a packed row; the last two only on a GPU."""

    starts: Tensor
    starts_on_device: Tensor
    longest: int


def documents(starts: Tensor, device: torch.device) -> Documents:
    """Return `attend`'s arguments for a packed row; on a GPU also `starts` there and the longest document's length."""
    layout: Documents = {"starts": starts}
    if device.type == "cuda":
        layout["starts_on_device"] = starts.to(device, torch.int32, non_blocking=True)
        layout["longest"] = int((starts[1:] - starts[:-1]).max())
    return layout


def half_precision(query: Tensor, value: Tensor) -> torch.dtype | None:
    """Return the 16-bit type in which the variable-length kernel computes these heads; None if it cannot."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    width = query.shape[-1]
    is_supported = dtype in (torch.bfloat16, torch.float16) and width == value.shape[-1] <= 256 and width % 8 == 0
    return dtype if is_supported else None


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    longest: int,
    scaling: float,
    window: int | None,
) -> Tensor:
    """Attend within each document, in one FlashAttention kernel; returns (1, heads, tokens, width) like the query."""
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    back = -1 if window is None or window >= longest else window - 1
    grouped = q.shape[1] != k.shape[1]
    out = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(back, 0), enable_gqa=grouped
    )
    assert isinstance(out, Tensor)
    return out.transpose(0, 1)[None]


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Sequence[int] | Tensor,
    scaling: float,
    window: int | None,
    dropout: float = 0.0,
) -> Tensor:
    """Attend within each document, one after another; returns (1, heads, tokens, width) like the query."""
    grouped = query.shape[1] != key.shape[1]
    listed = starts.tolist() if isinstance(starts, Tensor) else starts
    lengths = [end - begin for begin, end in pairwise(listed)]
    outs = []
    # split instead of slices: the gradient of each slice would be as large as the row
    for q, k, v in zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True):
        mask = window_mask(q.shape[2], window, query.device)
        outs.append(
            scaled_dot_product_attention(
                q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(outs, dim=2)


# torch.compile would recompile it for every number of documents.
packed_attention_uncompiled = torch.compiler.disable(packed_attention)


def window_mask(tokens: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return a (tokens, tokens) bool mask of a sliding window; None if the window covers all tokens."""
    if window is None or tokens <= window:
        return None
    positions = torch.arange(tokens, device=device)
    back = positions[:, None] - positions[None, :]
    return (back >= 0) & (back < window)


def partial_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend to a part of the keys; `join` combines parts by the log-sum-exp of their scores.

    Args:
        query: (batch, heads, tokens, width).
        key: (batch, kv heads, keys, width), as `value`.
        seen: (batch or 1, 1, tokens, keys) bool. A token that sees no key gets zeros.
        causal: Whether token k sees the keys 0 to k.

    Returns:
        The attention (batch, heads, tokens, width) and the log-sum-exp (batch, heads, tokens).
    """
    batch, heads, tokens, _ = query.shape
    group = heads // key.shape[1]
    if group > 1 and causal:
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    elif group > 1:  # heads that share keys become further tokens of one head, so that no key is copied
        query = query.reshape(batch, key.shape[1], group * tokens, -1)
        seen = seen.repeat(1, 1, group, 1) if seen is not None and tokens > 1 else seen
    blocked = None if seen is None else torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, -torch.inf)
    if query.device.type == "cpu" and key.shape[-1] == value.shape[-1]:
        # The function behind scaled_dot_product_attention, which does not return the sums.
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=blocked, scale=scaling
        )
    else:
        out, sums = _explicit_attention(query, key, value, scaling, blocked, causal)
    if seen is not None:
        unseen = ~seen.any(dim=-1).expand(sums.shape)
        out, sums = out.masked_fill(unseen[..., None], 0.0), sums.masked_fill(unseen, -torch.inf)
    return out.reshape(batch, heads, tokens, -1), sums.reshape(batch, heads, tokens)


def _explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, blocked: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Compute `partial_attention` by plain products, for any device; in parts, so that memory stays bounded."""
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
    """Combine the attention to two parts of the keys, from the results of `partial_attention`."""
    (out, sums), (other, other_sums) = parts, others
    share = (other_sums - sums).sigmoid()[..., None]
    return torch.lerp(out, other, share.to(out.dtype))
