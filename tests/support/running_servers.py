"""A server in a thread, and connections that say exactly what they are given."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image
from reference import Bench

from vistune.generation import Assistant
from vistune.serving.api import Settings
from vistune.serving.api.server import Server

PATIENCE = 60.0  # seconds; only a hang takes as long
CHAT = "/v1/chat/completions"


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def png(*, side: int = 24, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def question(text: str = "What colour is it?", *images: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def body(**changes: Any) -> dict[str, Any]:
    given = {"model": "tiny", "messages": question(), "max_tokens": 4, "temperature": 0, **changes}
    return {name: value for name, value in given.items() if value is not ...}


@dataclass
class Running:
    """A server that runs in a thread."""

    server: Server
    http: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx2.Client(base_url=self.server.address, timeout=PATIENCE, trust_env=False)

    @property
    def service(self) -> Any:
        return self.server.service

    def client(self, key: str = "unused") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.server.address}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

    def ask(self, **changes: Any) -> httpx2.Response:
        return self.http.post(CHAT, json=body(**changes))

    def connect(self) -> socket.socket:
        return socket.create_connection(self.server.socket.getsockname()[:2], timeout=PATIENCE)

    def raw(self, said: bytes) -> bytes:
        """Everything that comes back on a connection of its own."""
        with self.connect() as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was all sent: the answer is there
                connection.sendall(said)
            return read_all(connection)

    def idle(self) -> bool:
        return not self.service.active and not self.service.engine.running and not self.service.engine.waiting


def read_all(connection: socket.socket) -> bytes:
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def post(given: Any, *headers: str, host: str = "localhost") -> bytes:
    """A chat request as bytes; the connection ends with its answer."""
    data = given if isinstance(given, bytes) else json.dumps(given).encode()
    lines = [f"POST {CHAT} HTTP/1.1", f"Host: {host}", "Connection: close", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


@contextmanager
def running(bench: Bench, **settings: Any) -> Iterator[Running]:
    server = Server(Assistant(bench.model, bench.processor), Settings(**{"name": "tiny", "port": 0, **settings}))
    thread = threading.Thread(target=server.answer_requests)
    thread.start()
    until(lambda: server.started)
    try:
        yield Running(server)
    finally:
        server.drain()
        server.drain()
        thread.join(PATIENCE)
        assert not thread.is_alive()


class Gate:
    """Holds the engine before each step until it is let go, so that a test says when time passes."""

    def __init__(self, found: Running) -> None:
        self.steps = threading.Semaphore(0)
        self.open = threading.Event()
        self.batch = found.service.engine.batch
        self.step = self.batch.step
        self.batch.step = self._step

    def _step(self) -> None:
        while not self.open.is_set() and not self.steps.acquire(timeout=0.01):
            pass
        self.step()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.open.set()
        self.batch.step = self.step


@contextmanager
def saying(found: Running, text: str) -> Iterator[None]:
    """The model says this, whatever it is asked: its last layer's choice is replaced, all else is as it is."""
    tokenizer, batch = found.service.processor.tokenizer, found.service.engine.batch
    tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_next_tokens", lambda hidden, sequences: [tokens[len(s.tokens)] for s in sequences])
        yield
