"""Losses on preference pairs: DPO, IPO, SimPO and ORPO, with an SFT term and mDPO's terms on the image.

log-probabilities of a packed row's answers by model and reference -> loss, margin and drift of each pair

The drift is how far the model's log-probabilities are from the reference's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vistune.recipe import Preference
from vistune.types import Batch

MEASURES = ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward", "kl")


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a packed row of pairs.

    Attributes:
        log_probabilities: (documents,) fp32, summed over the answer's tokens.
        tokens: (documents,), number of tokens of each answer.
    """

    log_probabilities: Tensor
    tokens: Tensor


def answers_of(losses: Tensor, positions: Tensor, batch: Batch) -> Answers:
    """Sum the losses (n,) of supervised tokens by document; `positions`: (n,), from which they are predicted."""
    ends = batch.starts[1:].to(positions.device).long()
    document = torch.searchsorted(ends, positions, right=True)
    zeros = losses.new_zeros(len(ends))
    return Answers(-zeros.index_add(0, document, losses), zeros.index_add(0, document, torch.ones_like(losses)))


def preference_loss(answers: Answers, batch: Batch, settings: Preference) -> tuple[Tensor, Tensor]:
    """Return the loss summed over the row's pairs, and MEASURES of each pair (pairs, 6) without gradient.

    Without a reference in the batch, every answer has the log-probability 0 in it.
    """
    shape = (-1, batch.pair_documents)
    policy, tokens = answers.log_probabilities.view(shape), answers.tokens.view(shape)
    reference = torch.zeros_like(policy) if batch.reference is None else batch.reference.view(shape).to(policy)
    ratios = policy - reference if settings.needs_reference else policy / tokens
    if settings.loss == "ipo":
        ratios = ratios / tokens  # as TRL: differences of means, so that long answers do not dominate
    chosen, rejected = ratios[:, 0], ratios[:, 1]
    mean = policy / tokens
    losses = _LOSSES[settings.loss](chosen - rejected, mean, settings)
    if settings.sft_weight:
        losses = losses - settings.sft_weight * mean[:, 0]
    if settings.image_weight:
        losses = losses - settings.image_weight * logsigmoid(settings.beta * (chosen - ratios[:, 2]))
    if settings.anchor_weight:
        losses = losses - settings.anchor_weight * logsigmoid(settings.beta * chosen)
    rewards = settings.beta * ratios.detach()
    margin = rewards[:, 0] - rewards[:, 1]
    drift = ((reference - policy) / tokens)[:, :2].mean(1).detach() if settings.needs_reference else 0 * margin
    measures = (losses.detach(), margin, (margin > 0).float(), rewards[:, 0], rewards[:, 1], drift)
    return losses.sum(), torch.stack(measures, dim=1)


def _dpo(difference: Tensor, mean: Tensor, settings: Preference) -> Tensor:
    logits, smoothing = settings.beta * difference, settings.label_smoothing
    return -(1 - smoothing) * logsigmoid(logits) - smoothing * logsigmoid(-logits)


def _ipo(difference: Tensor, mean: Tensor, settings: Preference) -> Tensor:
    return (difference - 1 / (2 * settings.beta)).square()


def _simpo(difference: Tensor, mean: Tensor, settings: Preference) -> Tensor:
    logits, smoothing = settings.beta * difference - settings.margin, settings.label_smoothing
    return -(1 - smoothing) * logsigmoid(logits) - smoothing * logsigmoid(-logits)


def _orpo(difference: Tensor, mean: Tensor, settings: Preference) -> Tensor:
    chosen, rejected = mean[:, 0], mean[:, 1]
    odds = difference - (_log_of_rest(chosen) - _log_of_rest(rejected))
    return -chosen - settings.beta * logsigmoid(odds)


def _log_of_rest(log_probability: Tensor) -> Tensor:
    """Return log(1 - p) of a log-probability; p is at most 1 - 1e-6, where the odds are finite."""
    return torch.log1p(-log_probability.exp().clamp(max=1 - 1e-6))


_LOSSES = {"dpo": _dpo, "ipo": _ipo, "simpo": _simpo, "orpo": _orpo}
