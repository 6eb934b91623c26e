"""`vistune serve`: one process, one model, HTTP on one socket until the process is asked to stop.

After SIGTERM the server is not ready any more and answers new requests with 503. The process ends with exit code 0 when
the running answers are finished.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vistune.errors import RecipeError
from vistune.generation import Assistant
from vistune.serving.api import Limits, Settings
from vistune.serving.api.fetch import Fetcher
from vistune.serving.api.guard import Guard, Refusal, is_loopback, logger, read_keys
from vistune.serving.api.routes import make_app
from vistune.serving.api.service import ModelService


class Protocol(H11Protocol):
    """HTTP/1.1 with limits for slow clients: incomplete headers and unread answers end the connection."""

    limits: ClassVar[Limits] = Limits()
    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.access_log = False  # it would log paths, which may contain text of clients
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._write):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write is not None:
            self._write.cancel()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # closing would wait for a client that does not read
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request with the status that h11 gives: 431 for headers that are too long."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        body = json.dumps(Refusal(400, "not a valid HTTP/1.1 request", code="invalid_http").body).encode()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_head(self) -> None:
        """Start the timer while the headers of a request are incomplete; stop it otherwise."""
        waits = self.conn.their_state is h11.IDLE and (self.cycle is None or bool(self.conn.trailing_data[0]))
        if waits and self._head is None:
            self._head = self.loop.call_later(self.limits.head_seconds, self.transport.abort)
        elif not waits and self._head is not None:
            self._head.cancel()
            self._head = None


def with_limits(limits: Limits) -> type[Protocol]:
    """Return the protocol class with these limits; uvicorn creates an instance for each connection."""
    limited: type[Protocol] = type("LimitedProtocol", (Protocol,), {"limits": limits})
    return limited


class Server(uvicorn.Server):
    """An HTTP server whose socket listens as soon as it is created, so that a port in use is an error at once."""

    def __init__(self, assistant: Assistant, settings: Settings) -> None:
        keys = check(settings)
        self.socket = _listen(settings.host, settings.port)
        fetcher = Fetcher(frozenset(host.lower() for host in settings.fetch_from))
        self.service = ModelService(assistant, name=settings.name, limits=settings.limits, fetcher=fetcher)
        self.service.samples = settings.samples
        self._drain_began: float | None = None
        super().__init__(
            uvicorn.Config(
                Guard(
                    make_app(self.service),
                    keys=keys,
                    metrics=self.service.metrics,
                    refuse_when_full=self.service.refuse_when_full,
                ),
                http=with_limits(settings.limits),
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=settings.limits.head_bytes,
                timeout_graceful_shutdown=5,
            )
        )

    @property
    def address(self) -> str:
        """The URL of the server."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def answer_requests(self) -> None:
        """Answer requests until a signal or `drain`. A second signal does not wait for running answers."""
        self.service.engine.start()
        try:
            self.run(sockets=[self.socket])
        finally:
            self.service.close()

    def drain(self) -> None:
        """Refuse new requests and stop after the running answers; called again, cancel them and stop now."""
        if self._drain_began is None:
            self._drain_began = time.monotonic()
            self.service.is_draining = True
        else:
            self.service.cancel_all()
            self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Replace uvicorn's signal handler, which would stop listening at once and end by the signal."""
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        if self._drain_began is not None:
            seconds = time.monotonic() - self._drain_began
            if seconds > self.service.limits.drain_seconds:
                self.service.cancel_all()
            if not self.service.active or seconds > self.service.limits.drain_seconds + 2:
                self.should_exit = True
        return await super().on_tick(counter)


def serve(assistant: Assistant, settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Answer requests until the process is asked to stop; call `announce` with the address when the server listens."""
    if not logger.hasHandlers():  # the command line prints the log itself
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    server = Server(assistant, settings)
    announce(server.address)
    server.answer_requests()


def check(settings: Settings) -> tuple[bytes, ...]:
    """Return the hashes of the API keys; raise RecipeError if other machines could use the model without a key."""
    if settings.key_file is not None:
        return read_keys(settings.key_file)
    if not is_loopback(settings.host):
        raise RecipeError(
            f"--host {settings.host}: everyone who reaches this address could use the model",
            "add --api-key-file FILE, or listen on 127.0.0.1",
        )
    return ()


def _listen(host: str, port: int) -> socket.socket:
    """Open the listening socket."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        raise RecipeError(f"--host {host} --port {port}: {error.strerror}", "choose another port or host") from None
    return listening


def use_one_arena() -> None:
    """Have glibc serve all threads from one arena, since `return_freed_memory` only trims the ends of the others.

    Must be called before threads start.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX in malloc.h
