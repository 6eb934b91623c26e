"""What a journal says so far, told as one: replies, refusals, batches, and the money.

records of the journal -> Ledger · reply -> its price and its record
"""

from __future__ import annotations

import difflib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vistune.files import write_jsonl
from vistune.llm_client.budget import Price
from vistune.llm_client.client import Completion, Outcome
from vistune.llm_client.journal import Journal


@dataclass
class Ledger:
    """The state of the journal: the position of each reply, the questions refused in this run, and the money spent.

    `dialects`: the form that each endpoint accepts, learned in the last run.
    """

    replies: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    sends: Counter[str] = field(default_factory=Counter)
    open_intents: dict[tuple[str, int], float] = field(default_factory=dict)
    header: Mapping[str, Any] | None = None
    run: str = ""  # this journal's own name, random: by it a batch is found again at the service
    model: str = ""
    dollars: float = 0.0
    maybe_dollars: float = 0.0
    maybe_billed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    chunks: dict[str, dict[str, Any]] = field(default_factory=dict)
    dialects: dict[str, Any] = field(default_factory=dict)

    def take(self, offset: int, record: Mapping[str, Any]) -> None:
        """One record more, in the order of the journal; a key's first reply is its answer."""
        kind, key = record.get("t"), str(record.get("key", ""))
        if kind == "header":
            self.header = record["header"]
            self.run = self.run or record["run"]
        elif kind == "intent":
            self.open_intents[key, record["send"]] = record["worst"]
            self.sends[key] = max(self.sends[key], record["send"])
        elif kind == "reply":
            self.open_intents.pop((key, record["send"]), None)
            self.replies.setdefault(key, offset)
            self.model = self.model or record["model"]
            self.dollars += record["dollars"]
            self.prompt_tokens += record["usage"][0] or 0
            self.completion_tokens += record["usage"][1] or 0
            self.outcomes["reply"] += 1
        elif kind == "chunk":
            self.chunks[record["chunk"]] = {**self.chunks.get(record["chunk"], {}), **record}
        elif kind == "dialect":
            self.dialects[str(record["endpoint"])] = record["dialect"]
        elif kind == "failure":
            worst = self.open_intents.pop((key, record["send"]), 0.0)
            self.outcomes[record["kind"]] += 1
            if record["kind"] == "refused":
                self.refused[key] = record["reason"]
            elif record["kind"] == "unknown":
                self.maybe_dollars += worst
                self.maybe_billed += 1

    @property
    def holds_answers(self) -> bool:
        """Whether the journal has a paid answer or a batch in progress."""
        return bool(self.replies) or any(chunk["step"] != "finished" for chunk in self.chunks.values())

    def forget_the_killed(self) -> None:
        """Intents that a killed run left without an outcome may have been billed: their worst case counts as spent."""
        self.maybe_dollars += sum(self.open_intents.values())
        self.maybe_billed += len(self.open_intents)
        self.open_intents.clear()


def read_ledger(journal: Journal) -> Ledger:
    """The journal's records told as one; lines that are none are named in `journal.damaged.jsonl`, asked again."""
    ledger = Ledger()
    for offset, record in journal.records():
        ledger.take(offset, record)
    ledger.forget_the_killed()
    ledger.refused.clear()  # send refusals of earlier runs again: their cause may be fixed
    if journal.bad:
        ledger.outcomes["damaged_line"] = len(journal.bad)
        rows = [{"line": bad.number, "why": bad.why} for bad in journal.bad]
        write_jsonl(journal.path.with_name("journal.damaged.jsonl"), rows)
    return ledger


def drift(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed between two headers, as a unified diff; empty where nothing did."""
    old, new = (json.dumps(item, ensure_ascii=False, indent=1, sort_keys=True).split("\n") for item in (before, now))
    return "\n".join(difflib.unified_diff(old, new, "asked before", "asked now", lineterm="", n=1))


def dollars_of(completion: Completion, price: Price | None, worst: float, *, batch: bool = False) -> float:
    """What a reply cost, by the tokens that it names; where price or tokens are not known, the worst case."""
    if price is None or completion.prompt_tokens is None or completion.completion_tokens is None:
        return worst
    return price.dollars(completion.prompt_tokens, completion.completion_tokens, batch=batch)


def reply_record(key: str, send: int, outcome: Outcome, completion: Completion, dollars: float) -> dict[str, Any]:
    """A reply as it is journaled, its body as it came."""
    return {
        "t": "reply",
        "key": key,
        "send": send,
        "model": completion.model,
        "usage": [completion.prompt_tokens, completion.completion_tokens],
        "dollars": dollars,
        "seconds": round(outcome.seconds, 3),
        "at": time.time(),
        "reason": outcome.reason,
        "body": outcome.body,
    }
