"""The page's words in the reader's language; for plots those that this machine's fonts can draw (`labels.json`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vistune.report.plots import drawable
from vistune.translations import catalogue

Labels = Mapping[str, Any]


def labels_of(language: str) -> Labels:
    """Return the labels of the pages in a language."""
    return catalogue("report/labels", language)


def word(text: object, labels: Labels) -> str:
    """A name or sentence that files carry, in the page's language; unknown ones as they are."""
    return str(labels["words"].get(str(text), str(text).replace("_", " ")))


def drawn_word(text: str, labels: Labels, instead: str) -> str:
    """The word for a plot: in the page's language, else in English, where this machine's fonts have the letters."""
    english = drawable(word(text, labels_of("en")), instead)
    return drawable(word(text, labels), english)


def drawn_label(key: str, labels: Labels) -> str:
    return drawable(labels[key], labels_of("en")[key])


def duration(seconds: float, labels: Labels) -> str:
    if seconds < 60:
        return f"{seconds:.1f}{labels['second']}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "hour"), (minutes, "minute"), (rest, "second"))
    return " ".join(f"{number}{labels[unit]}" for number, unit in parts if number)
