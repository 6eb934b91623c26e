"""Compute attention maps: how much each token of an answer attends to the patches of the images.

A token is generated at the position of the token before it. Its map shows the attention from that position: softmax
weights, averaged over all heads of the later half of the layers. The map shows which patches were read there, not the
reasons for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from vistune.errors import DataError
from vistune.generation.sequence import hash_prompt
from vistune.generation.text_stream import TextStream
from vistune.model import VisionLanguageModel
from vistune.model.attention import packed_attention, window_mask
from vistune.model.language import run, unwrap
from vistune.processor import Processor, View, views_of
from vistune.processor.images import image_size
from vistune.types import Example, Message, Sample

MOST_SCORES = 2**24  # attention weights in memory at once, over all heads
TILES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class ViewAttention:
    """A view of an image, and each token's attention to its patches: weights (tokens, rows, columns)."""

    view: View
    weights: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMaps:
    """Attention of an answer's tokens to the images. A token's weights sum to at most 1; the rest went to text.

    Attributes:
        tokens: The text that each token adds; together the answer.
        images: The views of each image, in the messages' order.
    """

    tokens: tuple[str, ...]
    images: tuple[tuple[ViewAttention, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredPrompt:
    """A finished conversation as the model reads it.

    Attributes:
        example: The conversation as tensors.
        answer: Positions of the answer's tokens.
        spans: Positions at which each image's slots begin and end.
        views: The views of each image.
    """

    example: Example
    answer: range
    spans: tuple[tuple[int, int], ...]
    views: tuple[tuple[View, ...], ...]


def answered_prompt(processor: Processor, messages: Sequence[Message], answer: str) -> AnsweredPrompt:
    """Encode a conversation that ends with the user's message, and the answer to it, as training would.

    Raises DataError if there is no image or no answer, or if the model has no grid of patches.
    """
    images = [image for message in messages for image in message.images]
    if not images:
        raise DataError("the conversation contains no image", "ask about an image first")
    prompt = processor.encode_prompt(messages)
    reply = Message("assistant", (answer.strip(),))
    encoded = processor.encode_ids(Sample("attention map", (*messages, reply)))
    begin = len(prompt)
    if encoded.ids[:begin] != prompt.input_ids.tolist():
        raise DataError(
            "with this answer after it, the prompt is tokenized differently", "change the answer's first characters"
        )
    if list(map(id, encoded.images)) != list(map(id, images)):
        raise DataError("this model's template leaves images out or moves them", "use another template")
    rest = encoded.ids[begin:]
    end = begin + next((k for k, token in enumerate(rest) if token in processor.stop_ids), len(rest))
    if not answer.strip() or end == begin:
        raise DataError("the answer is empty", "give the model's answer")
    ids = torch.tensor(encoded.ids[:end])
    slots = [int(position) for position in torch.nonzero(prompt.input_ids < 0).flatten()]
    bounds = [0, *accumulate(encoded.slots)]
    return AnsweredPrompt(
        replace(prompt, input_ids=ids, labels=torch.zeros_like(ids)),
        range(begin, end),
        tuple((slots[start], slots[stop - 1] + 1) for start, stop in pairwise(bounds)),
        tuple(views_of(image_size(image), processor.spec) for image in encoded.images),
    )


@torch.inference_mode()
def compute_attention_maps(model: VisionLanguageModel, processor: Processor, answered: AnsweredPrompt) -> AttentionMaps:
    """Compute the maps in one forward pass. An engine may use the model at the same time.

    Raises DataError if the model does not use our attention, whose weights are recorded.
    """
    if not model.packed:
        raise DataError(
            "attention maps: this language model runs transformers' own attention, whose weights are not recorded",
            "use a language model that runs packed (docs/reference/models.md)",
        )
    example, answer = answered.example, answered.answer
    device = model.head.device
    layers = unwrap(model.language).config.num_hidden_layers
    columns = torch.cat([torch.arange(*span) for span in answered.spans]).to(device)
    recorder = _AttentionRecorder(rows=range(answer.start - 1, answer.stop - 1), columns=columns, first=layers // 2)
    parts = (slice(begin, begin + TILES_AT_ONCE) for begin in range(0, len(example.images), TILES_AT_ONCE))
    tiles = torch.cat([model.encode(*example.tiles(part, device)) for part in parts])
    slots = hash_prompt(example).slots.to(device)
    embedded = model.embed(example.input_ids.to(device), model.place(tiles, slots))
    positions, starts = torch.arange(len(example), device=device), [0, len(example)]
    run(model.language, embedded[None], positions[None], starts=starts, past=recorder)
    weights = recorder.mean().cpu()
    lengths = [stop - start for start, stop in answered.spans]
    images = tuple(
        tuple(ViewAttention(view, part[:, view.slots].reshape(len(part), view.rows, view.columns)) for view in views)
        for part, views in zip(weights.split(lengths, dim=1), answered.views, strict=True)
    )
    return AttentionMaps(_pieces(processor, example.input_ids[answer.start :].tolist()), images)


def _pieces(processor: Processor, tokens: Sequence[int]) -> tuple[str, ...]:
    """Return the text that each token adds, as it would be streamed."""
    stream = TextStream(processor)
    pieces = [stream.add(token) for token in tokens]
    pieces[-1] += stream.finish(tokens)[0]
    return tuple(pieces)


class _AttentionRecorder:
    """Attend like packed attention, and sum the later layers' weights of some rows on some columns."""

    def __init__(self, *, rows: range, columns: Tensor, first: int) -> None:
        self.rows = torch.arange(rows.start, rows.stop, device=columns.device)
        self.columns = columns
        self.first = first
        self._layer = 0
        self._sum = torch.zeros(len(rows), len(columns), device=columns.device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        if self._layer >= self.first:
            self._add(query[0], key[0], scaling, window)
        self._layer += 1
        return packed_attention(query, key, value, [0, query.shape[2]], scaling, window)

    def mean(self) -> Tensor:
        """Return the mean over heads and layers, (rows, columns)."""
        return self._sum / (self._layer - self.first)

    def _add(self, query: Tensor, key: Tensor, scaling: float, window: int | None) -> None:
        """Add a layer's weights. query (heads, tokens, width), key (kv heads, tokens, width)."""
        heads, tokens, _ = query.shape
        key = key.repeat_interleave(heads // len(key), dim=0)
        mask = window_mask(tokens, window, query.device)
        positions = torch.arange(tokens, device=query.device)
        rows_at_once = max(1, MOST_SCORES // (heads * tokens))
        for rows, total in zip(self.rows.split(rows_at_once), self._sum.split(rows_at_once), strict=True):
            scores = (query[:, rows] @ key.mT).float() * scaling
            seen = positions <= rows[:, None] if mask is None else mask[rows]
            weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
            total += weights[..., self.columns].mean(dim=0)
