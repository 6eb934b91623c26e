"""What a run of a remote teacher would ask, cost and take, before anything is sent.

orders + service -> requests, tokens (and how they were counted), dollars with an upper bound, minutes, three examples
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vistune.datagen.teachers.requests import Request
from vistune.datagen.teachers.service import TeacherOptions, prepare_request
from vistune.files import read_text
from vistune.llm_client import how_to_price

LATENCY_SECONDS = 5.0  # of one answer, where nothing is known of the service
ANSWER_TOKENS = {"conversation": 350, "detail": 220, "reasoning": 220, "caption": 25}  # typical of GPT-4-class teachers


def estimate(orders: Sequence[Request], service: TeacherOptions) -> dict[str, Any]:
    """Requests, tokens, dollars and minutes of a run; how tokens were found is named, dollars have an upper bound.

    Raises RecipeError where a budget is given and no price is known.
    """
    price = service.price()
    counter, method = token_counter(service)
    requests = [prepare_request(order, service, price) for order in orders]
    prompt = sum(counter(text) + 4 for request in requests for text in _texts(json.loads(request.body))) + sum(
        price.image_tokens if service.see and price else 0 for _ in requests
    )
    completion = sum(min(ANSWER_TOKENS[order.kind], service.most_tokens(order.kind)) for order in orders)
    minutes = {"latency": len(orders) * LATENCY_SECONDS / service.concurrency / 60}
    if service.requests_per_minute:
        minutes["requests per minute"] = len(orders) / service.requests_per_minute
    if service.tokens_per_minute:
        minutes["tokens per minute"] = (prompt + completion) / service.tokens_per_minute
    slowest = max(minutes, key=lambda name: minutes[name])
    worst = None
    if price:
        bounds = ((request.prompt_bound, request.completion_bound) for request in requests)
        worst = service.tries * sum(price.dollars(*bound, batch=service.batch) for bound in bounds)
    return {
        "requests": len(requests),
        "kinds": dict(Counter(order.kind for order in orders)),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "tokens_by": method,
        "dollars": price.dollars(prompt, completion, batch=service.batch) if price else None,
        "dollars_at_most": worst,
        "budget": service.budget,
        "price": None if price is None else {"input": price.input, "output": price.output},
        "how_to_price": how_to_price(service.model) if price is None else None,
        "minutes": minutes[slowest],
        "minutes_by": f"by {slowest}",
        "examples": [json.loads(requests[k].body) for k in _spread(orders)],
    }


def _spread(orders: Sequence[Request]) -> list[int]:
    """Three orders, of different kinds where there are as many."""
    firsts = list({order.kind: k for k, order in reversed(list(enumerate(orders)))}.values())
    rest = [k for k in range(len(orders)) if k not in firsts]
    return sorted([*firsts, *rest][:3])


def _texts(body: dict[str, Any]) -> Iterator[str]:
    for message in body["messages"]:
        content = message["content"]
        yield from [content] if isinstance(content, str) else (part.get("text", "") for part in content)


def token_counter(service: TeacherOptions) -> tuple[Callable[[str], int], str]:
    """A count of tokens and how it is made: the tokenizer given, tiktoken if it knows the model, else an estimate."""
    if service.tokenizer is not None:
        from tokenizers import Tokenizer

        path = service.tokenizer / "tokenizer.json" if service.tokenizer.is_dir() else service.tokenizer
        loaded = Tokenizer.from_str(read_text(path))
        return lambda text: len(loaded.encode(text, add_special_tokens=False).ids), f"counted with {path}"
    try:
        import tiktoken

        known = tiktoken.encoding_for_model(service.model)
    except Exception:  # not installed, a model it does not know, or no network for its vocabulary
        return lambda text: -(-len(text.encode()) // 3), "estimated: one token for three bytes of UTF-8"
    return lambda text: len(known.encode(text, disallowed_special=())), f"counted with tiktoken's {known.name}"
