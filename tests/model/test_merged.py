"""Adapters that learn in the sums with their weights: PEFT's own numbers, and sums that are never stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model.tiny_models import tiny
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from vistune.model import add_adapters, merge_adapters
from vistune.model.attention import register
from vistune.model.language import run, unwrap
from vistune.model.merged import Merged, keep_merged
from vistune.recipe import Lora, Stage
from vistune.training.optim import make_optimizer

POSITIONS = torch.arange(12)[None]


def adapted(kind: str = "llama", **lora: Any) -> nn.Module:
    """A tiny model whose adapters are no longer zero."""
    model = tiny(kind)
    model.set_attn_implementation(register())
    language = add_adapters(model, Lora(**{"rank": 8, "alpha": 16, **lora}))
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in language.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=chance))
    return language


def merged_layers(language: nn.Module) -> list[Any]:
    return [module for module in language.modules() if isinstance(module, Merged)]


def states(language: nn.Module, rows: Tensor) -> Tensor:
    return run(language, rows[None], POSITIONS, starts=[0, 5, 12])[0]


def rows_of(language: nn.Module) -> Tensor:
    width = unwrap(language).config.hidden_size
    return torch.randn(12, width, generator=torch.Generator().manual_seed(4))


def gradients(language: nn.Module, rows: Tensor) -> dict[str, Tensor]:
    language.zero_grad()
    given = rows.clone().requires_grad_()
    (states(language, given) ** 2).sum().backward()
    assert given.grad is not None
    return {"rows": given.grad} | {
        name: p.grad.clone() for name, p in language.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    "lora", [{}, {"rslora": True}, {"targets": ("attention",)}], ids=["plain", "rslora", "attention"]
)
@pytest.mark.parametrize("kind", ["llama", "llama, biased", "gemma3"])
def test_states_and_gradients_are_pefts(kind: str, lora: dict[str, Any], recomputed: bool) -> None:
    language = adapted(kind, **lora).train()
    if recomputed:
        unwrap(language).activation_checkpointing_enable({"use_reentrant": False})
    rows = rows_of(language)
    wanted_states, wanted = states(language, rows).detach(), gradients(language, rows)
    keep_merged(language)
    assert merged_layers(language)
    found_states, found = states(language, rows).detach(), gradients(language, rows)
    torch.testing.assert_close(found_states, wanted_states, rtol=1e-4, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-4, msg=name)


def test_sums_follow_whatever_changes_the_adapters() -> None:
    language, fresh = adapted(), adapted()
    rows = rows_of(language)
    keep_merged(language)
    learning = [(name, p) for name, p in language.named_parameters() if p.requires_grad]
    update = make_optimizer({"adapters": learning}, Stage(name="tune", steps=1, learn={"adapters": 0.1}, lora=Lora()))

    def as_peft_computes() -> Tensor:
        set_peft_model_state_dict(fresh, get_peft_model_state_dict(language))
        return states(fresh, rows).detach()

    before = states(language, rows)
    (before**2).sum().backward()
    update.step()
    after = states(language, rows)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, as_peft_computes(), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(states(language.eval(), rows), as_peft_computes(), rtol=1e-4, atol=1e-5)
    set_peft_model_state_dict(language, get_peft_model_state_dict(adapted()))  # as a run that goes on reads them
    torch.testing.assert_close(states(language, rows).detach(), before.detach())


@pytest.mark.parametrize(
    "lora",
    [{"dropout": 0.05}, {"dora": True}, {"rank": 1, "alpha": 1}],
    ids=["dropout", "dora", "too low a rank to pay"],
)
def test_what_the_sum_would_not_say_or_not_save_stays_pefts(lora: dict[str, Any]) -> None:
    language = adapted(**lora)
    keep_merged(language)
    assert not merged_layers(language)


def test_weights_in_bf16_stay_apart() -> None:
    language = adapted()
    unwrap(language).to(torch.bfloat16)
    keep_merged(language)
    assert not merged_layers(language)


def test_nothing_of_it_is_saved_and_it_ends_with_the_adapters(tmp_path: Path) -> None:
    language = adapted()
    names, rows = set(language.state_dict()), rows_of(language)
    keep_merged(language)
    wanted = states(language, rows).detach()
    assert set(language.state_dict()) == names
    language.save_pretrained(tmp_path)
    plain = merge_adapters(language)
    assert not merged_layers(plain)
    assert not [name for name, _ in plain.named_buffers() if "whole" in name]
    torch.testing.assert_close(states(plain, rows).detach(), wanted, rtol=1e-4, atol=1e-5)
    again = add_adapters(plain, Lora(rank=8, alpha=16))  # the next stage's, which begin at zero
    keep_merged(again)
    torch.testing.assert_close(states(again, rows).detach(), wanted, rtol=1e-4, atol=1e-5)
