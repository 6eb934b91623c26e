"""Send one request to an OpenAI-compatible endpoint and classify its answer.

body -> POST -> Outcome: a reply, or a kind of failure

From the kind, the caller knows whether to wait, send again, skip this request, or stop the run. Callers handle retries,
rate limits, budget and journal. This module speaks the protocol, with limits on time and bytes.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from vistune.errors import RecipeError
from vistune.files import read_text
from vistune.llm_client.refusals import ServiceError, Subject, error_in_reply, read_error, subject_of
from vistune.llm_client.replies import assemble, is_stream

if TYPE_CHECKING:
    import httpx2

LARGEST_BODY = 4 << 20  # bytes; a chat completion is a few thousand
LARGEST_STREAM = 16 << 20  # bytes; a streamed token takes a few hundred
Kind = Literal["reply", "limited", "failed", "unknown", "refused", "adapted", "stop_quota", "stop_recipe"]
"""Kinds of outcome.

- reply: status 200, billed
- limited: status 429
- failed: the service failed, not billed
- unknown: sent, but no answer came; may be billed
- refused: only this request, which is not sent again in this run
- adapted: refused in a form that is not used again
- stop_quota: the quota is spent
- stop_recipe: key, model or address is wrong
"""


class RequestOptions(TypedDict, total=False):
    """The body of a request, in one of httpx's forms, and further headers."""

    content: bytes
    json: Mapping[str, object]
    data: Mapping[str, str]
    files: Mapping[str, tuple[str, bytes, str]]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one request.

    Attributes:
        body: The response body, cut at LARGEST_BODY; a stream is joined into one completion.
        reason: The service's message in one line.
        error: The service's message, parsed.
        about: The subject of a refusal, such as the key or the model.
        seconds: Wall time.
    """

    kind: Kind
    status: int
    body: str
    reason: str = ""
    retry_after: float | None = None
    seconds: float = 0.0
    error: ServiceError | None = None
    about: Subject = ""


@dataclass
class Connection:
    """One HTTP connection and the number of its requests in flight.

    Each connection has a client of its own, because a pool checks all its connections for every request.
    """

    http: httpx2.AsyncClient
    in_flight: int = 0


class Client:
    """Connections to one endpoint. Redirects are not followed, so the key is sent to this endpoint only."""

    def __init__(self, base_url: str, key: str | None, *, concurrency: int, deadline_seconds: float = 120.0) -> None:
        import httpx2

        if not base_url.startswith(("http://", "https://")):
            raise RecipeError(f"--base-url {base_url!r} is not an http address", "write for example https://HOST/v1")
        headers = {"Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self.key = key
        self.deadline_seconds = deadline_seconds
        self.base_url = base_url.rstrip("/") + "/"
        self.chat = httpx2.URL(self.base_url + "chat/completions")  # parsed once
        certificates = httpx2.create_ssl_context()
        self.connections = [
            Connection(
                httpx2.AsyncClient(
                    base_url=self.base_url,
                    headers=headers,
                    timeout=httpx2.Timeout(deadline_seconds, connect=min(10.0, deadline_seconds)),
                    limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
                    verify=certificates,
                    follow_redirects=False,
                    trust_env=True,
                )
            )
            for _ in range(concurrency)
        ]

    async def complete(self, body: bytes, *, key: str = "") -> Outcome:
        """POST a chat completion within the deadline. Errors of the network and the service become an Outcome."""
        began = time.monotonic()
        headers = {"Content-Type": "application/json", "X-Request-Key": key}
        outcome = await self.request("POST", self.chat, chat=True, content=body, headers=headers)
        return replace(outcome, seconds=time.monotonic() - began)

    async def request(
        self, method: str, path: str | httpx2.URL, *, chat: bool = False, **options: Unpack[RequestOptions]
    ) -> Outcome:
        """Send one request and classify its answer; with `chat`, a streamed answer is joined."""
        import httpx2

        try:
            async with asyncio.timeout(self.deadline_seconds):
                async with self._stream(method, path, **options) as response:
                    raw, whole = await _read_limited(response)
                    status, headers = response.status_code, response.headers
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            return Outcome("failed", 0, "", f"connect: {type(error).__name__}: {str(error)[:200]}")
        except (TimeoutError, httpx2.HTTPError, zlib.error) as error:
            return Outcome("unknown", 0, "", f"{type(error).__name__}: {str(error)[:200]}")
        text = self.without_key(raw.decode("utf-8", "backslashreplace"))
        if status == 200 and not whole:
            return Outcome("reply", status, text[: 1 << 16], "body_too_large")
        if chat and status == 200 and is_stream(headers.get("content-type", ""), text):
            text, ended = assemble(text)
            if not ended:
                return Outcome("unknown", 0, "", "the stream broke off, or one of its chunks is unreadable")
        return self.classified(status, headers, text)

    def classified(self, status: int, headers: Mapping[str, str], body: str) -> Outcome:
        """Classify an answer. The key is removed from the service's message, even if the key is short."""
        outcome = classify(status, headers, body)
        if outcome.error is None or self.key is None or len(self.key) < 4:
            return outcome
        message = outcome.error.message.replace(self.key, "[key]")
        return replace(
            outcome,
            body=outcome.body.replace(self.key, "[key]"),
            reason=outcome.reason.replace(self.key, "[key]"),
            error=replace(outcome.error, message=message),
        )

    def without_key(self, text: str) -> str:
        """Remove the key from a response, because some services quote it and responses are stored and shown."""
        is_long = self.key is not None and len(self.key) >= 16  # a local server's "EMPTY" may be a word of an answer
        return text.replace(self.key or "", "[key]") if is_long else text

    async def download(self, path: str, to: Path) -> Outcome:
        """Download a file of any size; `to` is complete if the outcome is a reply."""
        import httpx2

        try:
            async with self._stream("GET", path) as response:
                if response.status_code != 200:
                    raw, _ = await _read_limited(response)
                    text = self.without_key(raw.decode("utf-8", "backslashreplace"))
                    return self.classified(response.status_code, response.headers, text)
                with open(to, "wb") as file:
                    async for chunk in response.aiter_bytes(1 << 16):
                        file.write(chunk)
        except (TimeoutError, httpx2.HTTPError) as error:
            return Outcome("failed", 0, "", f"{type(error).__name__}: {str(error)[:200]}")
        return Outcome("reply", 200, "")

    @asynccontextmanager
    async def _stream(
        self, method: str, path: str | httpx2.URL, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[httpx2.Response]:
        connection = min(self.connections, key=lambda each: each.in_flight)
        connection.in_flight += 1
        try:
            async with connection.http.stream(method, path, **options) as response:
                yield response
        finally:
            connection.in_flight -= 1

    async def close(self) -> None:
        for connection in self.connections:
            await connection.http.aclose()


async def _read_limited(response: httpx2.Response) -> tuple[bytes, bool]:
    """Return the body and whether it is complete.

    gzip is unpacked here, so that a small response cannot grow beyond the limit.
    """
    unpack = zlib.decompressobj(47) if response.headers.get("content-encoding", "") in ("gzip", "deflate") else None
    most = LARGEST_STREAM if "text/event-stream" in response.headers.get("content-type", "") else LARGEST_BODY
    data = bytearray()
    async for chunk in response.aiter_raw(1 << 16):
        data += unpack.decompress(chunk, most + 1 - len(data)) if unpack else chunk
        if len(data) > most:
            return bytes(data[:most]), False
    return bytes(data), True


def classify(status: int, headers: Mapping[str, str], body: str) -> Outcome:
    """Classify an HTTP answer by its meaning for the request and for the run."""
    if status == 200:
        inside = error_in_reply(body)
        if inside is None:
            return Outcome("reply", status, body)
        error, status = inside, inside.status or _status_of(inside)
    else:
        error = read_error(body)
    reason = error.format(status)
    about = subject_of(status, error)
    wait = retry_after(headers.get("retry-after"), time.time())

    def outcome(kind: Kind, seconds: float | None = None) -> Outcome:
        return Outcome(kind, status, body, reason, seconds, error=error, about=about)

    if about == "quota":
        return outcome("stop_quota")
    if status == 429:
        return outcome("limited", wait)
    if status in (408, 409, 425) or status >= 500:
        return outcome("failed", wait)
    if status == 403 and about == "content":  # moderation refuses only this request
        return outcome("refused")
    if status in (401, 403, 404, 405) or 300 <= status < 400 or about in ("key", "model"):
        return outcome("stop_recipe")
    return outcome("refused")


def _status_of(error: ServiceError) -> int:
    """Return the status that fits an error sent with status 200, by its code."""
    code = error.code.lower()
    if "rate_limit" in code or "too_many" in code or "overloaded" in code or "resource_exhausted" in code:
        return 429
    if "server_error" in code or "internal" in code or "unavailable" in code or "timeout" in code:
        return 500
    return 400


def retry_after(value: str | None, now: float) -> float | None:
    """Parse a Retry-After header, a number or an HTTP date, into seconds; None if it is absent or unreadable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, seconds), 86_400.0) if math.isfinite(seconds) else None


def read_key(environment: Mapping[str, str], file: Path | None) -> str | None:
    """Read the key from a file, else from OPENAI_API_KEY; None if there is none."""
    if file is not None:
        key = read_text(file).strip()
        if not key or any(char.isspace() for char in key):
            raise RecipeError(f"{file}: does not contain a key", "write one line with the key and nothing else")
        return key
    return environment.get("OPENAI_API_KEY", "").strip() or None
