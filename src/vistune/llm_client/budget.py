"""Money: prices from a table that the user can edit, and a budget that is never exceeded.

usage + prices -> dollars · a request's worst case is reserved before it is sent and settled when its reply is there
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vistune.errors import BudgetError, RecipeError
from vistune.files import read_text
from vistune.recipe.strict_yaml import parse_yaml
from vistune.registry import guess

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens; `image_tokens` is the most that one picture costs."""

    input: float
    output: float
    batch_factor: float = 0.5
    image_tokens: int = 0

    def dollars(self, prompt_tokens: int, completion_tokens: int, *, batch: bool = False) -> float:
        whole = (prompt_tokens * self.input + completion_tokens * self.output) / MILLION
        return whole * self.batch_factor if batch else whole


def read_prices(path: Path | None = None) -> dict[str, Price]:
    """The shipped table, or the user's. Raises RecipeError naming the model and field that cannot be read."""
    place = str(path or "prices.yaml")
    text = (
        read_text(path) if path else (resources.files("vistune.llm_client") / "prices.yaml").read_text(encoding="utf-8")
    )
    tree = parse_yaml(text, place)
    models = tree.get("models") if isinstance(tree, dict) else None
    if not isinstance(models, dict):
        raise RecipeError(f"{place}: has no `models`", "write models: {NAME: {input: 2.5, output: 10.0}}")
    return {str(name): _price(entry, f"{place}: models.{name}") for name, entry in models.items()}


def _price(entry: Any, place: str) -> Price:
    known = ("input", "output", "batch_factor", "image_tokens")
    if not isinstance(entry, Mapping) or not {"input", "output"} <= set(entry):
        raise RecipeError(f"{place}: needs input and output", "both in dollars per million tokens")
    for key, value in entry.items():
        if key not in known:
            raise RecipeError(f"{place}.{key}: unknown", guess(str(key), known))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MILLION:
            raise RecipeError(f"{place}.{key}: {value!r} is no price", "write a number of dollars per million tokens")
    return Price(**entry)


def unpriced(model: str) -> RecipeError:
    """The error of a budget for a model of which no price is known."""
    return RecipeError(f"--budget: no price is known for the model {model!r}", how_to_price(model))


def how_to_price(model: str) -> str:
    return (
        f"write 'models: {{{model}: {{input: 2.5, output: 10}}}}', dollars per million tokens, to a file and give it "
        "with --prices"
    )


class Budget:
    """Dollars: `spent` for certain, `reserved` for what is under way; their sum never exceeds `limit`."""

    def __init__(self, limit: float | None, *, spent: float = 0.0) -> None:
        self.limit = limit
        self.spent = spent
        self.reserved = 0.0
        self.under_way = 0
        self.changed = asyncio.Condition()

    async def reserve(self, worst: float) -> None:
        """Wait until `worst` fits. Raises BudgetError when it does not fit even with nothing under way."""
        async with self.changed:
            while self.limit is not None and self.spent + self.reserved + worst > self.limit:
                if self.under_way == 0:
                    raise BudgetError(
                        f"the budget of ${self.limit:g} is spent: ${self.spent:.4f} so far, and the next request "
                        f"may cost ${worst:.4f}",
                        "every answer is kept; run the same command with a larger --budget",
                    )
                await self.changed.wait()
            self.reserved += worst
            self.under_way += 1

    async def settle(self, worst: float, actual: float) -> None:
        """Turn a reservation into what was really paid."""
        async with self.changed:
            self.reserved -= worst
            self.spent += actual
            self.under_way -= 1
            if self.under_way == 0:
                self.reserved = 0.0  # floating point leaves dust
            self.changed.notify_all()
