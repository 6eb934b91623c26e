"""The running batch: sequences join and leave between steps, and each is answered as if it were alone.

Prompts that begin alike, down to the pixels, share a prefix. A prefix is read once and kept in a cache; the rest of a
prompt is read when its sequence joins; then every step adds one token to each sequence.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from vistune.generation.sampling import sample_tokens
from vistune.generation.sequence import Codes, Prompt, RunningSequence, hash_prompt
from vistune.model import Prefix, VisionLanguageModel
from vistune.processor.tiles import NEWLINE
from vistune.types import Example

LEAST_SHARED = 16  # tokens that a prefix must save to be read on its own
LONGEST_REST = 256  # tokens after the prefix; a longer prompt becomes a prefix, because rests are padded in the batch
TILES_AT_ONCE = 8
HEAD_ROWS = 2000  # rows of the head that are multiplied at once on a CPU

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def common_length(one: Codes, other: Codes) -> int:
    """Return the length of the common beginning of two prompts, in tokens."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


class LRUCache(Generic[K, V]):
    """Values by key; the least recently used are dropped when the total size exceeds `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: K, value: V, size: int) -> None:
        self.drop(key)
        self._entries[key] = value, size
        self.bytes += size
        while self.bytes > self.most_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        _, size = self._entries.pop(key, (None, 0))
        self.bytes -= size

    def __iter__(self) -> Iterator[K]:
        """Iterate over a copy of the keys, so that entries may be dropped meanwhile."""
        return iter(list(self._entries))


class PrefixCache:
    """Prefixes that were read, by their codes."""

    def __init__(self, most_bytes: int) -> None:
        self._entries: LRUCache[bytes, Prefix] = LRUCache(most_bytes)

    @property
    def bytes(self) -> int:
        return self._entries.bytes

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, codes: Codes) -> Prefix | None:
        """Return the longest cached beginning of these codes, or None."""
        length, best = 0, b""
        for key in self._entries:
            shared = common_length(codes, np.frombuffer(key, dtype=np.int64))
            if shared > length:
                length, best = shared, key
        prefix = self._entries.get(best) if length else None
        return prefix.first(length) if prefix is not None else None

    def put(self, codes: Codes, prefix: Prefix) -> None:
        """Keep a prefix, and drop the prefixes that are its beginning."""
        whole = codes.tobytes()
        for key in self._entries:
            if whole.startswith(key):
                self._entries.drop(key)
        self._entries.put(whole, prefix, prefix.bytes)


class RunningBatch:
    """The running sequences and their keys and values; sequence k has row k of the KV cache.

    The model's weights must not change. `cache_bytes`: size of the prefix cache. `prefixes_at_once`: how many prefixes
    may be read while running sequences wait for their next token. `vocabulary`: the number of the tokenizer's tokens,
    over which log probabilities are normalized; None takes all rows of the head.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        cache_bytes: int,
        *,
        prefixes_at_once: int = 1,
        vocabulary: int | None = None,
    ) -> None:
        self.model = model
        self.prefixes_at_once = prefixes_at_once
        self.vocabulary = vocabulary
        self.prefixes = PrefixCache(cache_bytes)
        self.images: LRUCache[bytes, Tensor] = LRUCache(cache_bytes // 8)  # projected features by tile hash
        self.sequences: list[RunningSequence] = []
        self._cache = model.new_cache()

    @torch.inference_mode()
    def admit(self, waiting: Sequence[RunningSequence], most: int) -> list[RunningSequence]:
        """Let the first waiting sequences join, and generate their first tokens.

        Joining stops before more than `prefixes_at_once` new prefixes would have to be read. If this raises, nothing
        has changed.

        Returns:
            The sequences that joined, the first of `waiting`.
        """
        joining: list[RunningSequence] = []
        prefixes: list[Prefix | None] = []
        read = 0
        for sequence in waiting[:most]:
            prefix, end = self._plan(sequence.prompt, waiting)
            sequence.reused = len(prefix) if prefix is not None else 0
            if end > sequence.reused:
                if read == self.prefixes_at_once:
                    break
                read += 1
                prefix = self._read_prefix(sequence.prompt, prefix, end)
            joining.append(sequence)
            prefixes.append(prefix)
        if joining:
            begins = [len(prefix) if prefix is not None else 0 for prefix in prefixes]
            rests = [self._embed(s.prompt, slice(b, len(s.prompt))) for s, b in zip(joining, begins, strict=True)]
            self._join(joining, prefixes, rests)
        return joining

    def _join(
        self, joining: Sequence[RunningSequence], prefixes: Sequence[Prefix | None], rests: Sequence[Tensor]
    ) -> None:
        """Read what follows the prefixes, let the sequences join, and generate a token for each."""
        prefill = self.model.new_prefill(prefixes, [len(rest) for rest in rests])
        hidden = self.model.read(torch.cat(list(rests)), prefill)
        last = torch.tensor(prefill.starts[1:], device=hidden.device) - 1
        tokens = self._next_tokens(hidden[last], joining)
        self._cache.add(prefill)
        self.sequences += joining
        for sequence, token in zip(joining, tokens, strict=True):
            sequence.append(token)

    @torch.inference_mode()
    def step(self) -> None:
        """Generate one token for every sequence.

        A sequence that has just become longer than the limit of the model's RoPE is read again: from there on all its
        tokens are rotated differently.
        """
        crossing = [sequence for sequence in self.sequences if len(sequence) - 1 == self.model.rope_limit]
        for sequence in crossing:
            self.leave(sequence)
        if self.sequences:
            self._decode()
        for sequence in crossing:
            answer = torch.tensor(sequence.tokens, device=self.model.head.device)
            prompt = self._embed(sequence.prompt, slice(0, len(sequence.prompt)))
            whole = torch.cat([prompt, self.model.embed_text(answer)])
            self._join([sequence], [None], [whole])

    def _decode(self) -> None:
        last = torch.tensor([sequence.tokens[-1] for sequence in self.sequences], device=self.model.head.device)
        tokens = self._next_tokens(self.model.decode(last, self._cache), self.sequences)
        for sequence, token in zip(self.sequences, tokens, strict=True):
            sequence.append(token)

    @torch.inference_mode()
    def leave(self, sequence: RunningSequence) -> None:
        """Remove a sequence; the last one takes its row."""
        row = self.sequences.index(sequence)
        self._cache.drop(row)
        self.sequences[row] = self.sequences[-1]
        del self.sequences[-1]

    def clear(self) -> None:
        """Remove all sequences; cached prefixes stay."""
        self.sequences = []
        self._cache = self.model.new_cache()

    def _next_tokens(self, hidden: Tensor, sequences: Sequence[RunningSequence]) -> list[int]:
        head = self.model.head
        # On a CPU, parts of the head that fit its cache take two thirds of the time of the whole (16 rows, AVX2).
        parts = head.weight.split(HEAD_ROWS if head.device.type == "cpu" else len(head.weight))
        logits = head.from_raw(torch.cat([hidden @ rows.T for rows in parts], dim=-1))
        logits = without_nan(logits, sequences)
        tokens = sample_tokens(logits, [sequence.sampling_state for sequence in sequences])
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if sequence.top_logprobs is not None:
                # Rows beyond the tokenizer's vocabulary pad the head; they are not tokens.
                sequence.record(logits[row, : max(self.vocabulary or logits.shape[1], token + 1)], token)
        return tokens

    def _plan(self, prompt: Prompt, waiting: Sequence[RunningSequence]) -> tuple[Prefix | None, int]:
        """Return the longest cached prefix, and the end of the prefix that should be read first (0: none).

        That prefix contains the images and everything shared with another waiting prompt. It never contains the last
        token, whose hidden state gives the first token of the answer. A model that shares no rows, or rotates long
        prompts differently, reads the prompt whole.
        """
        if not self.model.packed or len(prompt) > (self.model.rope_limit or len(prompt)):
            return None, 0
        most = len(prompt) - 1
        prefix = self.prefixes.longest(prompt.codes[:most])
        cached = len(prefix) if prefix is not None else 0
        others = (sequence.prompt for sequence in waiting if sequence.prompt is not prompt)
        shared = max((common_length(prompt.codes[:most], other.codes) for other in others), default=0)
        end = min(max(prompt.images_end, shared), most)
        if len(prompt) - max(end, cached) > LONGEST_REST:
            end = most
        return prefix, end if end - cached >= LEAST_SHARED else 0

    def _read_prefix(self, prompt: Prompt, prefix: Prefix | None, end: int) -> Prefix:
        begin = len(prefix) if prefix is not None else 0
        longer = self.model.read_prefix(self._embed(prompt, slice(begin, end)), prefix)
        self.prefixes.put(prompt.codes[:end], longer)
        return longer

    def _embed(self, prompt: Prompt, span: slice) -> Tensor:
        """Return the input embeddings (tokens, width) of a part of a prompt."""
        ids = prompt.example.input_ids[span].to(self.model.head.device)
        return self.model.embed(ids, self._slot_features(prompt, span))

    def _slot_features(self, prompt: Prompt, span: slice) -> Tensor:
        """Return the features (slots, width) of the image slots in a part of a prompt; each tile is encoded once."""
        before = int((prompt.codes[: span.start] < 0).sum())
        count = int((prompt.codes[span] < 0).sum())
        width, device = self.model.spec.language_width, self.model.head.device
        if not count:
            return torch.zeros(0, width, device=device, dtype=self.model.head.dtype)
        slots = prompt.slots[before : before + count]
        numbers = sorted(set(slots[:, 0].tolist()) - {NEWLINE})
        tiles = self._tile_features(prompt, numbers)
        table = torch.stack(tiles) if tiles else torch.zeros(1, 1, width, device=device)  # no tile: only newlines
        index = {number: k for k, number in enumerate(numbers)} | {NEWLINE: NEWLINE}
        renumbered = torch.tensor([index[number] for number in slots[:, 0].tolist()])
        return self.model.place(table, torch.stack([renumbered, slots[:, 1]], dim=1).to(device))

    def _tile_features(self, prompt: Prompt, numbers: Sequence[int]) -> list[Tensor]:
        cached = {k: self.images.get(prompt.tiles[k]) for k in numbers}
        features = {k: tile for k, tile in cached.items() if tile is not None}
        missing = [k for k in numbers if k not in features]
        for begin in range(0, len(missing), TILES_AT_ONCE):
            part = missing[begin : begin + TILES_AT_ONCE]
            encoded = self.model.encode(*prompt.example.tiles(part, self.model.head.device))
            for k, tile in zip(part, encoded, strict=True):
                features[k] = tile.clone()  # a view would keep the whole batch of tiles alive
                self.images.put(prompt.tiles[k], features[k], tile.nbytes)
        return [features[k] for k in numbers]


def greedy_tokens(model: VisionLanguageModel, example: Example, count: int) -> list[int]:
    """Generate `count` tokens greedily, without stopping at an end token."""
    return greedy_batch(model, [example], count)[0]


def greedy_batch(model: VisionLanguageModel, examples: Sequence[Example], count: int) -> list[list[int]]:
    """Generate `count` tokens after each example in one batch, greedily and without stopping at an end token."""
    batch = RunningBatch(model, cache_bytes=0)
    waiting = [RunningSequence(hash_prompt(example)) for example in examples]
    joined = 0
    while joined < len(waiting):
        joined += len(batch.admit(waiting[joined:], len(waiting)))
    while any(len(sequence.tokens) < count for sequence in waiting):
        batch.step()
    return [sequence.tokens[:count] for sequence in waiting]


def without_nan(logits: Tensor, sequences: Sequence[RunningSequence]) -> Tensor:
    """Return the logits (rows, vocabulary) with rows of NaN as zeros, and set the error of their sequences.

    Without this, sampling raises for all rows, and greedy decoding chooses a token that means nothing.
    """
    is_nan = logits.isnan().any(dim=-1)
    if not is_nan.any():
        return logits
    for row in is_nan.nonzero().flatten().tolist():
        sequences[row].error = "the model's logits are not numbers (NaN)"
    return logits.masked_fill(is_nan[:, None], 0.0)
