"""Conversations that show at start-up whether a template and a tokenizer fit."""

from __future__ import annotations

from PIL import Image

from vistune.types import ImageRef, Message

LONG_ANSWER = "The image shows a red circle and two blue squares. " * 40
MARKUP = "<b>1 < 2</b> {{ x }} {% if y %} ### [x](y) \\n | & &amp;"


def image_probes() -> list[list[Message]]:
    """Return conversations of one and two turns, whose first question has an image."""
    image = ImageRef(Image.new("RGB", (2, 2)))
    english_and_korean = _turns("What colour is it?", "It is red.", "무슨 색인가요?", "빨간색입니다.")
    conversations = [english_and_korean, _turns("2 + 2?", "4")]
    for messages in conversations:
        messages[0] = Message("user", (image, *messages[0].parts))
    return conversations


def text_probes(*, system: bool) -> list[list[Message]]:
    """Return conversations of one and several turns without images; `system`: also ones with a system message."""
    conversations = [
        _turns("What colour is it?", "It is red."),
        _turns("무슨 색인가요?", "빨간색입니다.", "And this?", "A circle.", "Why?", LONG_ANSWER.strip()),
        _turns(MARKUP, MARKUP, "1\n\n2", "- a\n- b"),
    ]
    if system:
        first = Message("system", ("짧게 답하세요. Be brief.",))
        conversations += [[first, *messages] for messages in conversations[:2]]
    return conversations


def empty_probes() -> list[list[Message]]:
    """Return conversations with an empty answer. Not every template and tokenizer can encode these."""
    return [_turns("What colour is it?", ""), _turns("What?", "", "Why?", "Because.")]


def _turns(*texts: str) -> list[Message]:
    return [Message("assistant" if k % 2 else "user", (text,)) for k, text in enumerate(texts)]
