"""The page of `vistune check`: what is wrong with the data and where, and samples with what is learnt coloured.

CheckReport as plain values + samples as pieces of text -> check.html.j2 -> one HTML file that opens offline
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.files import write_atomic
from vistune.report.images import Thumbnail, thumbnail
from vistune.report.labels import labels_of
from vistune.report.rendering import render

LISTED = 20  # places of each reason

Row = Mapping[str, Any]


def write_check_report(page: Path, report: Row, samples: Sequence[Row]) -> None:
    """Write the page. `samples`: {id, origin, kind, tokens, learnt, pieces: [(learnt, text)], pictures: files}."""
    shown = [{**sample, "thumbnails": [_small(file) for file in sample["pictures"]]} for sample in samples]
    listed = {kind: _by_reason(report[kind]) for kind in ("faults", "notes")}
    write_atomic(page, render("check.html.j2", labels_of("en"), report=report, samples=shown, **listed))


def _small(file: Any) -> Thumbnail:
    path = Path(str(file))
    return thumbnail(path.name, [path])


def _by_reason(rejects: Sequence[Row]) -> list[tuple[str, int, list[Row]]]:
    """(reason, how many, the first of them), the most frequent first."""
    counts = Counter(reject["reason"] for reject in rejects)
    first: dict[str, list[Row]] = defaultdict(list)
    for reject in rejects:
        if len(first[reject["reason"]]) < LISTED:
            first[reject["reason"]].append(reject)
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]
