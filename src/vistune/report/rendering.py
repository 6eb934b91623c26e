"""Pages from templates: whatever data say is escaped, and an unknown name is an error.

template's name + labels + values -> HTML
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vistune.report.labels import Labels, duration, word


def render(template: str, labels: Labels, **values: Any) -> str:
    """A template of this folder; it has the labels as `t`, and filters that write numbers and words as they say."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f} %"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}"
    environment.filters["figure"] = figure
    environment.filters["duration"] = lambda seconds: duration(seconds, labels)
    environment.filters["word"] = lambda text: word(text, labels)
    environment.filters["whole"] = lambda number: "–" if number is None else f"{number:,.0f}"
    page = environment.get_template(template).render(t=labels, **values)
    return page.encode(errors="backslashreplace").decode()  # a lone surrogate in somebody's text is shown as its escape


def figure(value: float | None) -> str:
    """A benchmark's figure, of which some go to 1 and some to 100 and beyond; empty where there is none."""
    return "" if value is None else f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"
