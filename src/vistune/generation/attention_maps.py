"""Where an answer's tokens looked: attention from each of them onto the patches of the pictures asked about.

messages + answer -> one forward over both, watched -> Look: of each token, of each picture, grids of weights
A token's look is that of the place that said it, the token before: the mean over all heads of the later half of the
layers of its softmax weights. It tells which patches were read from there, not why the answer is what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from vistune.errors import DataError
from vistune.generation.prefix import prompt_of
from vistune.generation.text import Text
from vistune.model import VisionLanguageModel
from vistune.model.attention import packed_attention, window_mask
from vistune.model.language import base_of, run
from vistune.processor import Processor, View, views_of
from vistune.processor.images import image_size
from vistune.types import Example, Message, Sample

MOST_SCORES = 2**24  # weights held at once, of all heads
TILES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A view of a picture, and how much of each token's attention fell on it: weights (tokens, rows, columns)."""

    view: View
    weights: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """`tokens`: the text that each adds, together the answer · `images`: each one's views, in the messages' order.

    Of a token, all weights of all pictures together are at most 1; the rest fell on text.
    """

    tokens: tuple[str, ...]
    images: tuple[tuple[Seen, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What is looked at: a finished conversation as the model reads it, and where the answer lies in it.

    spans: where each picture's slots begin and end in the row · views: of each picture
    """

    example: Example
    answer: range
    spans: tuple[tuple[int, int], ...]
    views: tuple[tuple[View, ...], ...]


def watched(processor: Processor, messages: Sequence[Message], answer: str) -> Watched:
    """A conversation that ends with the user's message, and the answer given to it, encoded as training would.

    Raises DataError where there is no picture, no answer, or no grid to look at.
    """
    images = [image for message in messages for image in message.images]
    if not images:
        raise DataError("there is no picture to look at", "ask about a picture first")
    prompt = processor.encode_prompt(messages)
    said = Message("assistant", (answer.strip(),))
    encoded = processor.encode_ids(Sample("look", (*messages, said)))
    begin = len(prompt)
    if encoded.ids[:begin] != prompt.input_ids.tolist():
        raise DataError("the answer changes how the prompt before it is tokenised", "it cannot be looked at")
    if list(map(id, encoded.images)) != list(map(id, images)):
        raise DataError("this model's template leaves pictures out or moves them", "it cannot be looked at")
    rest = encoded.ids[begin:]
    end = begin + next((k for k, token in enumerate(rest) if token in processor.stop_ids), len(rest))
    if not answer.strip() or end == begin:
        raise DataError("the answer is empty", "give what the model said")
    ids = torch.tensor(encoded.ids[:end])
    places = [int(place) for place in torch.nonzero(prompt.input_ids < 0).flatten()]
    bounds = [0, *accumulate(encoded.slots)]
    return Watched(
        Example(ids, torch.zeros_like(ids), prompt.images, prompt.slots),
        range(begin, end),
        tuple((places[start], places[stop - 1] + 1) for start, stop in pairwise(bounds)),
        tuple(views_of(image_size(image), processor.spec) for image in encoded.images),
    )


@torch.inference_mode()
def look(model: VisionLanguageModel, processor: Processor, given: Watched) -> Look:
    """One forward; safe beside an engine on the same model, which it does not touch."""
    example, answer = given.example, given.answer
    device = model.head.device
    layers = base_of(model.language).config.num_hidden_layers
    columns = torch.cat([torch.arange(*span) for span in given.spans]).to(device)
    watcher = _Watcher(rows=range(answer.start - 1, answer.stop - 1), columns=columns, first=layers // 2)
    tiles = torch.cat([model.encode(some.to(device)) for some in example.images.split(TILES_AT_ONCE)])
    slots = prompt_of(example).slots.to(device)
    embedded = model.embed(example.input_ids.to(device), model.place(tiles, slots))
    run(model.language, embedded[None], torch.arange(len(example), device=device)[None], past=watcher)
    weights = watcher.mean().cpu()
    lengths = [stop - start for start, stop in given.spans]
    images = tuple(
        tuple(Seen(view, part[:, view.slots].reshape(len(part), view.rows, view.columns)) for view in views)
        for part, views in zip(weights.split(lengths, dim=1), given.views, strict=True)
    )
    return Look(_pieces(processor, example.input_ids[answer.start :].tolist()), images)


def _pieces(processor: Processor, tokens: Sequence[int]) -> tuple[str, ...]:
    """The text that each token adds, as it would have been streamed."""
    text = Text(processor)
    pieces = [text.add(token) for token in tokens]
    pieces[-1] += text.finish(tokens)[0]
    return tuple(pieces)


class _Watcher:
    """Attends as packed attention does, and adds up the later layers' weights of some rows on some columns."""

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
        """(rows, columns), over heads and layers."""
        return self._sum / (self._layer - self.first)

    def _add(self, query: Tensor, key: Tensor, scaling: float, window: int | None) -> None:
        """query (heads, tokens, width), key (kv heads, tokens, width)"""
        heads, tokens, _ = query.shape
        key = key.repeat_interleave(heads // len(key), dim=0)
        mask = window_mask(tokens, window, query.device)
        place = torch.arange(tokens, device=query.device)
        stretch = max(1, MOST_SCORES // (heads * tokens))
        for rows, total in zip(self.rows.split(stretch), self._sum.split(stretch), strict=True):
            scores = (query[:, rows] @ key.mT).float() * scaling
            seen = place <= rows[:, None] if mask is None else mask[rows]
            shares = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
            total += shares[..., self.columns].mean(dim=0)
