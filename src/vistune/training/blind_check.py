"""Measure at a stage's end whether the model uses its images: the blind check.

held-out samples, each with its own image, with another image and without an image + current model -> BlindCheck
The same supervised tokens are compared in all three forms. The check does not change the training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from vistune.data.packing import pack, rng_of
from vistune.data.stages import PlannedStage
from vistune.errors import DataError
from vistune.processor import Processor, blank_batch, collate
from vistune.processor.processor import PixelReader
from vistune.training.trainer import Trainer, documents_of
from vistune.training.validation import evaluating
from vistune.types import Example, ImageRef, Part, Sample

log = logging.getLogger("vistune.training")

RESAMPLES = 2000  # of the bootstrap
NEGLIGIBLE = 0.15  # a gap below this share of the loss
FORMS = 3  # of a sample: with its own image, with another one, without


@dataclass(frozen=True, slots=True)
class Gap:
    """How much the loss per token rises, in nats, with its 95 % interval, bootstrapped by image."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BlindCheck:
    """Mean loss per supervised token of held-out samples.

    Attributes:
        samples, images, tokens: How many were measured; `images` are different ones.
        with_image, wrong_image, without_image: Losses with the sample's own image, with another sample's, without any.
        gap: `wrong_image` minus `with_image`.
        gap_without_image: `without_image` minus `with_image`.
    """

    samples: int
    images: int
    tokens: int
    with_image: float
    wrong_image: float
    without_image: float
    gap: Gap
    gap_without_image: Gap

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values, as in metrics.jsonl."""
        return asdict(self)

    @property
    def is_blind(self) -> bool:
        """Whether another image makes no difference, or a negligible one."""
        return not (self.gap.low > 0 and self.gap.value >= NEGLIGIBLE * self.with_image)

    @property
    def summary(self) -> str:
        """The figures in one line."""
        return (
            f"held-out loss per token {self.with_image:.3f} with the right image, {self.wrong_image:.3f} with another "
            f"one ({self.gap.value:+.3f}, 95 % interval {self.gap.low:+.3f} to {self.gap.high:+.3f}), "
            f"{self.without_image:.3f} without; {self.samples} samples of {self.images} images"
        )

    @property
    def warning(self) -> str | None:
        """Advice for a model that makes little use of its images; None for any other model."""
        if not self.is_blind:
            return None
        effect = (
            f"another image raises the held-out loss per token by {self.gap.value:+.3f} (95 % interval "
            f"{self.gap.low:+.3f} to {self.gap.high:+.3f}); train the projector on more image-caption pairs, for more "
            "steps or at a higher rate, use questions that cannot be answered without the image, and check that each "
            "sample names its own image (vistune show)"
        )
        if self.gap.low > 0:
            return f"the model hardly uses its images: {effect}"
        return f"the model does not use its images: {effect}"


def blind_check(planned: PlannedStage, trainer: Trainer, pixels: PixelReader) -> BlindCheck | None:
    """Measure a stage's held-out samples; None if fewer than two images can be measured.

    The processes share the samples. All must call it, and each returns the whole result.
    """
    samples = [sample for sample in planned.held_out.samples if sample.images]
    wrong = wrong_images(samples)
    world = trainer.world
    own = range(world.rank, len(samples), world.size)
    losses = _token_losses(planned, trainer, pixels, [form for k in own for form in forms(samples[k], wrong)])
    totals = np.zeros((len(samples), 1 + FORMS))  # tokens, and the summed losses of each form
    for position, k in enumerate(own):
        of_forms = losses[FORMS * position : FORMS * (position + 1)]
        # Without an image, the first supervised token may have no token before it to be predicted from.
        common = min((len(of_form) for of_form in of_forms if of_form is not None), default=0)
        if common and all(of_form is not None for of_form in of_forms):
            totals[k] = [common, *(of_form[-common:].sum() for of_form in of_forms if of_form is not None)]
    totals = np.sum([np.reshape(own_totals, totals.shape) for own_totals in world.gather(*totals.ravel().tolist())], 0)
    return result_of([str(sample.images[0].source) for sample in samples], totals)


def wrong_images(samples: Sequence[Sample]) -> dict[str, ImageRef]:
    """Map each image of the samples, by its path, to another one."""
    images = list({str(image.source): image for sample in samples for image in sample.images}.values())
    # Neighbours in a file are often alike, as frames of a video are.
    return {str(image.source): images[(k + len(images) // 2) % len(images)] for k, image in enumerate(images)}


def forms(sample: Sample, wrong: Mapping[str, ImageRef]) -> Iterator[Sample]:
    """Yield a sample with its own images, with the wrong ones, and without any."""

    def changed(part: Part, keep: bool) -> list[Part]:
        if not isinstance(part, ImageRef):
            return [part]
        return [wrong[str(part.source)]] if keep else []

    yield sample
    for keep in (True, False):
        messages = [
            replace(message, parts=tuple(new for part in message.parts for new in changed(part, keep)))
            for message in sample.messages
        ]
        yield replace(sample, messages=tuple(messages))


def _token_losses(
    planned: PlannedStage, trainer: Trainer, pixels: PixelReader, samples: Sequence[Sample]
) -> list[np.ndarray | None]:
    """Return the losses of each sample's supervised tokens; None for a sample that cannot be read any more."""
    processor = planned.processor
    losses: list[np.ndarray | None] = [None] * len(samples)
    lengths = [_length(processor, sample) for sample in samples]
    readable = [k for k, length in enumerate(lengths) if length]
    rows = pack(readable, lengths, planned.stage.tokens_per_row)
    with evaluating(trainer):
        # Under FSDP all processes must compute as many rows.
        for number in range(int(max(count for (count,) in trainer.world.gather(len(rows))))):
            row = rows[number] if number < len(rows) else ()
            examples = {k: example for k in row if (example := _encoded(processor, samples[k], pixels)) is not None}
            batch = collate(list(examples.values())) if examples else blank_batch(processor.spec)
            of_row, documents = trainer.token_losses(batch), documents_of(batch)
            for document, k in enumerate(examples):
                losses[k] = of_row[documents == document]
    return losses


