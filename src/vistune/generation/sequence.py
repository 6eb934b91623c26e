"""A sequence of the running batch: its prompt, its sampling, and the generated tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vistune.generation.grammar import Grammar
from vistune.generation.logprobs import TokenLogprobs, token_logprobs
from vistune.generation.sampling import GREEDY, Sampling, SamplingState
from vistune.processor.tiles import NEWLINE
from vistune.types import IMAGE_ID, Example

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """An encoded prompt with hashes by which it is compared with others.

    Attributes:
        example: The prompt as tensors.
        codes: (tokens,) a text token's id, or for a slot a negative number from its tile's hash and its patch. If the
            codes of two prompts begin with the same numbers, the prompts begin with the same text and pixels.
        tiles: A hash of each tile's pixels, and of its grid with NaFlex.
        slots: (slots, 2) tile and patch of each slot, in order.
    """

    example: Example
    codes: Codes
    tiles: tuple[bytes, ...]
    slots: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def images_end(self) -> int:
        """Index of the first token after the last image; 0 without images."""
        indices = np.flatnonzero(self.codes < 0)
        return int(indices[-1]) + 1 if len(indices) else 0


def hash_prompt(example: Example) -> Prompt:
    """Hash the pixels of a prompt: equal images have equal codes, whatever file they came from."""
    tiles = tuple(hashlib.sha256(tile.contiguous().numpy()).digest() for tile in example.images)
    if example.grids is not None:  # the same patches in another grid are another image
        pairs = zip(tiles, example.grids.numpy(), strict=True)
        tiles = tuple(hashlib.sha256(tile + grid.tobytes()).digest() for tile, grid in pairs)
    codes: Codes = example.input_ids.numpy().copy()
    is_slot = codes == IMAGE_ID
    count = int(is_slot.sum())
    slots = example.slots
    if slots is None:
        per_tile = max(count // max(len(tiles), 1), 1)
        slots = torch.stack([torch.arange(count) // per_tile, torch.arange(count) % per_tile], dim=1)
    # 62 bits of each hash; two different images would have to agree in all of them.
    numbers = np.array([int.from_bytes(tile[:8], "little") >> 2 for tile in tiles] or [0], dtype=np.int64)
    tile, patch = slots.numpy().T
    codes[is_slot] = np.where(tile == NEWLINE, -1, -2 - (numbers[tile] ^ patch))
    return Prompt(example, codes, tiles, slots)


@dataclass(eq=False, slots=True)
class RunningSequence:
    """A prompt and the tokens generated so far.

    Attributes:
        reused: Number of prompt tokens that were in the prefix cache.
        grammar: Which tokens may come next; None allows all.
        top_logprobs: How many likeliest tokens are recorded per step; None records nothing.
        logprobs: The recorded entries, one per generated token.
        error: Why no further token can be chosen; "" if it can.
    """

    prompt: Prompt
    sampling: Sampling = GREEDY
    grammar: Grammar | None = None
    top_logprobs: int | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    reused: int = 0
    error: str = ""
    rng: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = torch.Generator().manual_seed(self.sampling.seed)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)

    @property
    def sampling_state(self) -> SamplingState:
        needs_context = self.sampling.repetition_penalty != 1
        context = [*self.prompt.codes.tolist(), *self.tokens] if needs_context else ()
        allowed = None if self.grammar is None else self.grammar.allowed()
        return SamplingState(self.sampling, self.rng, context, allowed)

    def record(self, logits: Tensor, token: int) -> None:
        """Record the log probabilities of the next token from its logits (vocabulary,)."""
        # A step that failed and is repeated has left an entry.
        self.logprobs[len(self.tokens) :] = [token_logprobs(logits, token, self.top_logprobs or 0)]

    def append(self, token: int) -> None:
        """Add a generated token."""
        self.tokens.append(token)
        if self.grammar is not None:
            self.grammar.advance(token)
