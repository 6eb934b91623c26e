"""Attention over parts of the keys, put together, is attention over all of them; every row of a cache is its own."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from torch.nn.functional import scaled_dot_product_attention

from vistune.model import KVCache, Prefill
from vistune.model.attention import _explicit_attention, join, partial_attention, register


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("value_width", [8, 6], ids=["torch's kernel", "explicit"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tokens", [1, 5])
def test_two_parts_joined_are_the_whole(kv_heads: int, tokens: int, value_width: int) -> None:
    query = drawn(2, 4, tokens, 8)
    key, value = drawn(2, kv_heads, 9, 8, seed=1), drawn(2, kv_heads, 9, value_width, seed=2)
    seen = drawn(2, 1, tokens, 9, seed=3) > 0
    seen[..., 0] = True  # every token sees something
    seen[0, 0, 0, 4:] = False  # and one nothing of the second part
    wanted = scaled_dot_product_attention(query, key, value, seen, scale=0.4, enable_gqa=True)
    parts = [
        partial_attention(query, key[:, :, part], value[:, :, part], 0.4, seen[..., part])
        for part in (slice(0, 4), slice(4, 9))
    ]
    torch.testing.assert_close(join(*parts), wanted)
    torch.testing.assert_close(join(*reversed(parts)), wanted)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("value_width", [8, 6])
def test_the_causal_part_is_causal(kv_heads: int, value_width: int) -> None:
    query, key, value = drawn(1, 4, 7, 8), drawn(1, kv_heads, 7, 8, seed=1), drawn(1, kv_heads, 7, value_width, seed=2)
    out, _ = partial_attention(query, key, value, 0.3, causal=True)
    wanted = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("causal", [False, True])
def test_stretches_explicit_attention_are_the_whole(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = drawn(1, 2, 7, 8), drawn(1, 2, 7, 8, seed=1), drawn(1, 2, 7, 8, seed=2)
    blocked = torch.zeros(1, 1, 7, 7).masked_fill_(drawn(1, 1, 7, 7, seed=3) > 1, -torch.inf)
    whole = _explicit_attention(query, key, value, 0.3, blocked, causal)
    monkeypatch.setattr("vistune.model.attention.MOST_SCORES", 30)  # two tokens at a time
    torch.testing.assert_close(_explicit_attention(query, key, value, 0.3, blocked, causal), whole, equal_nan=True)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3", "deepseek v3"])
def test_rows_come_and_go_and_each_reads_as_alone(kind: str) -> None:
    """Three documents on one prefix or none; one leaves, one comes, and hidden states stay those of whole texts."""
    model = tiny(kind)
    ids = [torch.randint(1, 99, (length,), generator=torch.Generator().manual_seed(length)) for length in (14, 11, 17)]
    stem_ids = torch.randint(1, 99, (9,), generator=torch.Generator().manual_seed(99))
    texts = [torch.cat([stem_ids, ids[0]]), ids[1], torch.cat([stem_ids[:6], ids[2]])]
    with torch.inference_mode():
        wanted = [model.get_decoder()(input_ids=text[None]).last_hidden_state[0] for text in texts]
        model.set_attn_implementation(register())

        def run(tokens: torch.Tensor, positions: torch.Tensor, past: Prefill | KVCache) -> torch.Tensor:
            return model.get_decoder()(
                input_ids=tokens[None], position_ids=positions[None], cache=past, past=past, use_cache=True
            ).last_hidden_state[0]

        first = Prefill([None], [9])
        run(stem_ids, first.positions, first)
        prefix = first.prefix(0)
        assert prefix.first(6) is prefix.first(6)
        tails = KVCache()

        def check(row: int, document: int, hidden: torch.Tensor, at: int) -> None:
            torch.testing.assert_close(hidden[row], wanted[document][at], atol=2e-4, rtol=1e-4)

        reading = Prefill([prefix, None], [4, 5])
        hidden = run(torch.cat([texts[0][9:13], texts[1][:5]]), reading.positions, reading)
        check(3, 0, hidden, 12)
        check(8, 1, hidden, 4)
        tails.add(reading)
        rows, at = [0, 1], {0: 13, 1: 5, 2: 10}
        for step in range(6):
            if step == 2:
                later = Prefill([prefix.first(6)], [4])
                check(3, 2, run(texts[2][6:10], later.positions, later), 9)
                tails.add(later)
                rows.append(2)
            if step == 4:
                tails.drop(0)
                rows[0] = rows.pop()
            positions = tails.prepare()
            assert positions.tolist() == [at[k] for k in rows]
            hidden = run(torch.stack([texts[k][at[k]] for k in rows]), positions, tails)
            tails.advance()
            for row, document in enumerate(rows):
                check(row, document, hidden, at[document])
                at[document] += 1
    assert len(tails) == 2
