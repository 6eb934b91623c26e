"""Compare quantized weights with the originals: the share of equal tokens in answers, and the KL divergence."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)
RESAMPLES = 2000  # of the bootstrap
LEAST_AGREEMENT = 0.6  # the interval of the agreement must not reach below
MOST_DIVERGENCE = 0.1  # nats; the interval of the KL divergence must not reach above
LEAST_PROBABILITY = 1e-6  # of all tokens that a program does not list


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over conversations with its 95 % interval, and the threshold that the whole interval must keep."""

    mean: float
    low: float
    high: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near a program with quantized weights is to the certificate.

    Attributes:
        conversations: Number of conversations.
        answers: Share of an answer's tokens before the first that differs.
        divergence: KL divergence in nats of the next token, at the positions before the answers part. Only the tokens
            that the certificate lists are compared, so it is a lower bound.
    """

    conversations: int
    answers: Interval
    divergence: Interval | None

    @property
    def holds(self) -> bool:
        """Whether both intervals keep their thresholds."""
        divergence = self.divergence
        return self.answers.low >= self.answers.threshold and (
            divergence is None or divergence.high <= divergence.threshold
        )

    def describe(self) -> str:
        """Return both intervals as text."""
        answers = self.answers
        text = (
            f"{100 * answers.mean:.0f} % of the tokens of {self.conversations} answers agree ({100 * answers.low:.0f} "
            f"to {100 * answers.high:.0f} %; at least {100 * answers.threshold:.0f} % is expected)"
        )
        if (divergence := self.divergence) is None:
            return text
        return (
            f"{text}; KL divergence {divergence.mean:.2g} nats ({divergence.low:.2g} to {divergence.high:.2g}; at most "
            f"{divergence.threshold:g} is expected)"
        )


def judge(shares: Sequence[float], divergences: Sequence[float]) -> Agreement:
    """Return the agreement, from each conversation's share of equal tokens and mean divergence."""
    return Agreement(
        len(shares),
        bootstrap(shares, LEAST_AGREEMENT),
        bootstrap(divergences, MOST_DIVERGENCE) if divergences else None,
    )


def bootstrap(values: Sequence[float], threshold: float) -> Interval:
    """Return the mean of conversations with the interval of its bootstrap."""
    array = np.asarray(values, dtype=np.float64)
    drawn = np.random.RandomState(0).randint(0, len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(array[drawn].mean(axis=1), [2.5, 97.5])
    return Interval(float(array.mean()), float(low), float(high), threshold)


def common_length(left: Sequence[object], right: Sequence[object]) -> int:
    """Return the number of elements before the first that differs."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


@dataclass(frozen=True)
class Comparison:
    """The comparison of a position: the largest difference of a log-probability, and the KL divergence in nats."""

    difference: float
    divergence: float


def compare_position(ours: Mapping[K, float], theirs: Mapping[K, float]) -> Comparison:
    """Compare the certificate's log-probabilities of a position with a program's, by token.

    A token that the program does not list is at most as likely as the least likely one that it lists.
    """
    least = min(theirs.values(), default=-math.inf)
    difference = divergence = mass_ours = mass_theirs = 0.0
    for token, own in ours.items():
        other = theirs.get(token, min(own, least))
        difference = max(difference, abs(own - other))
        divergence += math.exp(own) * (own - other)
        mass_ours += math.exp(own)
        mass_theirs += math.exp(other)
    rest = max(1 - mass_ours, LEAST_PROBABILITY)
    divergence += rest * math.log(rest / max(1 - mass_theirs, LEAST_PROBABILITY))
    return Comparison(difference, max(divergence, 0.0))
