"""Answers that notebooks show with their images and attention maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vistune.errors import DataError
from vistune.generation.attention_maps import AttentionMaps, ViewAttention, answered_prompt, compute_attention_maps
from vistune.notebook import html_image
from vistune.processor import open_image
from vistune.types import Completion, Message

if TYPE_CHECKING:
    from vistune.generation.assistant import Assistant

HEAT = (255, 40, 0)  # colour of the patches with the most attention
STRONGEST = 170  # alpha of these patches, of 255


@dataclass(frozen=True, slots=True)
class Answer(Completion):
    """A completion with its conversation. A notebook shows the images, their attention map and the text.

    Attributes:
        messages: The conversation, which ends with the question.
    """

    messages: tuple[Message, ...] = field(default=(), repr=False, compare=False)
    _assistant: Assistant | None = field(default=None, repr=False, compare=False)

    def attention_maps(self) -> AttentionMaps:
        """Compute how much each token attends to the patches of the images, in one forward pass.

        Raises DataError if there is no image, or if the model's attention is not recorded.
        """
        if self._assistant is None:
            raise DataError("the answer has no model", "use an answer of Assistant.chat")
        processor = self._assistant.processor
        prompt = answered_prompt(processor, self.messages, self.text)
        return compute_attention_maps(self._assistant.model, processor, prompt)

    def to_dict(self) -> dict[str, object]:
        """Return text, reason of the end and token counts as JSON values."""
        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def _repr_html_(self) -> str:
        question = self.messages[-1].text.strip() if self.messages else ""
        texts = f"<p><b>{escape(question)}</b></p><p>{escape(self.text)}</p>"
        return "<div>" + "".join(self._figures()) + texts + "</div>"

    def _figures(self) -> Iterator[str]:
        """Yield each image, and its attention map if the model has one; else the reason."""
        images = [open_image(image) for message in self.messages for image in message.images]
        if not images:
            return
        try:
            maps = self.attention_maps().images
        except DataError as error:
            yield from (html_image(image, f"image {number}") for number, image in enumerate(images, 1))
            yield f"<p><small>{escape(error.message)}</small></p>"
            return
        for number, (image, views) in enumerate(zip(images, maps, strict=True), 1):
            yield html_image(image, f"image {number}")
            yield html_image(heat_map(image, views[0]), "attention of the answer")


def heat_map(image: Image.Image, attention: ViewAttention) -> Image.Image:
    """Draw the mean attention of all tokens over an image; the patch with the most is the reddest."""
    weights = attention.weights.float().mean(dim=0).numpy()
    alpha = np.rint(STRONGEST * weights / max(float(weights.max()), 1e-12)).astype(np.uint8)
    x0, y0, x1, y1 = attention.view.box
    width, height = image.size
    size = (max(1, round((x1 - x0) * width)), max(1, round((y1 - y0) * height)))
    mask = Image.new("L", image.size)
    patches = Image.fromarray(alpha).resize(size, Image.Resampling.BILINEAR)
    mask.paste(patches, (round(x0 * width), round(y0 * height)))
    shown = image.convert("RGB")
    shown.paste(Image.new("RGB", image.size, HEAT), mask=mask)
    return shown
