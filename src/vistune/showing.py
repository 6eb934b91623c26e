"""What the model sees of a data file and which tokens it learns, for `vistune show`.

data source + template + tokenizer -> ids and labels of each sample -> text with the learnt tokens in green
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vistune.errors import DataError
from vistune.recipe import DataSource, source_of


def show(
    source: DataSource, *, template: str = "v1", tokenizer: str = "builtin", index: int | None = None
) -> list[dict[str, Any]]:
    """What the model sees of each sample and which tokens it learns; no picture is opened, none need be there."""
    from vistune.data import all_rows
    from vistune.processor import Processor, load_tokenizer
    from vistune.types import Spec

    loaded = load_tokenizer(source_of(tokenizer, "language"))
    half = (0.5, 0.5, 0.5)
    spec = Spec(1, 1, len(loaded), 1, 2, half, half, "identity", template, tokenization="chunks")
    processor = Processor(loaded, spec)
    samples = all_rows(source, find_pictures=False)
    chosen = samples if index is None else samples[index : index + 1]
    if index is not None and not chosen:
        raise DataError(f"{source.file}: has no sample {index}", f"give an index below {len(samples)}")
    return [processor.shown(sample) for sample in chosen]


def coloured(rows: Sequence[dict[str, Any]], tokenizer: str = "builtin") -> list[str]:
    """Each sample's text as the model reads it, learnt tokens in green (rich markup)."""
    from rich.markup import escape

    from vistune.processor import load_tokenizer
    from vistune.types import IGNORE, IMAGE_ID

    loaded = load_tokenizer(source_of(tokenizer, "language"))
    shown = []
    for row in rows:
        runs: list[tuple[bool, list[int]]] = []
        for token, label in zip(row["input_ids"], row["labels"], strict=True):
            learnt = label != IGNORE
            if not runs or runs[-1][0] != learnt or token == IMAGE_ID or runs[-1][1][-1] == IMAGE_ID:
                runs.append((learnt, []))
            runs[-1][1].append(token)
        texts = [(learnt, "[picture]" if ids == [IMAGE_ID] else loaded.decode(ids)) for learnt, ids in runs]
        shown.append("".join(f"[green]{escape(t)}[/green]" if learnt else escape(t) for learnt, t in texts))
    return shown