def _length(processor: Processor, sample: Sample) -> int:
    """Return a sample's number of tokens; 0 if it cannot be encoded."""
    try:
        return processor.length(sample)
    except DataError as error:
        return _skip(sample, error)


def _encoded(processor: Processor, sample: Sample, pixels: PixelReader) -> Example | None:
    try:
        return processor.encode(sample, pixels)
    except DataError as error:  # the stage is trained: an image that was removed meanwhile must not lose it
        _skip(sample, error)
        return None


def _skip(sample: Sample, error: DataError) -> int:
    log.warning("%s: not measured by the blind check: %s", sample.origin, error.message)
    return 0


def result_of(images: Sequence[str], totals: np.ndarray) -> BlindCheck | None:
    """Sum up (samples, 4): each sample's tokens and its summed losses with its image, with another one, and without.

    `images`: each sample's image, by which the bootstrap resamples. Samples without tokens were not measured.
    """
    measured = totals[:, 0] > 0
    _, image_of = np.unique(np.array(images, str)[measured], return_inverse=True)
    count = int(image_of.max(initial=-1)) + 1
    if count < 2:
        return None
    by_image = np.zeros((count, totals.shape[1]))
    np.add.at(by_image, image_of, totals[measured])
    resampled = by_image[rng_of(count).integers(0, count, (RESAMPLES, count))].sum(1)
    tokens, *losses = by_image.sum(0)
    with_image, wrong_image, without_image = (float(loss / tokens) for loss in losses)

    def gap(form: int) -> Gap:
        low, high = np.percentile((resampled[:, form] - resampled[:, 1]) / resampled[:, 0], (2.5, 97.5))
        return Gap(float((by_image[:, form] - by_image[:, 1]).sum() / tokens), float(low), float(high))

    return BlindCheck(
        samples=int(measured.sum()),
        images=count,
        tokens=int(tokens),
        with_image=with_image,
        wrong_image=wrong_image,
        without_image=without_image,
        gap=gap(2),
        gap_without_image=gap(3),
    )
