"""Refuse requests: errors in OpenAI's format, and the checks of every request before it reaches a route.

The guard also adds the security headers to every response, and logs an id, the method, the route, the status and the
seconds. The log contains no text from clients.

An error is {"error": {message, type, param, code}}. Its message never repeats a client's text, except names that
vistune knows, and contains no path, address or stack trace.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vistune.errors import DataError, RecipeError, VistuneError
from vistune.files import read_text
from vistune.generation.fields import FieldError
from vistune.serving.api.static import PATHS

if TYPE_CHECKING:
    from vistune.serving.api.metrics import ServerMetrics

logger = logging.getLogger("vistune.serving")
PAGE_FILES = "/page/"  # scripts, styles and sample images of the page: logged only in debug mode

CHAT, ATTENTION = "/v1/chat/completions", "/v1/looks"
COMPLETIONS, RESPONSES = "/v1/completions", "/v1/responses"
MODEL_PATHS = (CHAT, ATTENTION, COMPLETIONS, RESPONSES)  # paths whose requests use the model
OPEN_PATHS = PATHS | {"/health"}  # without a key: a browser has none before the page asks for it
LONGEST_MESSAGE = 400  # characters
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


class Refusal(Exception):
    """An HTTP error (status 400 or more) with its message."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers
        kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message[:LONGEST_MESSAGE], "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def field_refusal(error: FieldError) -> Refusal:
    """Return the error for a field of a request."""
    code = "unsupported_parameter" if error.is_unsupported else "invalid_value"
    return Refusal(400, _with_hint(error), code=code, param=error.path or None)


def image_refusal(error: DataError, param: str) -> Refusal:
    """Return the error for an image that cannot be read."""
    return Refusal(400, _with_hint(error), code="invalid_image", param=param)


def conversation_refusal(error: VistuneError, path: str = "messages") -> Refusal:
    """Return the error for a conversation, the field at `path`, that the template cannot render."""
    return (
        field_refusal(error)
        if isinstance(error, FieldError)
        else field_refusal(FieldError(path, error.message, error.hint))
    )


def _with_hint(error: VistuneError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Return the SHA-256 of each key in a file: one key per line, without empty lines and comments (`#`).

    Raises RecipeError if there is no key, or if one is short or not ASCII.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or any(len(key) < 8 or not key.isascii() or " " in key for key in keys):
        raise RecipeError(
            f"{path}: not a file of API keys",
            "write one key per line, each of at least 8 ASCII characters without spaces",
        )
    return tuple(digest(key) for key in keys)


def digest(key: str) -> bytes:
    """Return a digest of fixed length, so that the time of a comparison does not depend on the key's length."""
    return hashlib.sha256(key.encode()).digest()


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware. Without keys it accepts only loopback host names, so that no web page can reach the server.

    `refuse_when_full` raises Refusal if the server is at its limit of active requests. It is called before
    routing, since that saves a third of the time of each refusal under overload.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[bytes], metrics: ServerMetrics, refuse_when_full: Callable[[], None]
    ) -> None:
        self.app = app
        self.keys = keys
        self.metrics = metrics
        self.refuse_when_full = refuse_when_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        start, status, request_id = time.monotonic(), 0, uuid.uuid4().hex
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
            route = getattr(scope.get("route"), "path", scope["path"] if scope["path"] in MODEL_PATHS else "other")
            self.metrics.requests.labels(route, str(status or 499)).inc()
            method = scope["method"] if scope["method"] in METHODS else "other"
            seconds = time.monotonic() - start
            is_asset = str(route).startswith(PAGE_FILES) and (status or 499) < 400
            level = logging.DEBUG if is_asset else logging.INFO
            logger.log(level, "%s %s %s %d %.3f s", request_id, method, route, status or 499, seconds)

    def _check(self, scope: Scope) -> None:
        """Raise Refusal for a request that may not pass. Uses the path that routing uses, not one from headers."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        match = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None or not (self.keys or is_loopback(match[1].lower())):
            raise Refusal(400, "the Host header is not a name of this server", code="bad_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != hosts[0]:
            raise Refusal(403, "requests from pages of other sites are not allowed", code="bad_origin")
        if self.keys and scope["path"] not in OPEN_PATHS and not self._knows(headers.get("authorization", "")):
            raise Refusal(
                401,
                "an API key is needed: send the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if scope["path"] in MODEL_PATHS and scope["method"] == "POST":
            self.refuse_when_full()

    def _knows(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        given = digest(key.strip())
        # Compares with every key, so that the time does not reveal which one was close.
        same = [hmac.compare_digest(given, known) for known in self.keys]
        return scheme.lower() == "bearer" and any(same)


def server_error(request_id: str) -> Refusal:
    """Return the error for an exception in the server."""
    return Refusal(500, f"the server failed; see its log, request {request_id}", code="internal_error")


def log_error(request_id: str, error: BaseException) -> None:
    """Log the stack of an error, but not its message, which may repeat text of a client."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed: %s at\n%s", request_id, type(error).__name__, frames)
