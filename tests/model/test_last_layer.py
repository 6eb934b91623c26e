"""States of wanted positions alone and their gradients are those of the whole row, in every kind of language model."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import KINDS, tiny
from torch import Tensor, nn

from vistune.model.attention import register
from vistune.model.language import last_mlp, last_mlp_at, run

STARTS = [0, 7, 8, 20]
POSITIONS = torch.cat([torch.arange(n) for n in (7, 1, 12)])


def language_of(kind: str) -> nn.Module:
    model = tiny(kind)
    model.set_attn_implementation(register())
    return model


def states(model: nn.Module, rows: Tensor, at: Tensor, *, handed: bool) -> Tensor:
    """Of the wanted positions; with them handed down, or looked up in the whole row."""
    hidden = run(model, rows[None], POSITIONS[None], starts=STARTS, at=at if handed else None)[0]
    return hidden[at]


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_states_and_gradients_are_those_of_the_whole_row(kind: str, recomputed: bool) -> None:
    model = language_of(kind).train()
    assert last_mlp(model.get_decoder()) is not None
    if recomputed:
        model.activation_checkpointing_enable({"use_reentrant": False})
    at, width = torch.tensor([2, 3, 6, 7, 15, 19]), model.get_input_embeddings().weight.shape[1]
    chance = torch.Generator().manual_seed(1)
    rows, weights = torch.randn(20, width, generator=chance), torch.randn(len(at), width, generator=chance)
    found = []
    for handed in (True, False):
        model.zero_grad()
        given = rows.clone().requires_grad_()
        hidden = states(model, given, at, handed=handed)
        (hidden * weights).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((hidden.detach(), given.grad, gradients))
    (near, near_rows, near_all), (whole, whole_rows, whole_all) = found
    torch.testing.assert_close(near, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(near_rows, whole_rows, rtol=1e-3, atol=1e-4)
    assert near_all.keys() == whole_all.keys()
    for name in whole_all:
        torch.testing.assert_close(near_all[name], whole_all[name], rtol=1e-3, atol=1e-4, msg=name)


def test_other_tokens_never_reach_the_last_mlp() -> None:
    model, seen = language_of("llama"), []
    for layer in model.model.layers:
        layer.mlp.up_proj.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    rows = torch.randn(20, model.config.hidden_size)
    states(model, rows, torch.tensor([4, 9]), handed=True)
    states(model, rows, torch.tensor([4, 9]), handed=False)
    layers = len(model.model.layers)
    assert seen == [20] * (layers - 1) + [2] + [20] * layers


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_wanted_every_weight_has_a_gradient_of_zeros(kind: str) -> None:
    """As every process of a run needs it, of experts too: a row that learns nothing is a row like others."""
    model = language_of(kind).train()
    rows = torch.randn(20, model.config.hidden_size)
    every = states(model, rows, torch.arange(20), handed=False)
    every.sum().backward()
    wanted = {name for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    states(model, rows, torch.tensor([], dtype=torch.long), handed=True).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted
    assert not any(gradient.any() for gradient in found.values())


def test_a_decoder_whose_layers_have_another_name_computes_all_of_them() -> None:
    body = nn.Module()
    body.h = nn.ModuleList([nn.Linear(2, 2)])
    assert last_mlp(body) is None
    with last_mlp_at(body, torch.tensor([1]), 2):
        pass


def test_a_copy_computes_fewer_tokens_by_itself_and_transformers_own_pass_is_whole() -> None:
    model = language_of("llama")
    stock = copy.deepcopy(tiny("llama"))
    stock.load_state_dict(model.state_dict())
    ids = torch.randint(1, 99, (1, 20))
    rows = model.get_input_embeddings()(ids)[0]
    other = copy.deepcopy(model)
    states(other, rows, torch.tensor([4, 9]), handed=True)
    whole = run(model, rows[None], torch.arange(20)[None], starts=[0, 20])[0]
    with torch.no_grad():
        torch.testing.assert_close(whole, stock.model(input_ids=ids).last_hidden_state[0], rtol=1e-4, atol=1e-4)
