"""The loss over supervised tokens beside torch's cross-entropy over all of them: values, gradients, what is kept."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vistune.model import next_token_loss as head_next_token_loss
from vistune.model.head import Head, LogitRule
from vistune.model.loss import CHUNK
from vistune.types import LossSum

WIDTH, VOCABULARY = 8, 50


def next_token_loss(hidden: Tensor, weight: Tensor, labels: Tensor, starts: Tensor) -> LossSum:
    return head_next_token_loss(hidden, Head(weight), labels, starts)


def made(learnt: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and head, and two documents of which the last `learnt` tokens are."""
    torch.manual_seed(learnt)
    tokens = learnt + 12
    hidden = torch.randn(tokens, WIDTH, dtype=dtype).requires_grad_()
    head = torch.randn(VOCABULARY, WIDTH, dtype=dtype).requires_grad_()
    labels = torch.full((tokens,), -100)
    labels[tokens - learnt :] = torch.randint(VOCABULARY, (learnt,))
    return hidden, head, labels, torch.tensor([0, 5, tokens])


def by_torch(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Of these documents: the first one, and the second one's first token, learn nothing anyway."""
    return cross_entropy((hidden[:-1] @ head.T).float(), labels[1:], reduction="sum", ignore_index=-100)


@pytest.mark.parametrize("learnt", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 100])
@pytest.mark.parametrize("head_learns", [False, True])
def test_value_and_gradients_are_those_of_all_logits_at_once(learnt: int, head_learns: bool) -> None:
    hidden, head, labels, starts = made(learnt, torch.float64)
    head.requires_grad_(head_learns)
    found = next_token_loss(hidden, head, labels, starts)
    (3 * found.sum).backward()
    own = hidden.grad, head.grad
    hidden.grad = head.grad = None
    wanted = by_torch(hidden, head, labels)
    (3 * wanted).backward()
    assert (found.count, tuple(found.tokens.shape), found.tokens.requires_grad) == (learnt, (learnt,), False)
    torch.testing.assert_close(found.sum, wanted)
    torch.testing.assert_close(found.tokens.sum(), wanted.detach())
    # Losses and shares are fp32 whatever the rows are.
    torch.testing.assert_close(own[0], hidden.grad, rtol=1e-5, atol=1e-5)
    if head_learns:
        torch.testing.assert_close(own[1], head.grad, rtol=1e-5, atol=1e-4)
    else:
        assert own[1] is None


@pytest.mark.parametrize("head_learns", [False, True])
def test_under_bf16_products_round_and_sums_do_not(head_learns: bool) -> None:
    hidden, head, labels, starts = made(2 * CHUNK + 10, torch.float32)
    head.requires_grad_(head_learns)
    grads = []
    for narrow in (True, False):
        hidden.grad = head.grad = None
        with torch.autocast("cpu", torch.bfloat16) if narrow else nullcontext():
            found = next_token_loss(hidden, head, labels, starts)
        found.sum.backward()
        assert found.sum.dtype == torch.float32
        grads.append((found.sum.detach(), hidden.grad, *([head.grad] if head_learns else [])))
    for near, exact in zip(*grads, strict=True):
        assert near.dtype == exact.dtype == torch.float32
        assert (near - exact).norm() < 2**-6 * exact.norm()  # bf16 has 8 digits


def test_the_factor_of_a_step_is_not_rounded_with_bf16_rows() -> None:
    """1/1237 in bf16 is off by a five-hundredth, in every entry alike."""
    hidden, head, labels, starts = made(300, torch.bfloat16)
    head.requires_grad_(False)
    lengths = []
    for factor in (1.0, 1 / 1237):
        hidden.grad = None
        (next_token_loss(hidden, head, labels, starts).sum * factor).backward()
        assert hidden.grad is not None
        lengths.append(float(hidden.grad.double().norm()))
    assert lengths[0] / lengths[1] == pytest.approx(1237, rel=3e-4)


def test_nothing_learnt_is_a_gradient_of_zeros() -> None:
    hidden, head, labels, starts = made(0, torch.float32)
    found = next_token_loss(hidden, head, labels, starts)
    found.sum.backward()
    assert (found.count, float(found.sum.detach())) == (0, 0.0)
    assert hidden.grad is not None
    assert head.grad is not None
    assert not torch.cat([hidden.grad, head.grad]).any()


def test_without_gradients_nothing_is_kept() -> None:
    hidden, head, labels, starts = made(CHUNK + 7, torch.float32)
    with torch.no_grad():
        found = next_token_loss(hidden, head, labels, starts)
    torch.testing.assert_close(found.sum, by_torch(hidden, head, labels).detach())
    assert not found.sum.requires_grad


RULES = [LogitRule(0.25), LogitRule(cap=2.0), LogitRule(3.0, 2.0), LogitRule()]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("head_learns", [False, True])
def test_a_scale_a_bias_and_a_cap_have_the_gradients_of_autograd(
    rule: LogitRule, biased: bool, head_learns: bool
) -> None:
    hidden, weight, labels, starts = made(CHUNK + 30, torch.float64)
    bias = torch.randn(VOCABULARY, dtype=torch.float64) if biased else None
    tensors = [hidden, *([weight] if head_learns else []), *([bias] if bias is not None and head_learns else [])]
    weight.requires_grad_(head_learns)
    for tensor in tensors:
        tensor.requires_grad_()
    head, found = Head(weight, bias, rule), []
    for ours in (True, False):
        if ours:
            total = head_next_token_loss(hidden, head, labels, starts).sum
        else:
            logits = head.logits(hidden[:-1])
            total = cross_entropy(logits, labels[1:], reduction="sum", ignore_index=-100)
        (2 * total).backward()
        found.append((total.detach().float(), *(tensor.grad for tensor in tensors)))
        for tensor in tensors:
            tensor.grad = None
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, check_dtype=False)
