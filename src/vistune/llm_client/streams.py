"""Join a streamed reply (server-sent events) into the equivalent chat completion.

"data: {...}" lines -> one completion body with reasoning and usage, or the error sent in the stream
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def is_stream(content_type: str, text: str) -> bool:
    """Whether a body is a stream of events, by its header or its first line."""
    start = text[:200].lstrip("\ufeff \r\n")
    return "text/event-stream" in content_type or start.startswith(("data:", "event:", ": "))


def assemble(text: str) -> tuple[str, bool]:
    """(completion body, whether the stream came whole to its end). A body that is no stream is given back as it is.

    A chunk that cannot be read is text that is missing: such a stream is not whole, whatever comes after it.
    """
    whole, broken = False, False
    tree: dict[str, Any] = {}
    message: dict[str, Any] = {}
    finish: Any = None
    index: int | None = None
    events = list(_events(text))
    if not events:
        return text, bool(text.strip())  # plain JSON with a stream's header
    for name, data in events:
        if data.strip() == "[DONE]":
            whole = True
            continue
        if not data.strip():
            continue
        chunk = _object(data)
        if chunk is None and name == "error":
            return json.dumps({"error": {"message": data.strip()}}, ensure_ascii=False), True
        if chunk is None:
            broken = True
            continue
        if chunk.get("error") or chunk.get("object") == "error" or name == "error":
            return json.dumps(chunk if chunk.get("error") else {"error": chunk}, ensure_ascii=False), True
        for field, value in chunk.items():
            if field not in ("choices", "object") and value is not None:
                tree[field] = value
        choices = chunk.get("choices")
        broken = broken or not isinstance(choices, list | None)
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                broken = True
                continue
            index = choice.get("index", 0) if index is None else index
            if choice.get("index", 0) != index:
                continue
            piece = choice.get("delta") if isinstance(choice.get("delta"), dict) else choice.get("message")
            if isinstance(piece, dict) and isinstance(piece.get("content"), str | list | None):
                _add(message, piece)
            else:
                broken = broken or any(choice.get(field) is not None for field in ("delta", "message"))
            finish = choice.get("finish_reason") or finish
    tree["object"] = "chat.completion"
    message.setdefault("role", "assistant")
    message.setdefault("content", None)
    tree["choices"] = [{"index": 0, "message": message, "finish_reason": finish}]
    return json.dumps(tree, ensure_ascii=False), (whole or finish is not None) and not broken


def _object(data: str) -> dict[str, Any] | None:
    """The JSON object of an event; None where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _events(text: str) -> Iterator[tuple[str, str]]:
    """(event name, data) of each event; comments and other fields are skipped."""
    name, data = "", []
    for line in [*text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif not line:
            if data:
                yield name, "\n".join(data)
            name, data = "", []


def _add(message: dict[str, Any], piece: dict[str, Any]) -> None:
    """Join a delta to the value so far: text and lists are appended, anything else replaces it."""
    for field, value in piece.items():
        before = message.get(field)
        if value is None:
            continue
        if field == "content" and isinstance(before, list) != isinstance(value, list) and before is not None:
            message[field] = _parts(before) + _parts(value)
        elif isinstance(before, str) and isinstance(value, str):
            message[field] = before + value if field != "role" else value
        elif isinstance(before, list) and isinstance(value, list):
            message[field] = before + value
        else:
            message[field] = value


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []
