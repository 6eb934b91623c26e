"""How the next token is chosen.

logits (rows, vocabulary) + each row's Sampling -> a token a row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vistune.errors import DataError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 is greedy; `top_k` 0 and `top_p` 1 keep all tokens; `repetition_penalty` 1 leaves scores alone.

    `among`: the only tokens that may be said; none = all. In transformers' order: penalty, temperature, top-k, top-p.
    Raises DataError where a number makes no sense.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    repetition_penalty: float = 1.0
    among: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
        ):
            if not good:
                raise DataError(f"{name}: {getattr(self, name)!r} cannot be sampled with", f"give a number {wanted}")

    @property
    def takes_the_likeliest(self) -> bool:
        return self.temperature == 0 and self.repetition_penalty == 1 and not self.among


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Choice:
    """What choosing one row's token depends on: its rules, a chance of its own, and every token it has read or said."""

    sampling: Sampling
    chance: torch.Generator
    seen: Sequence[int]


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    """The next token of each row; each has a chance of its own, so company changes nothing."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for row, choice in enumerate(choices):
        if not choice.sampling.takes_the_likeliest:
            tokens[row] = _sampled(logits[row].float(), choice)
    return tokens


def _sampled(scores: Tensor, choice: Choice) -> int:
    sampling = choice.sampling
    if sampling.among:
        allowed = torch.tensor(sampling.among, device=scores.device)
        scores = torch.full_like(scores, -torch.inf).index_copy(0, allowed, scores[allowed])
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({token for token in choice.seen if token >= 0}), device=scores.device)
        said = scores[seen]
        penalty = sampling.repetition_penalty
        scores = scores.index_put((seen,), torch.where(said < 0, said * penalty, said / penalty))
    if sampling.temperature == 0:
        return int(scores.argmax())
    scores = scores / sampling.temperature
    if sampling.top_k:
        least = scores.topk(min(sampling.top_k, len(scores))).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        probabilities = probabilities.scatter(-1, places, ordered.masked_fill(beyond, 0.0))
    return int(torch.multinomial(probabilities.cpu(), 1, generator=choice.chance))
