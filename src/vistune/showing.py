"""What the model sees of a data file and which tokens it learns, for `vistune show` and the page of `vistune check`.

data source + template + tokenizer -> ids and labels of each sample -> text with the supervised tokens marked
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistune.errors import DataError
from vistune.recipe import DataSource, source_of
from vistune.records import lines_of

if TYPE_CHECKING:
    from rich.text import Text

    from vistune.data import CheckReport
    from vistune.processor import Processor
    from vistune.types import Sample

SHOWN = 24  # samples of a check's page


def show(
    source: DataSource,
    *,
    template: str = "v1",
    tokenizer: str = "builtin",
    index: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """What the model sees of each sample and which tokens it learns; no picture is opened, none need be there."""
    from vistune.data import all_rows

    processor = without_tower(template, tokenizer)
    samples = all_rows(source, find_pictures=False)
    for line in lines_of(field for file, _ in samples.parts for field in file.unread_fields):
        tell(line)
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


def marked(rows: Sequence[dict[str, Any]], tokenizer: str = "builtin", *, colour: bool = True) -> list[Text]:
    """Each sample's text as the model reads it; supervised tokens are green, or in ⟦brackets⟧ without `colour`."""
    from rich.text import Text

    from vistune.processor import load_tokenizer

    loaded = load_tokenizer(source_of(tokenizer, "language"))
    texts = []
    for row in rows:
        shown = Text()
        for supervised, text in pieces(row, loaded):
            shown.append(text if colour or not supervised else f"⟦{text}⟧", style="green" if supervised else "")
        texts.append(shown)
    return texts


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
        "pictures": [picture.source for picture in sample.pictures],
    }


def write_check_page(
    page: Path,
    report: CheckReport,
    sources: Sequence[DataSource],
    processor: Processor | None = None,
    *,
    pictures: bool = True,
) -> None:
    """The page of a check: what is wrong and where, and samples from all over the data with what is learnt coloured.

    Without a processor the samples stand as the built-in tokenizer and the template v1 write them.
    """
    from vistune.report.check_page import write_check_report

    reader = processor or without_tower()
    shown = [
        as_learnt(sample, reader)
        for source in sources
        for sample in _spread(source, SHOWN // len(sources) or 1, pictures=pictures)
    ]
    write_check_report(page, report.as_json(), shown)


def _spread(source: DataSource, count: int, *, pictures: bool) -> Iterator[Sample]:
    """Good rows from the first to the last, as far apart as may be."""
    import numpy as np

    from vistune.data import folders_of, index, open_source

    try:
        data = open_source(source.file)
        made = index(data, folders_of(data, source.images) if pictures else None, None)
    except DataError:  # the report says so
        return
    if len(made):
        yield from map(made.sample, np.unique(np.linspace(0, len(made) - 1, count).astype(int)).tolist())
