"""`vistune serve`: one process, one model, HTTP on one socket until it is told to stop.

SIGTERM: not ready any more, new requests 503, those under way end; then the process does, with exit code 0.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from vistune.errors import RecipeError
from vistune.generation import Assistant
from vistune.serving.api.fetch import Fetcher
from vistune.serving.api.guard import Guard, is_loopback, logger, read_keys
from vistune.serving.api.limits import Settings
from vistune.serving.api.protocol import with_limits
from vistune.serving.api.routes import make_app
from vistune.serving.api.service import Service


class Server(uvicorn.Server):
    """`socket` listens once this is made: a port in use is said before anything is served."""

    def __init__(self, assistant: Assistant, settings: Settings) -> None:
        keys = check(settings)
        self.socket = _listen(settings.host, settings.port)
        fetcher = Fetcher(frozenset(host.lower() for host in settings.fetch_from))
        self.service = Service(assistant, name=settings.name, limits=settings.limits, fetcher=fetcher)
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
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def answer_requests(self) -> None:
        """Until a signal or `drain`; a second signal does not wait for the answers under way."""
        self.service.engine.start()
        try:
            self.run(sockets=[self.socket])
        finally:
            self.service.close()

    def drain(self) -> None:
        if self._drain_began is None:
            self._drain_began = time.monotonic()
            self.service.is_draining = True
        else:
            self.service.cancel_all()
            self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's handler of signals, which would stop listening at once and end by the signal."""
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        if self._drain_began is not None:
            seconds = time.monotonic() - self._drain_began
            if seconds > self.service.limits.drain_seconds:
                self.service.cancel_all()
            if not self.service.taken or seconds > self.service.limits.drain_seconds + 2:
                self.should_exit = True
        return await super().on_tick(counter)


def serve(assistant: Assistant, settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Answer requests until the process is told to stop; `announce` is given the address once it is listened at."""
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    server = Server(assistant, settings)
    announce(server.address)
    server.answer_requests()


def check(settings: Settings) -> tuple[bytes, ...]:
    """The keys' hashes. Raises RecipeError where a stranger could ask without one."""
    if settings.key_file is not None:
        return read_keys(settings.key_file)
    if not is_loopback(settings.host):
        raise RecipeError(
            f"--host {settings.host}: whoever reaches this machine could use the model",
            "add --api-key-file FILE, or listen on 127.0.0.1",
        )
    return ()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        raise RecipeError(f"--host {host} --port {port}: {error.strerror}", "choose another port or host") from None
    return listening
