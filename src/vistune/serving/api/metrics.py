"""What Prometheus reads of a server; a registry of its own, so that two servers in a process do not mix."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    """`running` and `waiting` are asked when they are read."""

    def __init__(self, *, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("vistune_requests", "Requests answered", ["route", "code"], registry=self.registry)
        self.rejects = Counter("vistune_rejects", "Requests refused", ["reason"], registry=self.registry)
        self.prompt_tokens = Counter("vistune_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.reused_tokens = Counter(
            "vistune_reused_prompt_tokens", "Tokens of prompts that had been read before", registry=self.registry
        )
        self.answer_tokens = Counter("vistune_answer_tokens", "Tokens said", registry=self.registry)
        self.first_piece = Histogram(
            "vistune_first_piece_seconds", "From a request's place to its first text", buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.answer = Histogram(
            "vistune_answer_seconds", "From a request's place to its end", buckets=SECONDS, registry=self.registry
        )
        Gauge("vistune_running_answers", "Answers in a slot", registry=self.registry).set_function(running)
        Gauge("vistune_waiting_answers", "Answers that wait for one", registry=self.registry).set_function(waiting)

    def page(self) -> bytes:
        return generate_latest(self.registry)
