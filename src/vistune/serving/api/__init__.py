"""The HTTP API: its limits, and where a server listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistune.serving.api.run_samples import RunSample

MB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of requests and answers. `vistune.processor.images` limits each single image."""

    slots: int = 16  # answers generated at the same time
    queue: int = 32  # requests that wait for a slot
    max_tokens: int = 4096  # per answer; also the default of requests without a limit
    body_bytes: int = 20 * MB
    bodies_bytes: int = 256 * MB  # all bodies that are being received
    head_bytes: int = 64 * 1024
    images: int = 32  # per request
    pixels: int = 64_000_000  # all images of a request together
    characters: int = 1_000_000  # all texts of a request together
    head_seconds: float = 10.0  # from the first byte of a request to the end of its headers
    body_seconds: float = 30.0
    write_seconds: float = 30.0  # time for which a client may leave its answer unread
    answer_seconds: float = 300.0
    drain_seconds: float = 30.0  # time for running answers after the server was asked to stop
    heartbeat_seconds: float = 15.0  # between comments on a stream that has no text yet

    @property
    def max_active(self) -> int:
        """The number of requests that may run or wait."""
        return self.slots + self.queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a server listens, and who may use it."""

    name: str  # of the model, for clients
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free port
    key_file: Path | None = None  # API keys, one per line
    fetch_from: Sequence[str] = ()  # hosts from which images may be fetched
    limits: Limits = field(default_factory=Limits)
    samples: tuple[RunSample, ...] | None = None  # of the page, for a model that knows the built-in scenes only
