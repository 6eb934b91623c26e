"""Reduce conversations to their shape: roles, and where texts and images are.

A chat template renders a shape with private-use characters in place of the texts, so it never sees a user's text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vistune.types import ImageRef, Message

OPEN, CLOSE, SLOT = "\ue000", "\ue001", "\ue002"  # private use: a text's number is written between the first two

Shape = tuple[tuple[str, str], ...]  # (role, parts) of each message; parts: t is a text, i an image
ONE_TURN: Shape = (("user", "t"), ("assistant", "t"))


def count_texts(shape: Shape) -> int:
    return sum(kinds.count("t") for _, kinds in shape)


def mark_of(number: int) -> str:
    """Return the mark of the text with this number."""
    return f"{OPEN}{number}{CLOSE}"


def shape_of(messages: Sequence[Message]) -> tuple[Shape, list[str]]:
    """Return the shape of a conversation and its texts in order. Outer whitespace and empty texts are omitted."""
    shape: list[tuple[str, str]] = []
    texts: list[str] = []
    for message in messages:
        parts: list[str | ImageRef] = list(message.parts)
        strip: Callable[[str], str]
        for order, strip in ((range(len(parts)), str.lstrip), (range(len(parts) - 1, -1, -1), str.rstrip)):
            for k in order:
                part = parts[k]
                if isinstance(part, str):
                    parts[k] = strip(part)
                    if parts[k]:
                        break
        kinds = ""
        for part in parts:
            if not isinstance(part, str):
                kinds += "i"
            elif part:
                kinds += "t"
                texts.append(part)
        shape.append((message.role, kinds))
    return tuple(shape), texts


def as_messages(
    shape: Shape, roles_with_parts: frozenset[str], texts: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the shape as messages for a chat template, with the texts, or else with marks for them."""
    conversation: list[dict[str, Any]] = []
    number = 0
    for role, kinds in shape:
        marks = []
        for kind in kinds:
            text = texts[number] if texts is not None and kind == "t" else mark_of(number)
            marks.append(text if kind == "t" else SLOT)
            number += kind == "t"
        content: str | list[dict[str, str]]
        if role in roles_with_parts:
            content = [{"type": "image"} if mark == SLOT else {"type": "text", "text": mark} for mark in marks]
            content = content or [{"type": "text", "text": ""}]
        elif kinds.count("i") == 1:
            content = f"{SLOT}\n" + "".join(mark for mark in marks if mark != SLOT)
        else:
            content = "".join(f"{SLOT}\n" if mark == SLOT else mark for mark in marks)
        conversation.append({"role": role, "content": content})
    return conversation
