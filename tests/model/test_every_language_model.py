"""Language models of every kind, packed or unpacked, compute what transformers computes for each document alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from language_table import ACCEPTED
from tiny_models import tiny_of
from torch import Tensor
from torch.nn.functional import cross_entropy

from vistune.generation.batch import RunningBatch
from vistune.generation.sequence import RunningSequence, hash_prompt
from vistune.model import VisionLanguageModel, build, next_token_loss, read_spec
from vistune.model.trial import language_traits
from vistune.planner.language_shape import language_shape
from vistune.recipe import Model
from vistune.types import IGNORE, Batch, Example

CASES = [pytest.param(name, marks=pytest.mark.soak if kind.soak else ()) for name, kind in ACCEPTED.items()]
LENGTHS = (7, 1, 12)
GREEDY = 14  # tokens of an answer; with a prompt of 7 past the limit of LongRoPE's first factors


def documents() -> list[Tensor]:
    rng = torch.Generator().manual_seed(5)
    return [torch.randint(2, 98, (n,), generator=rng) for n in LENGTHS]


def packed_row(parts: list[Tensor]) -> Batch:
    """A row of text documents, every token but the first supervised."""
    ids = torch.cat(parts)
    labels = torch.cat([torch.cat([torch.tensor([IGNORE]), part[1:]]) for part in parts])
    return Batch(
        input_ids=ids,
        labels=labels,
        positions=torch.cat([torch.arange(len(part)) for part in parts]),
        starts=torch.tensor([0, *torch.tensor([len(part) for part in parts]).cumsum(0).tolist()]),
        images=torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        supervised=len(ids) - len(parts),
        ids=tuple(f"document {k}" for k in range(len(parts))),
    )


def greedy(stock: Any, ids: Tensor) -> list[int]:
    """Transformers' own greedy answer, every token from a whole forward pass without a cache."""
    for _ in range(GREEDY):
        best = stock(input_ids=ids[None], use_cache=False).logits[0, -1].argmax()
        ids = torch.cat([ids, best[None]])
    return ids[-GREEDY:].tolist()


def answers(model: VisionLanguageModel, prompts: list[Tensor]) -> list[list[int]]:
    """Our greedy answers, all in one batch."""
    none = torch.zeros((0, 3, 32, 32), dtype=torch.uint8)
    examples = [Example(input_ids=ids, labels=torch.full_like(ids, IGNORE), images=none) for ids in prompts]
    batch = RunningBatch(model, 2**20, prefixes_at_once=4)
    sequences = [RunningSequence(hash_prompt(example)) for example in examples]
    batch.admit(sequences, len(sequences))
    while len(sequences[0].tokens) < GREEDY:
        batch.step()
    return [sequence.tokens for sequence in sequences]


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_answers_equal_transformers(name: str, tmp_path: Path, tiny_backbones: Path) -> None:
    kind = ACCEPTED[name]
    stock = tiny_of(kind.architecture, kind.changes)
    stock.save_pretrained(tmp_path)
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tmp_path))
    model = build(recipe, read_spec(recipe), seed=0).eval()
    assert model.packed is not bool(kind.unpacked)
    assert kind.unpacked in language_traits(stock.config).unpacked

    assert language_shape(stock.config).parameters == sum(p.numel() for p in stock.parameters())

    row, alone = packed_row(documents()), []
    for ids in documents():
        # A copy: dynamic RoPE keeps the frequencies of longer texts.
        logits = copy.deepcopy(stock)(input_ids=ids[None], use_cache=False).logits[0].detach()
        alone.append(logits)
    with torch.no_grad():
        logits = model.head.logits(model(row))
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-3, atol=2e-4)

    model.language.requires_grad_()
    next_token_loss(model(row), model.head, row.labels, row.starts).sum.backward()
    for ids in documents():
        if len(ids) > 1:
            whole = stock(input_ids=ids[None], use_cache=False).logits[0]
            cross_entropy(whole[:-1], ids[1:], reduction="sum").backward()
    gradients = {name: p.grad for name, p in model.language.named_parameters() if p.grad is not None}
    largest = max(float(p.grad.abs().max()) for p in stock.parameters() if p.grad is not None)
    for name, parameter in stock.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=2e-3, atol=1e-4 * largest, msg=name)

    prompts = [documents()[0], documents()[2], documents()[2][:4]]
    with torch.no_grad():
        wanted = [greedy(copy.deepcopy(stock), ids) for ids in prompts]
    for ids, answer, expected in zip(prompts, answers(model, prompts), wanted, strict=True):
        # The engine ends an answer that fills the context.
        room = max(1, getattr(stock.config, "max_position_embeddings", GREEDY + len(ids)) - len(ids))
        assert answer[:room] == expected[:room]


@pytest.mark.parametrize("recomputed", [False, True])
def test_layers_that_drop_arguments_keep_documents_apart_when_they_are_recomputed(
    recomputed: bool, tmp_path: Path, tiny_backbones: Path
) -> None:
    """StableLM passes no further arguments to its attention: a recomputed layer must find its documents again."""
    tiny_of("stablelm", {}).save_pretrained(tmp_path)
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tmp_path))
    model = build(recipe, read_spec(recipe), seed=0)
    model.set_trainable(["language"])
    gradients = []
    for parts in (documents(), documents()[::-1]):
        model.set_recompute(["language"] if recomputed else [])
        model.zero_grad()
        row = packed_row(parts)
        next_token_loss(model(row), model.head, row.labels, row.starts).sum.backward()
        gradients.append([p.grad for p in model.language.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
