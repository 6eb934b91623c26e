"""One request to an OpenAI-compatible endpoint, and what its answer means.

body -> POST -> Outcome: a reply, or a failure that says who must act: wait, ask again, set this one aside, or stop
Retries, pace, budget and journal are the caller's; here is the protocol, with hard limits on time and bytes.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vistune.errors import RecipeError
from vistune.files import read_text
from vistune.llm_client.refusals import ServiceError, Subject, error_in_reply, read_error, subject_of
from vistune.llm_client.streams import assemble, is_stream
from vistune.llm_client.thoughts import without_thoughts

if TYPE_CHECKING:
    import httpx2

LARGEST_BODY = 4 << 20  # bytes; a chat completion is a few thousand
LARGEST_STREAM = 16 << 20  # bytes; a streamed token takes a few hundred
Kind = Literal["reply", "limited", "failed", "unknown", "refused", "adapted", "stop_quota", "stop_recipe"]
"""Kinds of outcome.

- reply: status 200, billed
- limited: status 429
- failed: the service's fault, not billed
- unknown: sent without an answer, may be billed
- refused: only this request, which is not sent again in this run
- adapted: refused in a form that is not used again
- stop_quota: the quota is spent
- stop_recipe: key, model or address is wrong
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one request.

    `body`: the response body, cut at LARGEST_BODY; a stream is joined into one completion. `reason`: the service's
    message in one line; `error`: the same, parsed. `about`: the subject of a refusal. `seconds`: wall time.
    """

    kind: Kind
    status: int
    body: str
    reason: str = ""
    retry_after: float | None = None
    seconds: float = 0.0
    error: ServiceError | None = None
    about: Subject = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """The parsed body of a reply. Without a usable answer, `text` is None, `fault` is a code, `detail` the reason."""

    text: str | None
    fault: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    detail: str = ""


@dataclass
class Lane:
    """One connection, and how many requests are on it: a pool of many looks at each of them twice a request."""

    http: httpx2.AsyncClient
    under_way: int = 0


class Client:
    """Connections to one endpoint. The key is sent to that endpoint alone: redirects are not followed."""

    def __init__(self, base_url: str, key: str | None, *, concurrency: int, deadline_seconds: float = 120.0) -> None:
        import httpx2

        if not base_url.startswith(("http://", "https://")):
            raise RecipeError(f"--base-url {base_url!r} is no http address", "write for example https://HOST/v1")
        headers = {"Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self.key = key
        self.deadline_seconds = deadline_seconds
        self.base_url = base_url.rstrip("/") + "/"
        self.chat = httpx2.URL(self.base_url + "chat/completions")  # taken apart once, not for each request
        certificates = httpx2.create_ssl_context()
        self.lanes = [
            Lane(
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
        """POST a chat completion within the deadline; never raises for what the network or the service does."""
        began = time.monotonic()
        headers = {"Content-Type": "application/json", "X-Request-Key": key}
        outcome = await self.request("POST", self.chat, chat=True, content=body, headers=headers)
        return replace(outcome, seconds=time.monotonic() - began)

    async def request(self, method: str, path: str | httpx2.URL, *, chat: bool = False, **given: Any) -> Outcome:
        """Send one request and classify its answer. For a `chat`, a streamed answer is joined."""
        import httpx2

        try:
            async with asyncio.timeout(self.deadline_seconds):
                async with self._stream(method, path, **given) as response:
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
                return Outcome("unknown", 0, "", "the stream broke off, or a chunk of it cannot be read")
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
        """Some services quote the key that they refuse, and what they say goes to the journal and the screen."""
        secret = self.key is not None and len(self.key) >= 16  # a local server's "EMPTY" may be a word of an answer
        return text.replace(self.key or "", "[key]") if secret else text

    async def download(self, path: str, to: Path) -> Outcome:
        """GET a file of any size onto the disk; `to` is whole when the outcome is a reply."""
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
    async def _stream(self, method: str, path: str | httpx2.URL, **given: Any) -> AsyncIterator[httpx2.Response]:
        lane = min(self.lanes, key=lambda lane: lane.under_way)
        lane.under_way += 1
        try:
            async with lane.http.stream(method, path, **given) as response:
                yield response
        finally:
            lane.under_way -= 1

    async def close(self) -> None:
        for lane in self.lanes:
            await lane.http.aclose()


async def _read_limited(response: httpx2.Response) -> tuple[bytes, bool]:
    """(bytes, whether that is all); unpacks gzip itself, so that a small body cannot become a large one."""
    unpack = zlib.decompressobj(47) if response.headers.get("content-encoding", "") in ("gzip", "deflate") else None
    most = LARGEST_STREAM if "text/event-stream" in response.headers.get("content-type", "") else LARGEST_BODY
    data = bytearray()
    async for chunk in response.aiter_raw(1 << 16):
        data += unpack.decompress(chunk, most + 1 - len(data)) if unpack else chunk
        if len(data) > most:
            return bytes(data[:most]), False
    return bytes(data), True


def classify(status: int, headers: Mapping[str, str], body: str) -> Outcome:
    """What an HTTP answer means for the request and for the run."""
    if status == 200:
        inside = error_in_reply(body)
        if inside is None:
            return Outcome("reply", status, body)
        error, status = inside, inside.status or _status_of(inside)
    else:
        error = read_error(body)
    said = error.said(status)
    about = subject_of(status, error)
    wait = retry_after(headers.get("retry-after"), time.time())

    def outcome(kind: Kind, seconds: float | None = None) -> Outcome:
        return Outcome(kind, status, body, said, seconds, error=error, about=about)

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
    """The status that fits an error sent with status 200, by its code."""
    code = error.code.lower()
    if "rate_limit" in code or "too_many" in code or "overloaded" in code or "resource_exhausted" in code:
        return 429
    if "server_error" in code or "internal" in code or "unavailable" in code or "timeout" in code:
        return 500
    return 400


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds from a Retry-After header, a number or an HTTP date; None where there is none that can be read."""
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


THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")  # fields of a message
TEXT_PARTS = ("text", "output_text")
STILL_THINKING = (
    "the reply was cut off while thinking: raise --max-tokens, or --extra-body '{\"enable_thinking\": false}'"
)


def read_completion(body: str, reason: str = "") -> Completion:
    """The answer in a reply's body. Never raises: a body that holds none has a `fault` and no text."""
    if reason:
        return Completion(None, reason, "", None, None)
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        return Completion(None, "empty_body" if not body.strip() else "not_json", "", None, None, _start_of(body))
    if not isinstance(tree, dict):
        return Completion(None, "not_json", "", None, None, _start_of(body))
    usage = tree["usage"] if isinstance(tree.get("usage"), dict) else {}
    prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    model = tree["model"] if isinstance(tree.get("model"), str) else ""
    choices = tree.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    message = first.get("message") if first and isinstance(first.get("message"), dict) else None
    if first is None or message is None:
        return Completion(None, "no_choices", model, prompt, completion, f"no choices in {_start_of(body)}")
    text, fault, detail = content_of(message), "", ""
    finish = first.get("finish_reason")
    thought = any(message.get(name) for name in THOUGHTS) or _reasoned(usage)
    if finish == "content_filter":
        fault, detail = "content_filter", "the service's content filter stopped the reply"
    elif finish == "length":
        spoken = text and without_thoughts(text)
        after = f" after {completion} tokens" if completion else ""
        fault, detail = "cut_off", f"the reply was cut off{after}: raise --max-tokens"
        if not spoken and (thought or text):
            detail = STILL_THINKING
    elif text is None:
        refusal = message.get("refusal")
        fault, detail = "no_content", "the reply has thoughts and no answer" if thought else "the reply has no content"
        if isinstance(refusal, str):
            fault, detail = "refusal", refusal[:200]
    elif thought and not text.strip():
        fault, detail = "no_content", "the reply has thoughts and no answer"
    return Completion(None if fault else text, fault, model, prompt, completion, detail)


def content_of(message: Mapping[str, Any]) -> str | None:
    """The text of a message: its content, or its text parts joined, without thoughts and other parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part["text"] for part in content if isinstance(part, dict) and _is_text(part)]
    return "".join(texts) if texts else None


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str) and part.get("thought") is not True


def _reasoned(usage: Mapping[str, Any]) -> bool:
    details = usage.get("completion_tokens_details")
    return isinstance(details, dict) and bool(_count(details.get("reasoning_tokens")))


def _start_of(body: str) -> str:
    return read_error(body).message[:200] or body.strip()[:200]


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 40 else None


def read_key(environment: Mapping[str, str], file: Path | None) -> str | None:
    """The key from a file, else from OPENAI_API_KEY; None where the endpoint needs none."""
    if file is not None:
        key = read_text(file).strip()
        if not key or any(char.isspace() for char in key):
            raise RecipeError(f"{file}: holds no key", "one line with the key and nothing else")
        return key
    return environment.get("OPENAI_API_KEY", "").strip() or None
