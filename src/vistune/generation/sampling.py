"""Choose the next token of each sequence from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vistune.errors import DataError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; applied in transformers' order: penalty, temperature, top-k, top-p.

    Attributes:
        temperature: 0 is greedy.
        top_p: Keep the likeliest tokens up to this probability; 1 keeps all.
        top_k: Keep this many tokens; 0 keeps all.
        seed: Random seed.
        repetition_penalty: Divides the scores of tokens that occurred; 1 changes nothing.
        among: The only tokens allowed; empty allows all.

    Raises:
        DataError: If a number is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    repetition_penalty: float = 1.0
    among: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, is_valid, expected in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
        ):
            if not is_valid:
                raise DataError(f"{name}: {getattr(self, name)!r} is not allowed", f"give a number {expected}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0 and self.repetition_penalty == 1 and not self.among


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class SamplingState:
    """The state on which a sequence's next token depends.

    Attributes:
        seen: Every token of the prompt and the answer so far.
        allowed: Mask (vocabulary,) of the tokens that may come next; None allows all.
    """

    sampling: Sampling
    rng: torch.Generator
    seen: Sequence[int]
    allowed: Tensor | None = None


def sample_tokens(logits: Tensor, states: Sequence[SamplingState]) -> list[int]:
    """Sample a token per row of logits (rows, vocabulary). Rows do not influence each other."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for row, state in enumerate(states):
        if state.allowed is not None or not state.sampling.is_greedy:
            tokens[row] = _sample(logits[row].float(), state)
    return tokens


def _sample(scores: Tensor, state: SamplingState) -> int:
    sampling = state.sampling
    if state.allowed is not None:
        scores = scores.masked_fill(~state.allowed.to(scores.device), -torch.inf)
    if sampling.among:
        allowed = torch.tensor(sampling.among, device=scores.device)
        scores = torch.full_like(scores, -torch.inf).index_copy(0, allowed, scores[allowed])
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({token for token in state.seen if token >= 0}), device=scores.device)
        old, penalty = scores[seen], sampling.repetition_penalty
        scores = scores.index_put((seen,), torch.where(old < 0, old * penalty, old / penalty))
    if sampling.temperature == 0:
        return int(scores.argmax())
    scores = scores / sampling.temperature
    if sampling.top_k:
        least = scores.topk(min(sampling.top_k, len(scores))).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, tokens = probabilities.sort(descending=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        probabilities = probabilities.scatter(-1, tokens, ordered.masked_fill(beyond, 0.0))
    return int(torch.multinomial(probabilities.cpu(), 1, generator=state.rng))
