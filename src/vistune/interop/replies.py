"""Compare a server's answer with the one in the certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vistune.interop.agreement import common_length, compare_position
from vistune.interop.certificate import Certificate, ConversationRecord
from vistune.interop.server_client import Reply, ReplyStep

TOLERANCE = 0.05  # nats; llama.cpp rounds GELU to f16, which changes log-probabilities by up to 0.02
Key = int | str


@dataclass(frozen=True, slots=True)
class ReplyComparison:
    """An answer compared with the certificate.

    Attributes:
        share: Share of the answer's tokens before the first that differs.
        divergence: Mean KL divergence of these positions; None without log-probabilities.
        fault: How log-probabilities or the answer differ by more than rounding; "" if they do not.
        sampler_fault: How the server selects a token that it does not find the likeliest; "" if it does not.
    """

    share: float
    divergence: float | None
    fault: str
    sampler_fault: str


def compare_reply(certificate: Certificate, record: ConversationRecord, reply: Reply) -> ReplyComparison:
    """Compare an answer with the recorded one, token by token until they part."""
    visible = list(record.tokens[: record.length])
    if record.ends and visible[-1] in certificate.stop_ids:
        visible.pop()
    if not reply.steps:
        return _compare_texts(record, reply)
    divergences: list[float] = []
    fault = ""
    for index, step in enumerate(reply.steps):
        if index < len(record.positions):
            ours, theirs = _by_key(certificate, record.positions[index].by_id, step)
            comparison = compare_position(ours, theirs)
            divergences.append(comparison.divergence)
            if not comparison.difference <= TOLERANCE and not fault:
                fault = f"at token {index} of the answer log-probabilities differ by {comparison.difference:.2g} nats"
        if index == len(visible):
            break
        if not _is_token(certificate, visible[index], step.token):
            sampler = _sampler_fault(index, step)
            tie = _is_tie(certificate, record, index, step)
            expected = certificate.texts.get(visible[index], visible[index])
            parted = f"token {index} of the answer is {step.token!r}, expected {expected!r}"
            return ReplyComparison(
                index / len(visible),
                float(np.mean(divergences)) if divergences else None,
                fault or ("" if sampler or tie else parted),
                sampler,
            )
    return ReplyComparison(1.0, float(np.mean(divergences)), fault, _end_fault(certificate, record, reply, visible))


def _end_fault(certificate: Certificate, record: ConversationRecord, reply: Reply, visible: Sequence[int]) -> str:
    """Return how an answer whose tokens agree ends too early or too late."""
    further = [step.token for step in reply.steps[len(visible) :]]
    if record.ends and further and not any(_is_token(certificate, end, further[0]) for end in certificate.stop_ids):
        return f"the answer continues with {further[0]!r} after its end"
    if len(reply.steps) < len(visible):
        return f"the answer ends after {len(reply.steps)} tokens, expected {len(visible)}"
    return ""


def _compare_texts(record: ConversationRecord, reply: Reply) -> ReplyComparison:
    """Compare answers of a server without log-probabilities."""
    expected, actual = record.answer.strip(), reply.text.strip()
    share = 1.0 if expected == actual else common_length(expected, actual) / max(len(expected), len(actual))
    fault = "" if expected == actual else f"the answer is {actual!r}, expected {expected!r}"
    return ReplyComparison(share, None, fault, "")


def _by_key(
    certificate: Certificate, ours: Mapping[int, float], step: ReplyStep
) -> tuple[Mapping[Key, float], Mapping[Key, float]]:
    """Return the certificate's and the server's log-probabilities by id, or by text if the server gives texts."""
    if all(isinstance(key, int) for key in step.logprobs):
        return {token: logprob for token, logprob in ours.items()}, step.logprobs  # noqa: C416 - keys of another type
    texts: dict[Key, float] = {}
    for token, logprob in ours.items():
        text = certificate.texts[token].strip()
        texts[text] = float(np.logaddexp(texts.get(text, -np.inf), logprob))
    return texts, step.logprobs


def _is_token(certificate: Certificate, expected: int, actual: Key) -> bool:
    """Return whether a server's token is the expected one; a token without a recorded text is not compared by text."""
    if isinstance(actual, int):
        return actual == expected
    text = certificate.texts.get(expected)
    return text is None or text.strip() == actual


def _sampler_fault(index: int, step: ReplyStep) -> str:
    """Return how a server chose another token than its likeliest one."""
    if not step.logprobs:
        return ""
    best = max(step.logprobs, key=step.logprobs.__getitem__)
    gap = step.logprobs[best] - step.logprobs.get(step.token, min(step.logprobs.values()))
    if best == step.token or gap <= TOLERANCE:
        return ""
    return f"token {index} of the answer is {step.token!r}, although {best!r} is likelier by {gap:.2g} nats"


def _is_tie(certificate: Certificate, record: ConversationRecord, index: int, step: ReplyStep) -> bool:
    """Return whether the certificate finds two tokens equally likely up to rounding."""
    if index >= len(record.positions):
        return False
    ours, _ = _by_key(certificate, record.positions[index].by_id, step)
    return max(ours.values()) - ours.get(step.token, -np.inf) <= 2 * TOLERANCE
