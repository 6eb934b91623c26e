"""Settings of a remote teacher, the bodies of its requests, and an estimate of the cost of a run."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistune.datagen.teachers import Request
from vistune.datagen.teachers.prompts import OWN_LANGUAGES, Message, messages, prompts, system_prompt
from vistune.errors import RecipeError
from vistune.files import read_text
from vistune.llm_client import Endpoint, Price, how_to_price

TEMPERATURE = 0.7
MOST_TOKENS = {"conversation": 1024, "detail": 768, "reasoning": 768, "caption": 96}
LATENCY_SECONDS = 5.0  # of one answer, if nothing is known about the service
ANSWER_TOKENS = {"conversation": 350, "detail": 220, "reasoning": 220, "caption": 25}  # typical of GPT-4-class teachers


@dataclass(frozen=True, slots=True)
class TeacherOptions(Endpoint):
    """A remote teacher: an endpoint, and how it is asked.

    - see: the teacher sees the image, in addition to its captions and boxes
    - tries: how often one request is sent if the checks reject the replies
    - batch: use the Batch API, and look for results every `poll_seconds`
    - tokenizer: counts the tokens of the endpoint's model; without it, tiktoken or an estimate does
    """

    see: bool = False
    temperature: float = TEMPERATURE
    tries: int = 3
    batch: bool = False
    poll_seconds: float = 30.0
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        Endpoint.__post_init__(self)
        if self.tries < 1:
            raise RecipeError(f"--tries {self.tries}: is less than 1", "give a whole number from 1")

    def most_tokens(self, kind: str) -> int:
        """Return the largest number of tokens in a reply of this kind."""
        return MOST_TOKENS[kind] if self.max_tokens is None else self.max_tokens

    def header(self, kinds: Sequence[str], languages: Sequence[str]) -> dict[str, Any]:
        """Return the settings that replies depend on. A journal with another header is refused."""
        return {
            "model": self.model,
            "base_url": self.base_url,
            "parameters": {
                "temperature": self.temperature,
                "max_tokens": {kind: self.most_tokens(kind) for kind in MOST_TOKENS},
                "see": self.see,
                **({"extra_body": dict(self.extra_body)} if self.extra_body else {}),
            },
            "prompts": {
                f"{kind}/{language}": [
                    system_prompt(kind, language, see=self.see),
                    *(shot["reply"] for shot in prompts(language)[kind]["shots"] if language in OWN_LANGUAGES),
                ]
                for language in languages
                for kind in kinds
            },
        }


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request as it is sent. The bounds are numbers of tokens that it cannot exceed."""

    key: str
    body: bytes
    prompt_bound: int
    completion_bound: int


def prepare_request(request: Request, options: TeacherOptions, price: Price | None) -> PreparedRequest:
    """Return the body of a request, a key made from it, and its token bounds."""
    chat = messages(request.image, request.kind, request.language, see=options.see)
    most = options.most_tokens(request.kind)
    fields = {"model": options.model, "messages": chat, "temperature": options.temperature, "max_tokens": most}
    tree = {**options.extra_body, **fields}
    body = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    # The name is part of the key: two requests with the same body need two answers.
    key = hashlib.sha256(request.name.encode() + b"\0" + body).hexdigest()[:32]
    return PreparedRequest(key, body, prompt_bound(chat, price), most)


def prompt_bound(chat: Sequence[Message], price: Price | None) -> int:
    """Return a number of tokens that a prompt cannot exceed: a byte-level vocabulary has at least a byte per token."""
    image_tokens = price.image_tokens if price else 0
    parts = [part for message in chat for part in _parts(message)]
    texts: int = sum(len(part.get("text", "").encode()) + 8 for part in parts)
    images = sum(1 for part in parts if part["type"] == "image_url")
    return 16 + texts + image_tokens * images


