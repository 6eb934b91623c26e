"""Show a data file as the model sees it: the token ids and labels of each sample, and its text divided by label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vistune.data.samples import all_samples
from vistune.data.selection import count_pairs
from vistune.errors import DataError
from vistune.processor import Processor, TokenizerLike, default_template, load_tokenizer
from vistune.progress import OnMessage, ignore_message
from vistune.recipe import DataSource, source_of
from vistune.records import lines_of
from vistune.types import IGNORE, IMAGE_ID, Sample, Spec


@dataclass(frozen=True, slots=True)
class ShownSample:
    """The tokens of a sample as the model reads them.

    Attributes:
        input_ids: Token ids, with one -200 per image.
        labels: Same positions, not shifted; -100 if a token is not supervised.
    """

    id: str
    input_ids: list[int]
    labels: list[int]

    def to_dict(self) -> dict[str, object]:
        """Return the sample as `vistune show --json` prints it."""
        return {"id": self.id, "input_ids": self.input_ids, "labels": self.labels}


def show(
    source: DataSource,
    *,
    template: str | None = None,
    tokenizer: str = "builtin",
    index: int | None = None,
    on_message: OnMessage = ignore_message,
) -> list[ShownSample]:
    """Return id, token ids and labels of each sample, or of the one at `index`; images may be missing.

    Of a preference pair, the chosen answer is shown, and `on_message` gets the number of pairs.

    `template`: Chat template. Default: the tokenizer's own if it has one, else `v1`.
    """
    processor = text_processor(template, tokenizer)
    processor.check()
    samples = all_samples(source, find_images=False)
    for line in lines_of(field for file, _ in samples.parts for field in file.unread_fields):
        on_message(line)
    if pairs := sum(count_pairs(file, records) for file, records in samples.parts):
        on_message(f"{source.file}: {pairs:,} preference pairs: only their chosen answers are shown")
    if index is not None and index >= len(samples):
        raise DataError(f"{source.file}: has no sample {index}", f"give an index below {len(samples)}")
    return [_shown(sample, processor) for sample in (samples if index is None else samples[index : index + 1])]


def _shown(sample: Sample, processor: Processor) -> ShownSample:
    return ShownSample(**processor.shown(sample))


def text_processor(template: str | None = None, tokenizer: str = "builtin") -> Processor:
    """Return a processor without a vision tower: every image takes one slot."""
    loaded = load_tokenizer(source_of(tokenizer, "language"))
    template = template or default_template(loaded)
    half = (0.5, 0.5, 0.5)
    return Processor(loaded, Spec(1, 1, len(loaded), 1, 2, half, half, "identity", template, tokenization="chunks"))


def label_runs(shown: ShownSample, tokenizer: TokenizerLike) -> list[tuple[bool, str]]:
    """Return (supervised, text) of a sample, in order; an image is a separate run."""
    runs: list[tuple[bool, list[int]]] = []
    for token, label in zip(shown.input_ids, shown.labels, strict=True):
        supervised = label != IGNORE
        if not runs or runs[-1][0] != supervised or token == IMAGE_ID or runs[-1][1][-1] == IMAGE_ID:
            runs.append((supervised, []))
        runs[-1][1].append(token)
    return [(supervised, "[image]" if ids == [IMAGE_ID] else tokenizer.decode(ids)) for supervised, ids in runs]


def labelled_sample(sample: Sample, processor: Processor) -> dict[str, Any]:
    """Return what a page shows of a sample: its location, number of tokens, text by label, images."""
    shown = _shown(sample, processor)
    return {
        "id": sample.id,
        "origin": sample.origin,
        "kind": sample.kind,
        "tokens": len(shown.input_ids),
        "learnt": len(shown.labels) - shown.labels.count(IGNORE),
        "pieces": label_runs(shown, processor.tokenizer),
        "pictures": [image.source for image in sample.images],
    }
