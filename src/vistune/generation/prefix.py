"""What prompts have in common: how far two begin alike, down to the pixels, and what was read of them before.

Example -> Prompt (a code a token) -> the longest stem in `Stems` that it begins with
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from vistune.model import Stem
from vistune.processor.tiles import NEWLINE
from vistune.types import IMAGE_ID, Example

Codes = npt.NDArray[np.int64]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """An example to be answered, with what tells it from others.

    codes (tokens,): a text token's id; a slot's is negative, of its tile's hash and its patch: prompts whose codes
    begin alike begin alike · tiles: a hash of each tile's pixels · slots (slots, 2): tile and patch, in order
    """

    example: Example
    codes: Codes
    tiles: tuple[bytes, ...]
    slots: torch.Tensor

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def images_end(self) -> int:
        """Where the text behind its last picture begins; 0 without pictures."""
        places = np.flatnonzero(self.codes < 0)
        return int(places[-1]) + 1 if len(places) else 0


def prompt_of(example: Example) -> Prompt:
    """Hash the pixels; equal pictures are found whatever file or bytes they came from."""
    tiles = tuple(hashlib.sha256(tile.contiguous().numpy()).digest() for tile in example.images)
    codes: Codes = example.input_ids.numpy().copy()
    at = codes == IMAGE_ID
    count = int(at.sum())
    slots = example.slots
    if slots is None:
        each = count // max(len(tiles), 1)
        slots = torch.stack([torch.arange(count) // max(each, 1), torch.arange(count) % max(each, 1)], dim=1)
    # Sixty-two bits of the hash: a stranger's picture would have to be met in all of them.
    numbers = np.array([int.from_bytes(tile[:8], "little") >> 2 for tile in tiles] or [0], dtype=np.int64)
    tile, patch = slots.numpy().T
    codes[at] = np.where(tile == NEWLINE, -1, -2 - (numbers[tile] ^ patch))
    return Prompt(example, codes, tiles, slots)


def common(one: Codes, other: Codes) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    unlike = one[:length] != other[:length]
    first = int(unlike.argmax()) if length else 0
    return first if length and unlike[first] else length


class Recent(Generic[K, V]):
    """Values by key, those used longest ago dropped where all together would hold more than so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K) -> V | None:
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: K, value: V, size: int) -> None:
        self.drop(key)
        self._held[key] = value, size
        self.bytes += size
        while self.bytes > self.most_bytes:
            self.drop(next(iter(self._held)))

    def drop(self, key: K) -> None:
        _, size = self._held.pop(key, (None, 0))
        self.bytes -= size

    def __iter__(self) -> Iterator[K]:
        """Keys as they are now; values may be dropped on the way."""
        return iter(list(self._held))


class Stems:
    """Prefixes that were read, by their codes."""

    def __init__(self, most_bytes: int) -> None:
        self._recent: Recent[bytes, Stem] = Recent(most_bytes)

    @property
    def bytes(self) -> int:
        return self._recent.bytes

    def __len__(self) -> int:
        return len(self._recent)

    def longest(self, codes: Codes) -> Stem | None:
        """The longest beginning of these codes that a stem holds; None where not even one token is."""
        best, key = 0, b""
        for held in self._recent:
            alike = common(codes, np.frombuffer(held, dtype=np.int64))
            if alike > best:
                best, key = alike, held
        stem = self._recent.get(key) if best else None
        return stem.first(best) if stem is not None else None

    def put(self, codes: Codes, stem: Stem) -> None:
        """Keep a stem; those that are its beginning are dropped, since it serves in their place."""
        whole = codes.tobytes()
        for held in self._recent:
            if whole.startswith(held):
                self._recent.drop(held)
        self._recent.put(whole, stem, stem.bytes)
