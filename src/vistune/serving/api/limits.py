"""Limits of a server, and where it listens; `docs/how-to/deploy-behind-a-proxy.md` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`slots`: answers at once; `queue`: how many more may wait. A picture's own limits are `processor.images`'s."""

    slots: int = 16
    queue: int = 32
    max_tokens: int = 4096  # of an answer, and what an answer gets that names no number
    body_bytes: int = 20 * MB
    bodies_bytes: int = 256 * MB  # of all that are being read
    head_bytes: int = 64 * 1024
    images: int = 32  # of a request
    pixels: int = 64_000_000  # of a request's pictures together
    characters: int = 1_000_000  # of a request's text
    head_seconds: float = 10.0  # from the first byte of a request to the end of its headers
    body_seconds: float = 30.0
    write_seconds: float = 30.0  # how long a client may leave its answer unread
    answer_seconds: float = 300.0
    drain_seconds: float = 30.0
    heartbeat_seconds: float = 15.0  # between comments on a stream that has nothing to say yet

    @property
    def places(self) -> int:
        return self.slots + self.queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`name`: what clients call the model · `port` 0: one that is free · `fetch_from`: hosts pictures may come from."""

    name: str
    host: str = "127.0.0.1"
    port: int = 8000
    key_file: Path | None = None
    fetch_from: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
