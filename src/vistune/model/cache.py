"""Keep the keys and values of prefixes that several prompts share, and of each running sequence after its prefix.

`Prefill` reads a packed row of new tokens, each document after its prefix. `KVCache` then adds one token per sequence
and step. Both implement the parts of transformers' cache interface that its attention layers use, `update` and
`get_seq_length`. They keep the keys and values that attention receives. In models that compress keys and values
(DeepSeek's latents), these are the keys and values after decompression.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from vistune.model.attention import join, packed_attention, partial_attention, window_mask


class Cache(Protocol):
    """The cache of running sequences: `KVCache`, or `SeparateCaches` of a model that runs unpacked."""

    def __len__(self) -> int: ...

    def add(self, prefill: Any) -> None:
        """Add the documents of a prefill of the same kind as sequences, in their order."""

    def drop(self, row: int) -> None:
        """Remove a sequence; the last one takes its row."""


class Prefix:
    """Keys and values of a prefix by layer, (kv heads, tokens, width). They never change."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self.keys = tuple(keys)
        self.values = tuple(values)
        self._shorter: WeakValueDictionary[int, Prefix] = WeakValueDictionary()

    def __len__(self) -> int:
        return int(self.keys[0].shape[1])

    def first(self, tokens: int) -> Prefix:
        """Return the first tokens without a copy: the same object for the same number, so that sharing is seen."""
        if tokens == len(self):
            return self
        shorter = self._shorter.get(tokens)
        if shorter is None:
            shorter = Prefix([k[:, :tokens] for k in self.keys], [v[:, :tokens] for v in self.values])
            self._shorter[tokens] = shorter
        return shorter

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class _PrefixAttention:
    """Attention of new tokens to their prefixes. Documents with the same prefix are computed together.

    `spans`: each document's tokens in the row. `positions`: (tokens,) with the prefix included.
    """

    def __init__(self, prefixes: Sequence[Prefix | None], spans: Sequence[tuple[int, int]], positions: Tensor) -> None:
        tokens: dict[Prefix, list[int]] = {}
        for prefix, span in zip(prefixes, spans, strict=True):
            if prefix is not None:
                tokens.setdefault(prefix, []).extend(range(*span))
        self.groups = [(prefix, torch.tensor(rows, device=positions.device)) for prefix, rows in tokens.items()]
        self.positions = positions
        self._masks: dict[tuple[int, int], Tensor] = {}

    def attend(self, query: Tensor, layer: int, scaling: float, window: int | None) -> tuple[Tensor, Tensor]:
        """Return (1, heads, tokens, width) and sums (1, heads, tokens); -inf sums for documents without a prefix."""
        whole: tuple[Tensor, Tensor] | None = None
        for number, (prefix, tokens) in enumerate(self.groups):
            is_all = len(tokens) == query.shape[2]
            out, sums = partial_attention(
                query if is_all else query[:, :, tokens],
                prefix.keys[layer][None],
                prefix.values[layer][None],
                scaling,
                self._within(number, window),
            )
            if is_all:
                return out, sums
            if whole is None:
                unseen = sums.new_full(query.shape[:3], -torch.inf)
                whole = out.new_zeros(*query.shape[:3], out.shape[-1]), unseen
            whole[0][:, :, tokens], whole[1][:, :, tokens] = out, sums
        if whole is None:
            raise ValueError("no document has a prefix")
        return whole

    def _within(self, number: int, window: int | None) -> Tensor | None:
        """Return (1, 1, tokens, keys) bool: the prefix's keys within the sliding window; None without a window."""
        prefix, tokens = self.groups[number]
        if window is None:
            return None
        if (number, window) not in self._masks:
            key_positions = torch.arange(len(prefix), device=tokens.device)
            self._masks[number, window] = (key_positions > self.positions[tokens][:, None] - window)[None, None]
        return self._masks[number, window]


class PrefillDone(Exception):
    """Leaves the model's last layer when its keys are there and nobody needs the hidden states."""


