"""The Python interface to a model: ask, chat, stream, and look at ids and logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor

from vistune.generation.engine import Engine
from vistune.generation.messages import read_messages, require_question
from vistune.generation.sampling import GREEDY, Sampling
from vistune.generation.shown import Answer
from vistune.model import VisionLanguageModel
from vistune.processor import Processor, collate
from vistune.types import Example, ImageRef, Message, Part, Sample

MessageLike = Mapping[str, Any] | BaseModel | Message
ImageLike = str | Path | Image.Image


class Assistant:
    """A model with its processor and an engine.

    Attributes:
        model: The model, a `torch.nn.Module`.
        processor: Converts conversations to tensors.
        engine: Generates answers, several at the same time.
        source: The folder that was loaded; empty for a model in memory.
    """

    def __init__(self, model: VisionLanguageModel, processor: Processor, source: str = "") -> None:
        self.model = model
        self.processor = processor
        self.engine = Engine(model, processor)
        self.source = source

    def __repr__(self) -> str:
        number = sum(parameter.numel() for parameter in self.model.parameters())
        first = next(self.model.parameters())
        dtype = str(first.dtype).removeprefix("torch.")
        return f"Assistant({self.source!r}, {number:,} parameters, {dtype} on {first.device})"

    def ask(self, image: ImageLike | None, question: str, *, max_tokens: int = 256, sampling: Sampling = GREEDY) -> str:
        """Answer one question about one image, or without an image."""
        return self.chat(_one_turn(image, question), max_tokens=max_tokens, sampling=sampling).text

    def chat(self, messages: Sequence[MessageLike], *, max_tokens: int = 256, sampling: Sampling = GREEDY) -> Answer:
        """Give the model's next message in a conversation that ends with the user's.

        `messages` are OpenAI-style or ours; `read_messages` brings them into alternating turns. Raises DataError with
        the field of a message that cannot be read. A notebook shows the answer with its images and attention map.
        """
        turns = _question(messages)
        prompt = self.processor.encode_prompt(turns)
        completion = self.engine.submit(prompt, max_tokens=max_tokens, sampling=sampling).result()
        return Answer(
            completion.text,
            completion.finish_reason,
            completion.prompt_tokens,
            completion.completion_tokens,
            tuple(turns),
            self,
        )

    def stream(
        self,
        image: ImageLike | None,
        question: str | Sequence[MessageLike],
        *,
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
    ) -> Iterator[str]:
        """Yield the answer in pieces. `question` may be a whole conversation; then `image` is None.

        Closing the iterator cancels the answer.
        """
        messages = _one_turn(image, question) if isinstance(question, str) else _question(question)
        prompt = self.processor.encode_prompt(messages)
        answer = self.engine.submit(prompt, max_tokens=max_tokens, sampling=sampling)
        try:
            yield from answer
        finally:
            answer.cancel()

    def encode(self, messages: Sequence[MessageLike]) -> Example:
        """Encode a conversation exactly as training would."""
        return self.processor.encode(Sample("conversation", tuple(read_messages(messages))))

    def logits(self, messages: Sequence[MessageLike]) -> Tensor:
        """Return logits (tokens, vocabulary), image slots expanded, for a conversation rendered as in training."""
        with torch.inference_mode():
            row = collate([self.encode(messages)]).to(self.model.head.device)
            logits: Tensor = self.model.head.logits(self.model(row))
            return logits


def _one_turn(image: ImageLike | None, question: str) -> list[Message]:
    parts: tuple[Part, ...] = (question,)
    if image is not None:
        parts = (ImageRef(image if isinstance(image, Image.Image) else Path(image)), question)
    return [Message("user", parts)]


def _question(messages: Sequence[MessageLike]) -> list[Message]:
    """Read a conversation into alternating turns. Raises FieldError unless it ends with the user's message."""
    turns = read_messages(messages)
    require_question([message.role for message in turns])
    return turns
