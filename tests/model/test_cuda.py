"""On a GPU: one kernel over all documents is attention within each, and a packed row learns what it learns on a CPU."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny_models import tiny

from vistune.model.attention import attend, documents, packed_attention, register
from vistune.model.language import run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is at hand")]
STARTS = torch.tensor([0, 1, 40, 170, 298])


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cuda()


@pytest.mark.parametrize("window", [None, 16, 4096])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_the_kernel_over_all_documents_is_attention_within_each(kv_heads: int, window: int | None) -> None:
    """Against fp32, as close as bf16 heads allow; gradients too."""
    tokens, width = int(STARTS[-1]), 64
    whole = [drawn(1, heads, tokens, width, seed=k) for k, heads in enumerate((8, kv_heads, kv_heads))]
    wanted_of = [t.clone().requires_grad_() for t in whole]
    wanted = packed_attention(*wanted_of, STARTS.tolist(), 0.2, window)
    upstream = drawn(*wanted.shape, seed=9)
    wanted.backward(upstream)
    given = [t.to(torch.bfloat16).requires_grad_() for t in whole]
    module = torch.nn.Module()
    known = documents(STARTS, given[0].device)
    assert known["longest"] == 130
    out, _ = attend(module, *given, scaling=0.2, sliding_window=window, **known)
    out.transpose(1, 2).backward(upstream.to(torch.bfloat16))
    assert relative(out.transpose(1, 2), wanted) < 1e-2
    for ours, theirs in zip(given, wanted_of, strict=True):
        assert relative(ours.grad, theirs.grad) < 2e-2


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gemma3"])
def test_a_packed_row_is_its_documents_alone(kind: str) -> None:
    """fp32 by one document after another, bf16 under autocast by the kernel; both are what a CPU gives in fp32."""
    model = tiny(kind)
    model.set_attn_implementation(register())
    ids = torch.randint(1, 99, (int(STARTS[-1]),), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(end - begin) for begin, end in pairwise(STARTS.tolist())])
    wanted = hidden_of(model, ids, positions)
    model.cuda()
    assert relative(hidden_of(model, ids, positions).cpu(), wanted) < 1e-5
    with torch.autocast("cuda", torch.bfloat16):
        assert relative(hidden_of(model, ids, positions).cpu(), wanted) < 3e-2


def hidden_of(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    device = model.device
    with torch.no_grad():
        rows = model.get_input_embeddings()(ids.to(device))[None]
        return run(model, rows, positions.to(device)[None], **documents(STARTS, rows.device))[0]


def relative(found: torch.Tensor | None, wanted: torch.Tensor | None) -> float:
    assert found is not None
    assert wanted is not None
    found, wanted = found.detach(), wanted.detach()
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())
