"""Read the body of a chat completion: its text, token counts and faults; join streamed replies.

body -> ServiceCompletion
"data: {...}" lines (server-sent events) -> one completion body with reasoning and usage, or the streamed error
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vistune.llm_client.refusals import read_error
from vistune.llm_client.reply_text import remove_thoughts

THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")  # fields of a message
TEXT_PARTS = ("text", "output_text")
STILL_THINKING = (
    "the reply was cut off while thinking: raise --max-tokens, or --extra-body '{\"enable_thinking\": false}'"
)
Tree = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ServiceCompletion:
    """The parsed body of a reply. Without a usable answer, `text` is None, `fault` is a code, `detail` the reason."""

    text: str | None
    fault: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    detail: str = ""


def read_completion(body: str, reason: str = "") -> ServiceCompletion:
    """Parse a reply's body. Never raises: a body without an answer gives a `fault` and no text."""
    if reason:
        return ServiceCompletion(None, reason, "", None, None)
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        fault = "not_json" if body.strip() else "empty_body"
        return ServiceCompletion(None, fault, "", None, None, _start_of(body))
    if not isinstance(tree, dict):
        return ServiceCompletion(None, "not_json", "", None, None, _start_of(body))
    usage = tree["usage"] if isinstance(tree.get("usage"), dict) else {}
    prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    model = tree["model"] if isinstance(tree.get("model"), str) else ""
    choices = tree.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    message = first.get("message") if first and isinstance(first.get("message"), dict) else None
    if first is None or message is None:
        detail = f"no choices in {_start_of(body)}"
        return ServiceCompletion(None, "no_choices", model, prompt, completion, detail)
    text, fault, detail = content_of(message), "", ""
    finish = first.get("finish_reason")
    thought = any(message.get(name) for name in THOUGHTS) or _has_reasoning_tokens(usage)
    if finish == "content_filter":
        fault, detail = "content_filter", "the service's content filter stopped the reply"
    elif finish == "length":
        spoken = text and remove_thoughts(text)
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
    return ServiceCompletion(None if fault else text, fault, model, prompt, completion, detail)


def content_of(message: Tree) -> str | None:
    """Return the text of a message: its content, or its text parts joined, without thoughts and other parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part["text"] for part in content if isinstance(part, dict) and _is_text(part)]
    return "".join(texts) if texts else None


def _is_text(part: Tree) -> bool:
    return part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str) and part.get("thought") is not True


def _has_reasoning_tokens(usage: Tree) -> bool:
    details = usage.get("completion_tokens_details")
    return isinstance(details, dict) and bool(_count(details.get("reasoning_tokens")))


def _start_of(body: str) -> str:
    return read_error(body).message[:200] or body.strip()[:200]


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 40 else None


def is_stream(content_type: str, text: str) -> bool:
    """Return whether a body is a stream of events, by its header or its first line."""
    start = text[:200].lstrip("\ufeff \r\n")
    return "text/event-stream" in content_type or start.startswith(("data:", "event:", ": "))


def assemble(text: str) -> tuple[str, bool]:
    """Join a streamed reply.

    Returns:
        The body of the equivalent completion, and whether the stream is complete: it reached its end, and every chunk
        was readable. A body without events is returned unchanged.
    """
    ended, broken = False, False
    tree: dict[str, object] = {}
    message: dict[str, object] = {}
    finish: object = None
    index: object = None
    events = list(_events(text))
    if not events:
        return text, bool(text.strip())  # plain JSON with a stream's header
    for name, data in events:
        if data.strip() == "[DONE]":
            ended = True
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
            delta = choice.get("delta") if isinstance(choice.get("delta"), dict) else choice.get("message")
            if isinstance(delta, dict) and isinstance(delta.get("content"), str | list | None):
                _add_delta(message, delta)
            else:
                broken = broken or any(choice.get(field) is not None for field in ("delta", "message"))
            finish = choice.get("finish_reason") or finish
    tree["object"] = "chat.completion"
    message.setdefault("role", "assistant")
    message.setdefault("content", None)
    tree["choices"] = [{"index": 0, "message": message, "finish_reason": finish}]
    return json.dumps(tree, ensure_ascii=False), (ended or finish is not None) and not broken


def _object(data: str) -> dict[str, object] | None:
    """Parse an event's data; None if it is not a JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _events(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, data) of each event; comments and other fields are skipped."""
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


def _add_delta(message: dict[str, object], delta: Tree) -> None:
    """Add a delta to the message so far: text and lists are appended, anything else is replaced."""
    for field, value in delta.items():
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


def _parts(content: object) -> list[object]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []
