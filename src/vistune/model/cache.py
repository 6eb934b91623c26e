"""Keys and values of what was read: stems that many documents begin with, and tails of their own.

a row of new tokens, each document behind its stem -> Reading -> Stem, or rows of Tails -> one more token of each row
Both speak as much of transformers' cache protocol as its attention layers use, `update` and `get_seq_length`; what is
kept is what attention is handed (a layer that caches latents, as DeepSeek's, has made keys of them by then).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from vistune.model.attention import join, packed_attention, partial_attention, window_mask


class Stem:
    """What a prefix left behind: keys and values by layer, (kv heads, tokens, width). Never written to again."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self.keys = tuple(keys)
        self.values = tuple(values)
        self._shorter: WeakValueDictionary[int, Stem] = WeakValueDictionary()  # those that somebody stands on

    def __len__(self) -> int:
        return int(self.keys[0].shape[1])

    def first(self, tokens: int) -> Stem:
        """Its beginning, without a copy; the same object to all who ask, so that they are seen to share it."""
        if tokens == len(self):
            return self
        shorter = self._shorter.get(tokens)
        if shorter is None:
            shorter = Stem([k[:, :tokens] for k in self.keys], [v[:, :tokens] for v in self.values])
            self._shorter[tokens] = shorter
        return shorter

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class _LookBack:
    """The part of attention that looks back at stems: documents on one stem look at it together.

    spans: each document's tokens in the row · positions (tokens,): how many tokens stand before each, stem included.
    """

    def __init__(self, stems: Sequence[Stem | None], spans: Sequence[tuple[int, int]], positions: Tensor) -> None:
        tokens: dict[Stem, list[int]] = {}
        for stem, span in zip(stems, spans, strict=True):
            if stem is not None:
                tokens.setdefault(stem, []).extend(range(*span))
        self.groups = [(stem, torch.tensor(rows, device=positions.device)) for stem, rows in tokens.items()]
        self.positions = positions
        self._seen: dict[tuple[int, int], Tensor] = {}

    def attend(self, query: Tensor, layer: int, scaling: float, window: int | None) -> tuple[Tensor, Tensor]:
        """(1, heads, tokens, width) and sums (1, heads, tokens); a document without a stem has seen nothing."""
        whole: tuple[Tensor, Tensor] | None = None
        for number, (stem, tokens) in enumerate(self.groups):
            all_of_them = len(tokens) == query.shape[2]
            out, sums = partial_attention(
                query if all_of_them else query[:, :, tokens],
                stem.keys[layer][None],
                stem.values[layer][None],
                scaling,
                self._within(number, window),
            )
            if all_of_them:
                return out, sums
            if whole is None:
                blind = sums.new_full(query.shape[:3], -torch.inf)
                whole = out.new_zeros(*query.shape[:3], out.shape[-1]), blind
            whole[0][:, :, tokens], whole[1][:, :, tokens] = out, sums
        if whole is None:
            raise ValueError("none of the documents stands behind a stem")
        return whole

    def _within(self, number: int, window: int | None) -> Tensor | None:
        """(1, 1, tokens, keys) bool: the stem's keys that a window still reaches; None where it reaches all."""
        stem, tokens = self.groups[number]
        if window is None:
            return None
        if (number, window) not in self._seen:
            place = torch.arange(len(stem), device=tokens.device)
            self._seen[number, window] = (place > self.positions[tokens][:, None] - window)[None, None]
        return self._seen[number, window]


class Enough(Exception):
    """Raised out of a model's last layer once its keys are there, where nobody asks for the hidden states."""


class Reading:
    """A packed row of new tokens, each document behind its stem or at its own beginning.

    `layers`: where given, the model is left (`Enough`) when so many have their keys and values: a stem needs no more.
    """

    def __init__(
        self,
        stems: Sequence[Stem | None],
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        layers: int | None = None,
    ) -> None:
        self.layers = layers
        self.stems = list(stems)
        self.lengths = list(lengths)
        self.starts = [0, *accumulate(lengths)]
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        begins = [len(stem) if stem is not None else 0 for stem in stems]
        self.positions = torch.cat(
            [torch.arange(b, b + n, device=device) for b, n in zip(begins, lengths, strict=True)]
        )
        self._back = _LookBack(stems, list(pairwise(self.starts)), self.positions)
        self._layer = 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._layer = layer_idx
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        self.keys[self._layer], self.values[self._layer] = key[0], value[0]
        if len(self.keys) == self.layers:
            raise Enough
        if not self._back.groups:
            return packed_attention(query, key, value, self.starts, scaling, window)
        owns = []
        for begin, end in pairwise(self.starts):
            span = slice(begin, end)
            mask = window_mask(end - begin, window, query.device)
            seen = None if mask is None else mask[None, None]
            owns.append(
                partial_attention(
                    query[:, :, span], key[:, :, span], value[:, :, span], scaling, seen, causal=mask is None
                )
            )
        own = torch.cat([out for out, _ in owns], dim=2), torch.cat([sums for _, sums in owns], dim=2)
        return join(own, self._back.attend(query, self._layer, scaling, window))

    def stem(self, document: int) -> Stem:
        """What a document has read, stem and new tokens, as one stem."""
        span = slice(*self.starts[document : document + 2])
        before = self.stems[document]

        def whole(new: Tensor, old: Tensor | None) -> Tensor:
            return new[:, span].clone() if old is None else torch.cat([old, new[:, span]], dim=1)

        layers = sorted(self.keys)
        return Stem(
            [whole(self.keys[k], before.keys[k] if before is not None else None) for k in layers],
            [whole(self.values[k], before.values[k] if before is not None else None) for k in layers],
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.starts[-1])


class Tails:
    """What running documents have read behind their stems: a row each, padded to the longest, growing by a token.

    Rows are 0 … len - 1; one that leaves is replaced by the last. Its tensors are (rows, kv heads, room, width).
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.stems: list[Stem | None] = []
        self.lengths: list[int] = []
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, reading: Reading) -> None:
        """The documents of a reading go on here, in their order."""
        rows, tokens = len(self) + len(reading.stems), max([*self.lengths, *reading.lengths]) + 1
        for mine, theirs in ((self.keys, reading.keys), (self.values, reading.values)):
            for layer, new in theirs.items():
                mine[layer] = _fitted(mine.get(layer), new, rows, tokens)
                for row, (begin, end) in enumerate(pairwise(reading.starts), len(self)):
                    mine[layer][row, :, : end - begin] = new[:, begin:end]
        self.stems += reading.stems
        self.lengths += reading.lengths

    def drop(self, row: int) -> None:
        """A document leaves; the last one takes its row."""
        last = len(self) - 1
        if row != last:
            used = self.lengths[last]
            for tensor in (*self.keys.values(), *self.values.values()):
                tensor[row, :, :used] = tensor[last, :, :used]
            self.stems[row], self.lengths[row] = self.stems[last], self.lengths[last]
        del self.stems[last], self.lengths[last]
        if not self.lengths:
            self.keys.clear()
            self.values.clear()

    def prepare(self) -> Tensor:
        """Make ready for one more token of each row; their positions (rows,)."""
        lengths = torch.tensor(self.lengths, device=self.device)
        begins = [len(stem) if stem is not None else 0 for stem in self.stems]
        self._positions = lengths + torch.tensor(begins, device=self.device)
        self._back = _LookBack(self.stems, [(row, row + 1) for row in range(len(self))], self._positions)
        self._rows, self._at, self._most = torch.arange(len(self), device=self.device), lengths, max(self.lengths) + 1
        self._seen: dict[int | None, Tensor] = {}
        for mine in (self.keys, self.values):
            for layer, tensor in mine.items():
                mine[layer] = _fitted(tensor, tensor[0], len(self), self._most)
        return self._positions

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._layer = layer_idx
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        """Of a packed row (1, kv heads, rows, width), a token of each row."""
        rows = len(self)
        self.keys[self._layer][self._rows, :, self._at] = key[0].transpose(0, 1)
        self.values[self._layer][self._rows, :, self._at] = value[0].transpose(0, 1)
        out, sums = partial_attention(
            query.permute(2, 1, 0, 3),
            self.keys[self._layer][:rows, :, : self._most],
            self.values[self._layer][:rows, :, : self._most],
            scaling,
            self._own(window),
        )
        own = out.permute(2, 1, 0, 3), sums.permute(2, 1, 0)
        if not self._back.groups:
            return own[0]
        return join(own, self._back.attend(query, self._layer, scaling, window))

    def advance(self) -> None:
        """The step is done: each row holds its new token."""
        self.lengths = [length + 1 for length in self.lengths]

    def _own(self, window: int | None) -> Tensor:
        """(rows, 1, 1, keys) bool: what a row holds, its new token included, within the window."""
        if window not in self._seen:
            place = torch.arange(self._most, device=self.device)
            seen = place <= self._at[:, None]
            if window is not None:
                seen &= place > self._at[:, None] - window
            self._seen[window] = seen[:, None, None]
        return self._seen[window]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(self.lengths)


def _fitted(held: Tensor | None, like: Tensor, rows: int, tokens: int) -> Tensor:
    """A tensor with room for so many rows and tokens; both double, so that growing is rare."""
    if held is not None and held.shape[0] >= rows and held.shape[2] >= tokens:
        return held
    old = held.shape if held is not None else (0, 0, 0)
    most_rows = old[0] if old[0] >= rows else max(rows, 2 * old[0])
    room = old[2] if old[2] >= tokens else -(-max(tokens, 2 * old[2]) // 32) * 32
    grown = like.new_zeros(most_rows, like.shape[0], room, like.shape[2])
    if held is not None:
        grown[: old[0], :, : old[2]] = held
    return grown
