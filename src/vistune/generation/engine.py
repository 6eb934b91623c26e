"""Prefill and decode: many prompts at once, each answered as if it were alone.

Examples -> packed prefill fills a cache -> one token a sequence and step -> Completions, in the order asked
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vistune.model import DocumentCache, VisionLanguageModel
from vistune.processor import Processor, collate
from vistune.types import Completion, Example


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy. `top_k` 0 and `top_p` 1 keep all tokens."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


GREEDY = Sampling()


def steps(
    model: VisionLanguageModel,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    ended: Callable[[Sequence[int]], bool],
    sampling: Sampling,
    seeds: Sequence[int],
) -> Iterator[list[tuple[int, int]]]:
    """After each step, (sequence, token) of every sequence still running.

    `ended`: whether the tokens that a sequence has said so far end it. `seeds`: one a sequence, so that company
    changes no sampled answer either.
    """
    device = model.head.device
    row = collate(examples).to(device)
    cache = DocumentCache([int(start) for start in row.starts], room=max_tokens)
    with torch.inference_mode():
        last = row.starts[1:].long() - 1
        hidden = model(row, cache=cache)[last.to(device)]
        running = torch.arange(len(examples))
        said: list[list[int]] = [[] for _ in examples]
        chances = [torch.Generator().manual_seed(seed) for seed in seeds]
        for step in range(max_tokens):
            tokens = choose(hidden @ model.head.T, sampling, [chances[k] for k in running.tolist()])
            new = list(zip(running.tolist(), tokens.tolist(), strict=True))
            yield new
            for sequence, token in new:
                said[sequence].append(token)
            alive = torch.tensor([not ended(said[sequence]) for sequence, _ in new])
            if not alive.any() or step + 1 == max_tokens:
                return
            if not alive.all():
                kept = alive.nonzero(as_tuple=True)[0]
                cache.keep(kept)
                running, tokens = running[kept], tokens[kept.to(device)]
            hidden = model.decode(tokens, cache)


def choose(logits: Tensor, sampling: Sampling, chances: Sequence[torch.Generator]) -> Tensor:
    """The next token of each sequence (sequences,); each has a chance of its own, so company changes nothing."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    scores = logits.float() / sampling.temperature
    if sampling.top_k:
        least = scores.topk(min(sampling.top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        probabilities = probabilities.scatter(-1, places, ordered.masked_fill(beyond, 0.0))
    picks = [
        torch.multinomial(row.cpu(), 1, generator=chance) for row, chance in zip(probabilities, chances, strict=True)
    ]
    return torch.cat(picks).to(logits.device)


def generate(
    model: VisionLanguageModel,
    processor: Processor,
    prompts: Sequence[Example],
    *,
    max_tokens: int = 256,
    sampling: Sampling = GREEDY,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Completion]:
    """Answers to prompts, in their order; prompts of like length run together."""
    order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
    answers: dict[int, Completion] = {}
    for begin in range(0, len(order), batch_size):
        group = order[begin : begin + batch_size]
        said: list[list[int]] = [[] for _ in group]
        seeds = [sampling.seed + k for k in group]
        examples = [prompts[k] for k in group]
        for step in steps(
            model, examples, max_tokens=max_tokens, ended=processor.ended, sampling=sampling, seeds=seeds
        ):
            for sequence, token in step:
                said[sequence].append(token)
        for k, tokens in zip(group, said, strict=True):
            answers[k] = completion(processor, tokens, len(prompts[k]))
        advance(len(group))
    return [answers[k] for k in range(len(prompts))]


def completion(processor: Processor, tokens: Sequence[int], prompt_tokens: int) -> Completion:
    reason: Literal["stop", "length"] = "stop" if tokens and processor.ended(tokens) else "length"
    return Completion(processor.answer(tokens), reason, prompt_tokens, len(tokens))


def stream(
    model: VisionLanguageModel,
    processor: Processor,
    prompt: Example,
    *,
    max_tokens: int = 256,
    sampling: Sampling = GREEDY,
) -> Iterator[str]:
    """Pieces of an answer as they come; a character is held back until all its bytes are there, as is what may turn
    out to be the answer's end."""
    tokens: list[int] = []
    shown, end = "", processor.stop_text
    seeds = [sampling.seed]
    for step in steps(model, [prompt], max_tokens=max_tokens, ended=processor.ended, sampling=sampling, seeds=seeds):
        tokens.append(step[0][1])
        if processor.ended(tokens):
            break
        text = processor.answer(tokens)
        if not text.endswith(("�", *(end[:k] for k in range(1, len(end))))):
            yield text[len(shown) :]
            shown = text
    final = processor.answer(tokens)
    if len(final) > len(shown):
        yield final[len(shown) :]
