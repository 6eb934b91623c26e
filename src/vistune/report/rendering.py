"""Render pages from templates, with labels in the page's language.

All text from data is escaped, and an unknown name in a template is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vistune.errors import DataError
from vistune.files import write_atomic
from vistune.report.plots import drawable
from vistune.translations import catalogue

Labels = Mapping[str, Any]  # texts of a page by key, in one language
Row = Mapping[str, Any]  # a JSON object from a file
Values = dict[str, Any]  # what a template shows


def labels_of(language: str) -> Labels:
    """Return the labels of the pages in a language."""
    return catalogue("report/labels", language)


def render(template: str, labels: Labels, **values: object) -> str:
    """Render a template of this folder. It has the labels as `t`, and filters that format numbers and texts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f} %"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}"
    environment.filters["figure"] = metric
    environment.filters["duration"] = lambda seconds: duration(seconds, labels)
    environment.filters["word"] = lambda text: translated(text, labels)
    environment.filters["whole"] = lambda number: "–" if number is None else f"{number:,.0f}"
    page = environment.get_template(template).render(t=labels, **values)
    return page.encode(errors="backslashreplace").decode()  # a lone surrogate is shown as its escape


def write_page(path: Path, template: str, name: str, title: str, language: str, sections: Mapping[str, Any]) -> Path:
    """Render a template that extends page.html.j2, and write the page; sections that are None are left out."""
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder", "name the folder that train, quickstart or generate wrote")
    labels = labels_of(language)
    write_atomic(path, render(template, labels, sections=sections, language=language, title=title, name=name))
    return path


def translated(text: object, labels: Labels) -> str:
    """Return a name or sentence from a file in the page's language; unknown ones unchanged."""
    return str(labels["words"].get(str(text), str(text).replace("_", " ")))


def drawn_text(text: str, labels: Labels, fallback: str) -> str:
    """Return a text for a plot: in the page's language if the fonts have its letters, else in English."""
    return drawable(translated(text, labels), drawable(translated(text, labels_of("en")), fallback))


def drawn_label(key: str, labels: Labels) -> str:
    """Return a label for a plot: in the page's language if the fonts have its letters, else in English."""
    return drawable(labels[key], labels_of("en")[key])


def duration(seconds: float, labels: Labels) -> str:
    """Format seconds as hours, minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.1f}{labels['second']}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "hour"), (minutes, "minute"), (rest, "second"))
    return " ".join(f"{number}{labels[unit]}" for number, unit in parts if number)


def metric(value: float | None) -> str:
    """Format a metric, with four digits if it is at most 1; "" for None."""
    return "" if value is None else f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"