class Prefill:
    """A packed row of new tokens, each document after its prefix or at its beginning.

    `lengths`: each document's number of new tokens. With `layers`, raises PrefillDone once this many layers have their
    keys and values.
    """

    def __init__(
        self,
        prefixes: Sequence[Prefix | None],
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        layers: int | None = None,
    ) -> None:
        self.layers = layers
        self.prefixes = list(prefixes)
        self.lengths = list(lengths)
        self.starts = [0, *accumulate(lengths)]
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        begins = _lengths(prefixes)
        self.positions = torch.cat(
            [torch.arange(b, b + n, device=device) for b, n in zip(begins, lengths, strict=True)]
        )
        ends = torch.tensor([b + n for b, n in zip(begins, lengths, strict=True)])
        self.document_lengths = ends.repeat_interleave(torch.tensor(lengths))  # of each new token's document so far
        self._prefix_attention = _PrefixAttention(prefixes, list(pairwise(self.starts)), self.positions)
        self._layer = 0

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self._layer = layer_idx
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        """Attend within each document and to its prefix, and keep keys and values."""
        self.keys[self._layer], self.values[self._layer] = key[0], value[0]
        if len(self.keys) == self.layers:
            raise PrefillDone
        if not self._prefix_attention.groups:
            return packed_attention(query, key, value, self.starts, scaling, window)
        parts = []
        for begin, end in pairwise(self.starts):
            span = slice(begin, end)
            mask = window_mask(end - begin, window, query.device)
            seen = None if mask is None else mask[None, None]
            parts.append(
                partial_attention(
                    query[:, :, span], key[:, :, span], value[:, :, span], scaling, seen, causal=mask is None
                )
            )
        new = torch.cat([out for out, _ in parts], dim=2), torch.cat([sums for _, sums in parts], dim=2)
        return join(new, self._prefix_attention.attend(query, self._layer, scaling, window))

    def prefix(self, document: int) -> Prefix:
        """Return everything that a document has read, its prefix and the new tokens, as one prefix."""
        span = slice(*self.starts[document : document + 2])
        before = self.prefixes[document]

        def whole(new: Tensor, old: Tensor | None) -> Tensor:
            return new[:, span].clone() if old is None else torch.cat([old, new[:, span]], dim=1)

        layers = sorted(self.keys)
        return Prefix(
            [whole(self.keys[k], before.keys[k] if before is not None else None) for k in layers],
            [whole(self.values[k], before.values[k] if before is not None else None) for k in layers],
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.starts[-1])


