"""The page of `vistune check`: what is wrong with the data and where, and samples with what is learnt coloured.

CheckReport as plain values + samples as pieces of text -> check.html.j2 -> one HTML file that opens offline
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vistune.files import write_atomic
from vistune.report.pictures import Thumbnail, thumbnail

LISTED = 20  # places of each reason

Row = Mapping[str, Any]


def write_check_report(page: Path, report: Row, samples: Sequence[Row]) -> None:
    """Write the page. `samples`: {id, origin, kind, tokens, learnt, pieces: [(learnt, text)], pictures: files}."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    shown = [{**sample, "thumbnails": [_small(file) for file in sample["pictures"]]} for sample in samples]
    html = environment.get_template("check.html.j2").render(
        report=report, faults=_by_reason(report["faults"]), notes=_by_reason(report["notes"]), samples=shown
    )
    write_atomic(page, html)


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
