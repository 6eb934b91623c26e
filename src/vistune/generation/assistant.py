"""A model to talk to: model + processor + engine behind four calls.

messages (ours or OpenAI-style) -> Example -> Completion, pieces, or logits
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vistune.errors import DataError
from vistune.generation.engine import Engine
from vistune.generation.sampling import GREEDY, Sampling
from vistune.model import VisionLanguageModel
from vistune.processor import LARGEST_FILE_BYTES, Processor, collate, load_bytes
from vistune.types import Completion, Example, Message, Part, Picture, Sample

Given = Mapping[str, Any] | Message
PictureGiven = str | Path | Image.Image


class Assistant:
    """Ask about pictures, chat, or look at ids and logits."""

    def __init__(self, model: VisionLanguageModel, processor: Processor) -> None:
        self.model = model
        self.processor = processor
        self.engine = Engine(model, processor)

    def ask(
        self, picture: PictureGiven | None, question: str, *, max_tokens: int = 256, sampling: Sampling = GREEDY
    ) -> str:
        """The answer to one question about one picture, or about none."""
        return self.chat(_one_turn(picture, question), max_tokens=max_tokens, sampling=sampling).text

    def chat(self, messages: Sequence[Given], *, max_tokens: int = 256, sampling: Sampling = GREEDY) -> Completion:
        """The model's next message in a conversation that ends with the user's."""
        prompt = self.processor.encode_prompt(read_messages(messages))
        return self.engine.submit(prompt, max_tokens=max_tokens, sampling=sampling).result()

    def stream(
        self,
        picture: PictureGiven | None,
        question: str | Sequence[Given],
        *,
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
    ) -> Iterator[str]:
        """The answer in pieces; `question` may be a whole conversation, then `picture` is None.

        Whoever stops listening cancels it.
        """
        messages = _one_turn(picture, question) if isinstance(question, str) else read_messages(question)
        prompt = self.processor.encode_prompt(messages)
        answer = self.engine.submit(prompt, max_tokens=max_tokens, sampling=sampling)
        try:
            yield from answer
        finally:
            answer.cancel()

    def encode(self, messages: Sequence[Given]) -> Example:
        """Exactly what training would see of this conversation."""
        return self.processor.encode(Sample("conversation", tuple(read_messages(messages))))

    def logits(self, messages: Sequence[Given]) -> Tensor:
        """(tokens, vocabulary), image slots expanded; a finished conversation is rendered as in training."""
        with torch.inference_mode():
            row = collate([self.encode(messages)]).to(self.model.head.device)
            return self.model(row) @ self.model.head.T


def _one_turn(picture: PictureGiven | None, question: str) -> list[Message]:
    parts: tuple[Part, ...] = (question,)
    if picture is not None:
        parts = (Picture(picture if isinstance(picture, Image.Image) else Path(picture)), question)
    return [Message("user", parts)]


def read_messages(given: Sequence[Given]) -> list[Message]:
    """OpenAI-style messages as ours. Raises DataError naming the message and part that cannot be read."""
    return [item if isinstance(item, Message) else _message(item, f"messages[{k}]") for k, item in enumerate(given)]


def _message(item: Mapping[str, Any], place: str) -> Message:
    role, content = item.get("role"), item.get("content")
    if role not in ("system", "user", "assistant"):
        raise DataError(f"{place}.role: {role!r} is not a role", "use system, user or assistant")
    if isinstance(content, str):
        return Message(role, (content,))
    if not isinstance(content, Sequence) or not content:
        raise DataError(f"{place}.content: neither text nor a list of parts", "give text, or parts with a type")
    return Message(role, tuple(_part(part, f"{place}.content[{k}]") for k, part in enumerate(content)))


def _part(part: Mapping[str, Any], place: str) -> Part:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "image" and isinstance(part.get("image"), str | Path | Image.Image):
        image = part["image"]
        return Picture(image if isinstance(image, Image.Image) else Path(image))
    if kind == "image_url" and isinstance(part.get("image_url"), Mapping):
        return Picture(read_data_url(str(part["image_url"].get("url", "")), place))
    raise DataError(f"{place}: cannot be read (type {kind!r})", "use {type: text, text} or {type: image, image: path}")


def read_data_url(url: str, place: str) -> Image.Image:
    """The picture in a URL, under the limits of picture files; nothing is decoded before they are passed."""
    header, comma, payload = url.partition(",")
    if not header.startswith("data:image/") or not header.endswith(";base64") or not comma:
        raise DataError(f"{place}.image_url.url: only data:image/…;base64 URLs are read", "send the picture's bytes")
    if len(payload) > LARGEST_FILE_BYTES * 4 // 3 + 4:
        raise DataError(f"{place}.image_url.url: larger than {LARGEST_FILE_BYTES >> 20} MB", "send it smaller")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{place}.image_url.url: not base64", "send the picture's bytes in base64") from None
    return load_bytes(data, f"{place}.image_url.url")