class KVCache:
    """Keys and values of running sequences after their prefixes: one row each, padded to the longest.

    Rows are 0 to len - 1. The last sequence takes the row of one that leaves. Tensors are (rows, kv heads, room,
    width).
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.prefixes: list[Prefix | None] = []
        self.lengths: list[int] = []
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, prefill: Prefill) -> None:
        """Add the documents of a prefill as sequences, in their order."""
        rows, tokens = len(self) + len(prefill.prefixes), max([*self.lengths, *prefill.lengths]) + 1
        for ours, theirs in ((self.keys, prefill.keys), (self.values, prefill.values)):
            for layer, new in theirs.items():
                ours[layer] = _with_room(ours.get(layer), new, rows, tokens)
                for row, (begin, end) in enumerate(pairwise(prefill.starts), len(self)):
                    ours[layer][row, :, : end - begin] = new[:, begin:end]
        self.prefixes += prefill.prefixes
        self.lengths += prefill.lengths

    def drop(self, row: int) -> None:
        """Remove a sequence; the last one takes its row."""
        last = len(self) - 1
        if row != last:
            used = self.lengths[last]
            for tensor in (*self.keys.values(), *self.values.values()):
                tensor[row, :, :used] = tensor[last, :, :used]
            self.prefixes[row], self.lengths[row] = self.prefixes[last], self.lengths[last]
        del self.prefixes[last], self.lengths[last]
        if not self.lengths:
            self.keys.clear()
            self.values.clear()

    def prepare(self) -> Tensor:
        """Make room for one more token per sequence; return their positions (rows,)."""
        lengths = torch.tensor(self.lengths, device=self.device)
        self._positions = lengths + torch.tensor(_lengths(self.prefixes), device=self.device)
        spans = [(row, row + 1) for row in range(len(self))]
        self._prefix_attention = _PrefixAttention(self.prefixes, spans, self._positions)
        self._rows, self._index = torch.arange(len(self), device=self.device), lengths
        self._longest = max(self.lengths) + 1
        self._masks: dict[int | None, Tensor] = {}
        for by_layer in (self.keys, self.values):
            for layer, tensor in by_layer.items():
                by_layer[layer] = _with_room(tensor, tensor[0], len(self), self._longest)
        return self._positions

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self._layer = layer_idx
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        """Attend from one new token per sequence, given as a packed row (1, heads, rows, width)."""
        rows = len(self)
        self.keys[self._layer][self._rows, :, self._index] = key[0].transpose(0, 1)
        self.values[self._layer][self._rows, :, self._index] = value[0].transpose(0, 1)
        out, sums = partial_attention(
            query.permute(2, 1, 0, 3),
            self.keys[self._layer][:rows, :, : self._longest],
            self.values[self._layer][:rows, :, : self._longest],
            scaling,
            self._mask(window),
        )
        own = out.permute(2, 1, 0, 3), sums.permute(2, 1, 0)
        if not self._prefix_attention.groups:
            return own[0]
        return join(own, self._prefix_attention.attend(query, self._layer, scaling, window))

    @property
    def document_lengths(self) -> Tensor:
        """Length of each row's sequence with its new token."""
        prefixes = _lengths(self.prefixes)
        return torch.tensor([a + b + 1 for a, b in zip(self.lengths, prefixes, strict=True)])

    def advance(self) -> None:
        """End the step: every sequence is one token longer."""
        self.lengths = [length + 1 for length in self.lengths]

    def _mask(self, window: int | None) -> Tensor:
        """Return (rows, 1, 1, keys) bool: a row's tokens, its new one included, within the sliding window."""
        if window not in self._masks:
            index = torch.arange(self._longest, device=self.device)
            seen = index <= self._index[:, None]
            if window is not None:
                seen &= index > self._index[:, None] - window
            self._masks[window] = seen[:, None, None]
        return self._masks[window]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(self.lengths)


def _lengths(prefixes: Sequence[Prefix | None]) -> list[int]:
    return [0 if prefix is None else len(prefix) for prefix in prefixes]


def _with_room(tensor: Tensor | None, like: Tensor, rows: int, tokens: int) -> Tensor:
    """Return the tensor with room for `rows` and `tokens`. Room at least doubles, so that growing is rare."""
    if tensor is not None and tensor.shape[0] >= rows and tensor.shape[2] >= tokens:
        return tensor
    old = tensor.shape if tensor is not None else (0, 0, 0)
    most_rows = old[0] if old[0] >= rows else max(rows, 2 * old[0])
    room = old[2] if old[2] >= tokens else -(-max(tokens, 2 * old[2]) // 32) * 32
    grown = like.new_zeros(most_rows, like.shape[0], room, like.shape[2])
    if tensor is not None:
        grown[: old[0], :, : old[2]] = tensor
    return grown


class SeparatePrefill:
    """New documents of a model that our packed attention cannot run; stands for `Prefill`.

    `caches`: transformers' own cache of each document, once it is read from its beginning.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self.starts = [0, *accumulate(lengths)]
        self.caches: list[object] = []


class SeparateCaches:
    """transformers' own cache of each running sequence, and its number of tokens; stands for `KVCache`.

    Sequences are computed one after another, so that none depends on another. They share no prefix, because a
    state-space layer has no keys that could be shared. The last sequence takes the row of one that leaves.
    """

    def __init__(self) -> None:
        self.caches: list[object] = []
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.caches)

    def add(self, prefill: SeparatePrefill) -> None:
        """Add the documents of a prefill as sequences, in their order."""
        self.caches += prefill.caches
        self.lengths += prefill.lengths

    def drop(self, row: int) -> None:
        """Remove a sequence; the last one takes its row."""
        self.caches[row], self.lengths[row] = self.caches[-1], self.lengths[-1]
        del self.caches[-1], self.lengths[-1]
