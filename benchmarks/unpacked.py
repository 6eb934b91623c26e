"""Measure how much slower a model runs unpacked: python benchmarks/unpacked.py [--rounds 7] [--width 256] [--layers 6]
    [--documents 32,64,128,256,512,1024] [--json FILE]

One random Llama computes the same rows with vistune's attention (packed), and with transformers' own one document after
another (unpacked): forward and backward passes over 2,048 tokens, then eight greedy answers. Both are measured in one
process, alternating, in one thread and in that thread's CPU seconds; the ratios are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from machine import Results, add_json
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from vistune.model.attention import register
from vistune.model.cache import KVCache, Prefill
from vistune.model.language import embed, read, read_separately, run

ROW = 2048  # tokens
DOCUMENTS = (32, 64, 128, 256, 512, 1024)  # tokens per document
ANSWERS, PROMPT, NEW = 8, 64, 24


def use(model: LlamaForCausalLM, *, packed: bool) -> None:
    """Choose how the model is run."""
    model.set_attn_implementation(register() if packed else "sdpa")


def seconds(call: Callable[[], object]) -> float:
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def train_step(model: LlamaForCausalLM, ids: Tensor, length: int) -> None:
    """Compute the gradients of one row of documents of `length` tokens."""
    positions = torch.arange(length).repeat(ROW // length)
    states = run(model, embed(model, ids)[None], positions[None], starts=torch.arange(0, ROW + 1, length))
    states.square().mean().backward()
    model.zero_grad()


@torch.inference_mode()
def answer_packed(model: LlamaForCausalLM, ids: Tensor) -> None:
    """Compute answers in one batch."""
    prefill, cache = Prefill([None] * ANSWERS, [PROMPT] * ANSWERS, "cpu"), KVCache("cpu")
    states = read(model, embed(model, ids), prefill, prefill.positions)[PROMPT - 1 :: PROMPT]
    cache.add(prefill)
    for _ in range(NEW):
        tokens = model.lm_head(states).argmax(dim=-1)
        states = read(model, embed(model, tokens), cache, cache.prepare())


@torch.inference_mode()
def answer_unpacked(model: LlamaForCausalLM, ids: Tensor) -> None:
    """Compute answers one after another."""
    for prompt in ids.split(PROMPT):
        states, cache = read_separately(model, embed(model, prompt))
        for step in range(NEW):
            token = model.lm_head(states[-1:]).argmax(dim=-1)
            states, cache = read_separately(model, embed(model, token), cache, PROMPT + step)


def alternate(
    model: LlamaForCausalLM, rounds: int, packed: Callable[[], object], unpacked: Callable[[], object]
) -> dict[str, float]:
    """Return the median seconds of both, and the median of the rounds' ratios; the first round is not counted."""
    pairs = []
    for _ in range(rounds + 1):
        use(model, packed=True)
        one = seconds(packed)
        use(model, packed=False)
        pairs.append((one, seconds(unpacked)))
    kept = pairs[1:]
    return {
        "packed": statistics.median(one for one, _ in kept),
        "unpacked": statistics.median(other for _, other in kept),
        "ratio": statistics.median(other / one for one, other in kept),
    }


def report(results: Results, row: dict[str, float]) -> None:
    """Print and keep a row."""
    results.add(json.dumps(row), **row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--documents", default=",".join(map(str, DOCUMENTS)), help="tokens per document")
    add_json(parser)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    results = Results.begin(options.json)
    config = LlamaConfig(
        hidden_size=options.width,
        intermediate_size=4 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        num_key_value_heads=options.width // 64,
        vocab_size=8000,
    )
    model = LlamaForCausalLM(config)
    ids = torch.randint(0, 8000, (ROW,))
    for length in map(int, options.documents.split(",")):
        step = lambda length=length: train_step(model, ids, length)  # noqa: E731
        measured = alternate(model, options.rounds, step, step)
        speeds = {f"{name}_tokens_per_s": round(ROW / measured[name]) for name in ("packed", "unpacked")}
        report(results, {"document": length, **speeds, "ratio": round(measured["ratio"], 2)})
    model.eval()
    prompts = ids[: ANSWERS * PROMPT]
    measured = alternate(
        model, options.rounds, lambda: answer_packed(model, prompts), lambda: answer_unpacked(model, prompts)
    )
    speeds = {f"{name}_tokens_per_s": round(ANSWERS * NEW / measured[name]) for name in ("packed", "unpacked")}
    report(results, {"answers": ANSWERS, **speeds, "ratio": round(measured["ratio"], 2)})


if __name__ == "__main__":
    main()
