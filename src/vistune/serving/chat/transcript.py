"""A conversation as a file: a page to read, or a row of messages that `check`, `show` and `train` read.

messages -> FILE.md or FILE.jsonl
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.files import write_atomic
from vistune.types import ImageRef, Message


def save(messages: Sequence[Message], path: Path) -> None:
    """Write a new file. Raises DataError where there is nothing to save, or the file is there already."""
    if not any(message.role == "assistant" for message in messages):
        raise DataError("nothing to save yet", "ask something first")
    if path.suffix not in FORMS:
        raise DataError(f"{path}: no such form", f"name a file that ends in {' or '.join(FORMS)}")
    if path.exists():
        raise DataError(f"{path}: is there already", "give another name")
    write_atomic(path, FORMS[path.suffix](messages, path))


def page(messages: Sequence[Message], path: Path) -> str:
    """Markdown: who said what, pictures as pictures."""
    blocks = []
    for message in messages:
        parts = [part if isinstance(part, str) else f"![]({_beside(part, path)})" for part in message.parts]
        blocks.append(f"**{message.role}**\n\n" + "\n\n".join(parts))
    return "\n\n".join(blocks) + "\n"


def row(messages: Sequence[Message], path: Path) -> str:
    """One JSON line in the form of messages data, pictures relative to the file."""
    images = [_beside(image, path) for message in messages for image in message.images]
    said: list[dict[str, Any]] = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.parts
            ],
        }
        for message in messages
    ]
    return json.dumps({"id": path.stem, "images": images, "messages": said}, ensure_ascii=False) + "\n"


FORMS = {".md": page, ".jsonl": row}


def _beside(image: ImageRef, path: Path) -> str:
    """The picture's file as seen from the transcript's folder."""
    assert isinstance(image.source, Path)
    return os.path.relpath(image.source.resolve(), path.resolve().parent)
