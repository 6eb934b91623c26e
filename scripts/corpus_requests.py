"""Rows H of the reliability matrix for scripts/make_corpus.py: chat requests that are refused, and with which status.

BODIES are sent to /v1/chat/completions with a client's usual headers; HEADS are whole requests, as bytes of a socket.
The server holds a model called `tiny`. H06, 60 MB in chunks, is made where it is sent: in the tests.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corpus_images import encoded, plain

CHAT = "/v1/chat/completions"
PNG = encoded(plain())
MB = 2**20


@dataclass(frozen=True)
class RequestCase:
    """`param`: how the place that the error names begins · `words`: a pattern that its message must meet."""

    said: bytes
    status: int = 400
    param: str = ""
    words: str = ""


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def asked(text: str = "What colour is it?", *images: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def chat(**changes: Any) -> bytes:
    """A good request with changes; a field set to ... is left out."""
    made = {"model": "tiny", "messages": asked(), "max_tokens": 4, "temperature": 0, **changes}
    return json.dumps({name: value for name, value in made.items() if value is not ...}).encode()


def turn(content: Any = "x", *, role: str = "user", **more: Any) -> dict[str, Any]:
    """A request of one message."""
    return {"messages": [{"role": role, "content": content, **more}]}


def post(*headers: str) -> bytes:
    return "\r\n".join([f"POST {CHAT} HTTP/1.1", *headers, "", ""]).encode()


def line(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


NO_REQUESTS = {
    "H01-cut-off": b"{", "H01-text": b"nothing", "H01-not-utf8": b"\xff\xfe", "H01-deep-list": b"[" * 100_000,
    "H01-deep-object": b'{"model": "tiny", "messages": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "H02-list": b"[]", "H02-string": b'"text"', "H02-number": b"17", "H04-nothing": b"", "H12-nothing-asked": b"{}",
    "H12-no-messages-at-all": b'{"model": "tiny"}',
    "H24-lone-surrogate": b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
}  # fmt: skip
VALUES: Mapping[str, tuple[dict[str, Any], str]] = {
    "H12-empty": ({"messages": []}, "messages"), "H12-ten-thousand": ({"messages": asked() * 10_000}, "messages"),
    "H12-missing": ({"messages": ...}, "messages"),
    "H12-assistant-alone": (turn(role="assistant"), "messages"),
    "H13-role": (turn(role="tool"), "messages[0].role"), "H13-no-content": (turn(None), "messages[0].content"),
    "H13-audio": (turn([{"type": "audio"}]), "messages[0].content[0]"),
    "H13-path": (turn([{"type": "image", "image": "README.md"}]), "messages[0].content[0]"),
    "H13-no-text": (turn([{"type": "text"}]), "messages[0].content[0].text"),
    "H13-tool-calls": (turn(tool_calls=[{"id": "1"}]), "messages[0]"),
    "H16-none": ({"max_tokens": 0}, "max_tokens"), "H16-negative": ({"max_tokens": -1}, "max_tokens"),
    "H16-huge": ({"max_tokens": 10**12}, "max_tokens"), "H16-text": ({"max_tokens": "5"}, "max_tokens"),
    "H16-nan": ({"max_tokens": math.nan}, "max_tokens"),
    "H16-half": ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    "H17-cold": ({"temperature": -1}, "temperature"), "H17-hot": ({"temperature": 3}, "temperature"),
    "H17-nan": ({"temperature": math.nan}, "temper"), "H17-infinite": ({"temperature": math.inf}, "temperature"),
    "H17-yes": ({"temperature": True}, "temperature"), "H17-top-p-0": ({"top_p": 0}, "top_p"),
    "H17-top-p-2": ({"top_p": 2}, "top_p"), "H17-top-k": ({"top_k": -2}, "top_k"),
    "H17-penalty": ({"repetition_penalty": 0}, "rep"), "H17-n-0": ({"n": 0}, "n"), "H17-n-17": ({"n": 17}, "n"),
    "H17-n-999": ({"n": 999}, "n"), "H17-seed": ({"seed": 2**63}, "seed"), "H17-seed-text": ({"seed": "1"}, "seed"),
    "H17-stops": ({"stop": ["x"] * 1000}, "stop"), "H17-empty-stop": ({"stop": ""}, "stop"),
    "H17-long-stop": ({"stop": ["x" * 1000]}, "stop"), "H17-stop-number": ({"stop": 5}, "stop"),
    "H17-stream": ({"stream": "yes"}, "stream"),
    "H17-stream-options": ({"stream_options": {"include_usage": True}}, ""),
    "H11-no-name": ({"model": None}, "model"),
    "H20-pictures": ({"messages": asked("?", *[data_url(PNG)] * 33)}, "messages"),
    "H24-million-characters": ({"messages": asked("x" * 1_000_001)}, "messages"),
    "H25-template": ({"chat_template": "{{ 1 }}"}, "chat_template"),
}  # fmt: skip
LONG = {  # refused with how many tokens they are
    "H22-context": asked("Where is the blue square? " * 2000), "H23-markers": asked("<image>" * 100_000),
    "H23-ends": asked("</s>" * 100_000), "H24-families": asked("👨‍👩‍👧" * 20_000),
}  # fmt: skip
URLS = {
    "H18-no-comma": "data:image/png;base64", "H18-no-base64": "data:image/png;base64,@@@@",
    "H18-padding": "data:image/png;base64,QQ", "H18-nothing": "data:,", "H18-per-cent": "data:image/png,%89PNG",
    "H18-html": "data:text/html;base64,PGh0bWw+", "H18-no-picture": data_url(b"no picture"),
    "H18-cut-off": data_url(PNG[:60]), "H18-no-bytes": data_url(b""), "H18-empty": "", "H18-a-word": "x",
    "H19-loopback": "http://127.0.0.1/x.png", "H19-metadata": "https://169.254.169.254/latest",
    "H19-mapped": "http://[::ffff:127.0.0.1]/", "H19-number": "http://2130706433/", "H19-octal": "http://0177.0.0.1/",
    "H19-backslash": "https://example.org\\@127.0.0.1/", "H19-file": "file:///etc/passwd",
    "H19-gopher": "gopher://localhost/",
}  # fmt: skip
PLACE = "messages[0].content[0].image_url.url"

BODIES: Mapping[str, RequestCase] = {
    **{name: RequestCase(said) for name, said in NO_REQUESTS.items()},
    **{name: RequestCase(chat(**changes), param=param) for name, (changes, param) in VALUES.items()},
    **{name: RequestCase(chat(messages=said), param="messages", words="tokens.* 1024") for name, said in LONG.items()},
    **{name: RequestCase(chat(messages=asked("?", url)), param=PLACE) for name, url in URLS.items()},
    "H11-unknown-model": RequestCase(chat(model="large"), 404, "model"),
    "H11-long-name": RequestCase(chat(model="x" * 1000), 404, "model"),
}
GOOD = chat()
HOSTS = ("a/v1?", "localhost/health", "localhost:8000/x", "evil.example", "", "127.0.0.1@x")
METHODS = ("HEAD", "TRACE", "DELETE", "PUT", "OPTIONS")
PATHS = ("//", "//v1/models", "/%2e%2e/etc/passwd", "/v1/../metrics", "/v1/models/../../x", "/v1", "/health/")

HEADS: Mapping[str, RequestCase] = {
    "H05-21-megabytes": RequestCase(post("Host: localhost", f"Content-Length: {21 * MB}"), 413),  # not a byte is sent
    "H07-negative": RequestCase(post("Host: localhost", "Content-Length: -1")),
    "H07-two-lengths": RequestCase(post("Host: localhost", "Content-Length: 5", "Content-Length: 6")),
    "H07-no-number": RequestCase(post("Host: localhost", "Content-Length: x")),
    "H08-long": RequestCase(post("Host: localhost", "X-Long: " + "a" * 300_000), 431),
    "H09-two-hosts": RequestCase(post("Host: localhost", "Host: other.example")),
    **{f"H09-host-{k}": RequestCase(post(f"Host: {host}", "Connection: close", f"Content-Length: {len(GOOD)}") + GOOD)
       for k, host in enumerate(HOSTS)},
    **{f"H27-{method.lower()}": RequestCase(line(method, CHAT), 405) for method in METHODS},
    **{f"H28-path-{k}": RequestCase(line("GET", path), 404) for k, path in enumerate(PATHS)},
}  # fmt: skip
