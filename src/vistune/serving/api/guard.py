"""What every request passes before a route sees it: host, origin, key, room; and what every answer carries.

Logged are an id, the method, the route's own name, the status and the seconds: nothing that a client wrote.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vistune.errors import RecipeError
from vistune.files import read_text
from vistune.serving.api.metrics import Metrics
from vistune.serving.api.refusal import Refusal
from vistune.serving.api.static import PATHS

logger = logging.getLogger("vistune.serving")

CHAT, LOOKS = ASKING = "/v1/chat/completions", "/v1/looks"  # paths that take a place
OPEN = PATHS | {"/health"}  # paths that need no key: a browser has none before the page asks for it
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


def read_keys(path: Path) -> tuple[bytes, ...]:
    """The SHA-256 of each key of a file: one a line, empty lines and `#` left out. Raises RecipeError."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or any(len(key) < 8 or not key.isascii() or " " in key for key in keys):
        raise RecipeError(f"{path}: holds no keys as they are wanted", "one a line, 8 ASCII characters or more each")
    return tuple(digest(key) for key in keys)


def digest(key: str) -> bytes:
    """Of one length, whatever the key's: comparing tells nothing of it."""
    return hashlib.sha256(key.encode()).digest()


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI around ASGI. Without keys only loopback names are answered to, so that no page on the web reaches us.

    `refuse_when_full` raises Refusal where one more request that takes a place has none. It is called here, since
    nothing is cheaper than what never reaches a route: in a storm a refusal costs two thirds of the time so.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[bytes], metrics: Metrics, refuse_when_full: Callable[[], None]
    ) -> None:
        self.app = app
        self.keys = keys
        self.metrics = metrics
        self.refuse_when_full = refuse_when_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began, status, request_id = time.monotonic(), 0, uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in {"X-Request-Id": request_id, **HEADERS}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, send_marked)
        except Refusal as refusal:
            self.metrics.rejects.labels(refusal.code).inc()
            await refusal.response()(scope, receive, send_marked)
        except Exception as error:
            log_error(request_id, error)
        finally:
            route = getattr(scope.get("route"), "path", scope["path"] if scope["path"] in ASKING else "other")
            self.metrics.requests.labels(route, str(status or 499)).inc()
            method = scope["method"] if scope["method"] in METHODS else "other"
            seconds = time.monotonic() - began
            logger.info("%s %s %s %d %.3f s", request_id, method, route, status or 499, seconds)

    def _check(self, scope: Scope) -> None:
        """Raises Refusal. The path is the one that routes are found by, not one put together from headers."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        found = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or not (self.keys or is_loopback(found[1].lower())):
            raise Refusal(400, "the Host header names no host of this server", code="bad_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != hosts[0]:
            raise Refusal(403, "requests from other sites' pages are not answered", code="bad_origin")
        if self.keys and scope["path"] not in OPEN and not self._knows(headers.get("authorization", "")):
            raise Refusal(
                401,
                "give a key: Authorization: Bearer …",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if scope["path"] in ASKING and scope["method"] == "POST":
            self.refuse_when_full()

    def _knows(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        given = digest(key.strip())
        # Every key is compared, so that time does not tell which one was near.
        same = [hmac.compare_digest(given, known) for known in self.keys]
        return scheme.lower() == "bearer" and any(same)


def server_error(request_id: str) -> Refusal:
    return Refusal(500, f"the server failed; its log has more under {request_id}", code="internal_error")


def log_error(request_id: str, error: BaseException) -> None:
    """Where it went wrong; not the error's own words, which may repeat what a client sent."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed: %s at\n%s", request_id, type(error).__name__, frames)
