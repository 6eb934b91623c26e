"""Where a remote model answers, at what pace and price: what teachers and judges have in common.

Endpoint + journal folder -> Asker
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.remote.asker import Asker
from vistune.remote.budget import Price, read_prices, unpriced
from vistune.remote.client import Client, read_key
from vistune.remote.journal import Journal
from vistune.remote.pace import Pace


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Which model, where, at what pace and price; `budget` in dollars, keys from `key_file` or the environment."""

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

    def price(self) -> Price | None:
        """What the model costs. Raises RecipeError where a budget is to be kept and no price is known."""
        price = read_prices(self.prices).get(self.model)
        if price is None and self.budget is not None:
            raise unpriced(self.model)
        return price

    def open(self, folder: Path, header: Mapping[str, Any], *, seed: int = 0) -> Asker:
        """The journal of `folder` and a client to go on with it; `header` says what its answers depend on."""
        key = read_key(os.environ, self.key_file)
        journal = Journal(folder)
        try:
            pace = Pace(
                self.concurrency,
                self.requests_per_minute,
                self.tokens_per_minute,
                patience_seconds=self.patience_seconds,
            )
            client = Client(self.base_url, key, concurrency=self.concurrency, deadline_seconds=self.deadline_seconds)
            return Asker(
                client,
                journal,
                pace,
                header=dict(header),
                price=self.price(),
                budget=self.budget,
                allow_drift=self.allow_drift,
                seed=seed,
            )
        except BaseException:
            journal.close()
            raise