def _parts(message: Message) -> list[Message]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The estimated requests, cost and time of a run with a remote teacher.

    - tokens_by: how tokens were counted
    - dollars, dollars_at_most: expected cost and its upper bound; None if the price is unknown
    - how_to_price: how to give an unknown price
    - minutes_by: the limit that decides the speed
    - examples: three request bodies
    """

    requests: int
    kinds: Mapping[str, int]
    prompt_tokens: int
    completion_tokens: int
    tokens_by: str
    dollars: float | None
    dollars_at_most: float | None
    budget: float | None
    price: Mapping[str, float] | None
    how_to_price: str | None
    minutes: float
    minutes_by: str
    examples: Sequence[Message]

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return asdict(self)


def estimate(requests: Sequence[Request], options: TeacherOptions) -> CostEstimate:
    """Count, price and time the requests of a run without sending any.

    Raises:
        RecipeError: A budget is given but the price of the model is unknown.
    """
    price = options.price()
    count_tokens, method = token_counter(options)
    prepared = [prepare_request(request, options, price) for request in requests]
    image_tokens = price.image_tokens if options.see and price else 0
    prompt = image_tokens * len(prepared)
    prompt += sum(count_tokens(text) + 4 for each in prepared for text in _texts(json.loads(each.body)))
    completion = sum(min(ANSWER_TOKENS[request.kind], options.most_tokens(request.kind)) for request in requests)
    minutes = {"latency": len(requests) * LATENCY_SECONDS / options.concurrency / 60}
    if options.requests_per_minute:
        minutes["requests per minute"] = len(requests) / options.requests_per_minute
    if options.tokens_per_minute:
        minutes["tokens per minute"] = (prompt + completion) / options.tokens_per_minute
    slowest = max(minutes, key=lambda name: minutes[name])
    most = None
    if price:
        bounds = ((each.prompt_bound, each.completion_bound) for each in prepared)
        most = options.tries * sum(price.dollars(*bound, batch=options.batch) for bound in bounds)
    return CostEstimate(
        requests=len(prepared),
        kinds=dict(Counter(request.kind for request in requests)),
        prompt_tokens=prompt,
        completion_tokens=completion,
        tokens_by=method,
        dollars=price.dollars(prompt, completion, batch=options.batch) if price else None,
        dollars_at_most=most,
        budget=options.budget,
        price=None if price is None else {"input": price.input, "output": price.output},
        how_to_price=how_to_price(options.model) if price is None else None,
        minutes=minutes[slowest],
        minutes_by=f"by {slowest}",
        examples=[json.loads(prepared[k].body) for k in _example_indexes(requests)],
    )


def _example_indexes(requests: Sequence[Request]) -> list[int]:
    """Return the indexes of three requests, of different kinds if possible."""
    firsts = list({request.kind: k for k, request in reversed(list(enumerate(requests)))}.values())
    rest = [k for k in range(len(requests)) if k not in firsts]
    return sorted([*firsts, *rest][:3])


def _texts(body: Message) -> Iterator[str]:
    for message in body["messages"]:
        yield from (part.get("text", "") for part in _parts(message))


def token_counter(options: TeacherOptions) -> tuple[Callable[[str], int], str]:
    """Return a function that counts tokens, and a note on how it does.

    It uses the tokenizer of the options, else tiktoken if it knows the model, else an estimate.
    """
    if options.tokenizer is not None:
        from tokenizers import Tokenizer

        path = options.tokenizer / "tokenizer.json" if options.tokenizer.is_dir() else options.tokenizer
        tokenizer = Tokenizer.from_str(read_text(path))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), f"counted with {path}"
    try:
        import tiktoken

        encoding = tiktoken.encoding_for_model(options.model)
    except Exception:  # not installed, a model it does not know, or no network for its vocabulary
        return lambda text: -(-len(text.encode()) // 3), "estimated: one token for three bytes of UTF-8"
    return lambda text: len(encoding.encode(text, disallowed_special=())), f"counted with tiktoken's {encoding.name}"
