"""What the model sees of a data file and which tokens it learns, for `vistune show` and the page of `vistune check`.

data source + template + tokenizer -> ids and labels of each sample -> text with the supervised tokens marked
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vistune.errors import DataError
from vistune.recipe import DataSource, source_of
from vistune.records import lines_of

if TYPE_CHECKING:
    from vistune.processor import Processor
    from vistune.types import Sample


def show(
    source: DataSource,
    *,
    template: str = "v1",
    tokenizer: str = "builtin",
    index: int | None = None,
    on_message: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """What the model sees of each sample and which tokens it learns; no picture is opened, none need be there."""
    from vistune.data import all_rows

    processor = without_tower(template, tokenizer)
    samples = all_rows(source, find_images=False)
    for line in lines_of(field for file, _ in samples.parts for field in file.unread_fields):
        on_message(line)
    chosen = samples if index is None else samples[index : index + 1]
    if index is not None and not chosen:
        raise DataError(f"{source.file}: has no sample {index}", f"give an index below {len(samples)}")
    return [processor.shown(sample) for sample in chosen]


def without_tower(template: str = "v1", tokenizer: str = "builtin") -> Processor:
    """A processor for text alone: every picture takes one slot."""
    from vistune.processor import Processor, load_tokenizer
    from vistune.types import Spec

    loaded = load_tokenizer(source_of(tokenizer, "language"))
    half = (0.5, 0.5, 0.5)
    return Processor(loaded, Spec(1, 1, len(loaded), 1, 2, half, half, "identity", template, tokenization="chunks"))


def pieces(row: dict[str, Any], tokenizer: Any) -> list[tuple[bool, str]]:
    """(learnt, text) of a sample as `Processor.shown` gives it, in order; a picture is a piece of its own."""
    from vistune.types import IGNORE, IMAGE_ID

    runs: list[tuple[bool, list[int]]] = []
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        learnt = label != IGNORE
        if not runs or runs[-1][0] != learnt or token == IMAGE_ID or runs[-1][1][-1] == IMAGE_ID:
            runs.append((learnt, []))
        runs[-1][1].append(token)
    return [(learnt, "[image]" if ids == [IMAGE_ID] else tokenizer.decode(ids)) for learnt, ids in runs]


def as_learnt(sample: Sample, processor: Processor) -> dict[str, Any]:
    """What a page shows of a sample: where it is from, its tokens, and its text in pieces, learnt or not."""
    from vistune.types import IGNORE

    seen = processor.shown(sample)
    return {
        "id": sample.id,
        "origin": sample.origin,
        "kind": sample.kind,
        "tokens": len(seen["input_ids"]),
        "learnt": len(seen["labels"]) - seen["labels"].count(IGNORE),
        "pieces": pieces(seen, processor.tokenizer),
        "pictures": [image.source for image in sample.images],
    }
