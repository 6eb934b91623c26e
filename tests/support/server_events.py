"""The texts in a stream of server-sent events."""

from __future__ import annotations

import json


def event_texts(events: str) -> list[str]:
    found = [event.removeprefix("data: ") for event in events.split("\n\n") if event.startswith("data: {")]
    return [choice["delta"].get("content") or "" for event in found for choice in json.loads(event)["choices"]]
