"""Encode preference pairs: both answers after the same prompt as two documents that share the tiles of the image."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from vistune.processor.images import open_image
from vistune.processor.processor import PixelReader, Processor
from vistune.processor.tiles import shift_tiles
from vistune.types import Example, ImageRef, Message, Sample

SMALLEST_CROP, LARGEST_CROP = 0.05, 0.2  # share of the image that a damaged image shows (mDPO, arXiv 2406.11839)


def pair_sides(sample: Sample) -> tuple[Sample, Sample]:
    """Return the chosen and the rejected side of a pair; only their last answer is supervised."""
    assert sample.rejected is not None
    prompt = tuple(replace(message, supervised=False) for message in sample.messages[:-1])
    answers = replace(sample.messages[-1], supervised=True), sample.rejected
    return tuple(replace(sample, messages=(*prompt, answer), rejected=None) for answer in answers)  # type: ignore[return-value]


def encode_pair(processor: Processor, sample: Sample, pixels: PixelReader, *, damaged: bool = False) -> Example:
    """Encode a pair as documents: chosen, rejected, and with `damaged` the chosen answer after a damaged image.

    The tiles of the image are in the example once; both sides refer to them by `slots`.
    """
    chosen, rejected = pair_sides(sample)
    documents = [processor.encode(chosen, pixels)]
    encoded = processor.encode_ids(rejected)
    ids, labels = torch.tensor(encoded.ids), torch.tensor(encoded.labels)
    slots = [_slots(documents[0], processor)] * 2
    documents.append(replace(documents[0], input_ids=ids, labels=labels))
    images, grids = documents[0].images, documents[0].grids
    if damaged:
        third = processor.encode(damaged_sample(chosen), pixels)
        documents.append(third)
        slots.append(shift_tiles(_slots(third, processor), len(images)))
        images = torch.cat([images, third.images])
        grids = None if grids is None or third.grids is None else torch.cat([grids, third.grids])
    return Example(
        input_ids=torch.cat([document.input_ids for document in documents]),
        labels=torch.cat([document.labels for document in documents]),
        images=images,
        slots=torch.cat(slots),
        grids=grids,
        documents=tuple(len(document) for document in documents),
    )


def _slots(example: Example, processor: Processor) -> torch.Tensor:
    """Return the tile and patch of each image slot; without `slots`, every patch of every tile has one, in order."""
    if example.slots is not None:
        return example.slots
    tiles, patches = len(example.images), processor.spec.slots_per_image
    return torch.cartesian_prod(torch.arange(tiles), torch.arange(patches))


def damaged_sample(sample: Sample) -> Sample:
    """Return a sample that shows only a small part of each image, scaled to the size of the image."""
    messages = tuple(
        replace(message, parts=tuple(_damaged(part) if isinstance(part, ImageRef) else part for part in message.parts))
        if message.images
        else message
        for message in sample.messages
    )
    return replace(sample, messages=tuple(Message(m.role, m.parts, m.supervised) for m in messages))


def _damaged(image: ImageRef) -> ImageRef:
    """Cut out a random part of an image; the name of the image is the seed, so a resumed run cuts the same."""
    whole = open_image(image)
    rng = random.Random(str(image.source).rsplit("/", 1)[-1])
    side = rng.uniform(SMALLEST_CROP, LARGEST_CROP) ** 0.5
    width, height = (max(1, round(side * edge)) for edge in whole.size)
    left, top = rng.randint(0, whole.width - width), rng.randint(0, whole.height - height)
    return ImageRef(whole.crop((left, top, left + width, top + height)).resize(whole.size))
