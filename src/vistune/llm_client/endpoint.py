"""Describe a service and its settings, for teachers and judges, and open it.

Endpoint + journal folder -> RequestRunner
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NoReturn

from vistune.errors import RecipeError
from vistune.llm_client.client import Client, read_key
from vistune.llm_client.dialect import NEEDED
from vistune.llm_client.journal import Journal
from vistune.llm_client.limits import Price, RateLimiter, read_prices, unpriced_model
from vistune.llm_client.runner import RequestRunner, RunOptions, log

OWN_FIELDS = {  # fields of a request's body that --extra-body must not set -> what sets them
    "model": "--model",
    "messages": "the prompts",
    "stream": "the service: replies are streamed if it requires that",
    "stream_options": "the service: replies are streamed if it requires that",
    "n": "vistune: one reply per request",
    "best_of": "vistune: one reply per request",
    "max_tokens": "--max-tokens",
    "max_completion_tokens": "--max-tokens",
    "temperature": "--temperature",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service and its settings.

    Attributes:
        key_file: File with the API key; by default it is read from OPENAI_API_KEY.
        budget: Dollars that are never exceeded.
        prices: A price table in place of the shipped one.
        allow_drift: Whether the journal may contain replies to other settings.
        extra_body: Fields added to every request, such as {"enable_thinking": False}.
        max_tokens: Limit of every reply, in place of the defaults.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_file: Path | None = None
    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    deadline_seconds: float = 120.0
    patience_seconds: float = 600.0
    budget: float | None = None
    prices: Path | None = None
    allow_drift: bool = False
    extra_body: Mapping[str, object] = field(default_factory=dict, hash=False)
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        check_extra_body(self.extra_body)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RecipeError(f"--max-tokens {self.max_tokens}: is less than 1", "give a whole number of tokens")

    def asked_with(self) -> dict[str, object]:
        """Return the settings for a journal's header that differ from the defaults."""
        more: dict[str, object] = {"extra_body": dict(self.extra_body)} if self.extra_body else {}
        return more if self.max_tokens is None else {**more, "max_tokens": self.max_tokens}

    def options(self) -> dict[str, str]:
        """Return the fields that the user set and that a request could be sent without, each with its option."""
        own = {each.name: each.default for each in fields(self) if each.name in OWN_FIELDS and each.name not in NEEDED}
        return {name: OWN_FIELDS[name] for name, default in own.items() if getattr(self, name) != default}

    def price(self) -> Price | None:
        """Return the model's price. Raise RecipeError if there is a budget and no price is known."""
        price = read_prices(self.prices).get(self.model)
        if price is None and self.budget is not None:
            raise unpriced_model(self.model)
        return price

    def open(
        self, folder: Path, header: Mapping[str, object], *, seed: int = 0, report: Callable[[str], None] = log.warning
    ) -> RequestRunner:
        """Open the journal of `folder` and a client to continue it.

        Args:
            header: The settings on which the journal's replies depend.
            report: Called with each message for the user, such as a parameter that the service refuses.
        """
        key = read_key(os.environ, self.key_file)
        journal = Journal(folder)
        try:
            limiter = RateLimiter(
                self.concurrency,
                self.requests_per_minute,
                self.tokens_per_minute,
                patience_seconds=self.patience_seconds,
            )
            client = Client(self.base_url, key, concurrency=self.concurrency, deadline_seconds=self.deadline_seconds)
            options = RunOptions(
                price=self.price(),
                budget=self.budget,
                allow_drift=self.allow_drift,
                seed=seed,
                own_fields={**dict.fromkeys(self.extra_body, "--extra-body"), **self.options()},
                report=report,
            )
            return RequestRunner(client, journal, limiter, header, options)
        except BaseException:
            journal.close()
            raise


def read_extra_body(text: str | None) -> dict[str, object]:
    """Parse `--extra-body`; empty if it was not given. Raise RecipeError unless it is a JSON object."""
    if text is None:
        return {}
    example = """write for example --extra-body '{"enable_thinking": false}'"""

    def refuse(name: str) -> NoReturn:
        raise RecipeError(f"--extra-body: {name} is not JSON", "write a number, a string, true, false or null")

    try:
        tree = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"--extra-body {text}: is not JSON: {error}", example) from None
    if not isinstance(tree, dict):
        raise RecipeError(f"--extra-body {text}: is not a JSON object", example)
    check_extra_body(tree)
    return tree


def check_extra_body(extra: Mapping[str, object]) -> None:
    """Raise RecipeError for a field that another option sets, or a value that JSON cannot represent."""
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) and name for name in extra):
        raise RecipeError(f"extra_body {extra!r}: is not an object", "give names and values")
    for name in extra:
        if name in OWN_FIELDS:
            raise RecipeError(
                f"--extra-body: `{name}` is set by {OWN_FIELDS[name]}", f"remove `{name}` from --extra-body"
            )
    try:
        json.dumps(dict(extra), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"extra_body cannot be written as JSON: {error}",
            "use only numbers, strings, booleans, null, lists and objects",
        ) from None
