"""Read a benchmark's entry in the list of tasks from cards.json: subject, files, source, licence, size and paper."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from vistune.evaluation.task import Benchmark, Facts


class CardedBenchmark(Benchmark):
    """A benchmark whose entry is in cards.json: `class Mine(CardedBenchmark, card="mine")`."""

    def __init_subclass__(cls, card: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if card:
            cards = json.loads((files("vistune.evaluation.tasks") / "cards.json").read_text(encoding="utf-8"))
            entry = cards[card]
            cls.facts = Facts(**{**entry, "files": tuple(entry["files"])})
