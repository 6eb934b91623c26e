"""The service that a remote teacher is: which model, where, at what pace and price, and an order as it is asked there.

order + Service -> Request (key = hash of the body, bounds of its tokens)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.datagen.teachers.prompts import OWN_LANGUAGES, messages, prompts, system_prompt
from vistune.datagen.teachers.requests import Request
from vistune.llm_client import Endpoint, Price

TEMPERATURE = 0.7
MOST_TOKENS = {"conversation": 1024, "detail": 768, "reasoning": 768, "caption": 96}


@dataclass(frozen=True, slots=True)
class TeacherOptions(Endpoint):
    """A remote teacher: an endpoint, and how it is asked there."""

    see: bool = False
    temperature: float = TEMPERATURE
    tries: int = 3  # of one order, where the checks reject what came
    batch: bool = False
    poll_seconds: float = 30.0
    tokenizer: Path | None = None  # counts tokens where the endpoint's model has this one

    def most_tokens(self, kind: str) -> int:
        """Most tokens of a reply of this kind."""
        return MOST_TOKENS[kind] if self.max_tokens is None else self.max_tokens

    def header(self, kinds: Sequence[str], languages: Sequence[str]) -> dict[str, Any]:
        """What answers depend on: a journal made with another header is refused."""
        asked = [(kind, language) for language in languages for kind in kinds]
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
                for kind, language in asked
            },
        }


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """One order as it goes over the wire; the bounds are tokens that it cannot exceed."""

    key: str
    body: bytes
    prompt_bound: int
    completion_bound: int


def prepare_request(order: Request, service: TeacherOptions, price: Price | None) -> PreparedRequest:
    asked = messages(order.image, order.kind, order.language, see=service.see)
    most = service.most_tokens(order.kind)
    own = {"model": service.model, "messages": asked, "temperature": service.temperature, "max_tokens": most}
    tree = {**service.extra_body, **own}
    body = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    # The order's name is part of the key: two orders that ask the same of the same picture want two answers.
    key = hashlib.sha256(order.name.encode() + b"\0" + body).hexdigest()[:32]
    return PreparedRequest(key, body, prompt_bound(asked, price), most)


def prompt_bound(asked: Sequence[dict[str, Any]], price: Price | None) -> int:
    """Tokens that a prompt cannot exceed: no byte-level vocabulary makes more tokens than there are bytes."""
    total = 16
    for message in asked:
        parts = message["content"] if isinstance(message["content"], list) else [message["content"]]
        for part in parts:
            text = part if isinstance(part, str) else part.get("text", "")
            total += len(text.encode()) + 8
            if isinstance(part, dict) and part["type"] == "image_url":
                total += price.image_tokens if price else 0
    return total
