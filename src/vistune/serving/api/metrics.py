"""The server's counters and histograms, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)  # limits of the buckets of a histogram


class ServerMetrics:
    """Counters and histograms in a registry of their own, so that two servers in one process do not mix.

    `running` and `waiting` are called whenever the page is read.
    """

    def __init__(self, *, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("vistune_requests", "Requests answered", ["route", "code"], registry=self.registry)
        self.rejects = Counter("vistune_rejects", "Requests refused", ["reason"], registry=self.registry)
        self.prompt_tokens = Counter("vistune_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.reused_tokens = Counter(
            "vistune_reused_prompt_tokens", "Tokens of prompts that came from the prefix cache", registry=self.registry
        )
        self.answer_tokens = Counter("vistune_answer_tokens", "Tokens of answers", registry=self.registry)
        self.first_piece = Histogram(
            "vistune_first_piece_seconds", "From the admission of a request to its first text", buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.answer = Histogram(
            "vistune_answer_seconds",
            "From the admission of a request to its end",
            buckets=SECONDS,
            registry=self.registry,
        )
        Gauge("vistune_running_answers", "Answers that are being generated", registry=self.registry).set_function(
            running
        )
        Gauge("vistune_waiting_answers", "Requests that wait for a slot", registry=self.registry).set_function(waiting)

    def page(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
