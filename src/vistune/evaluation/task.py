"""What a benchmark is: questions with gold answers, and when a reply is right.

A task reads its release from a folder; everything else (running, blind baselines, intervals) is shared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vistune.types import Question


class Task(Protocol):
    """Built from the folder that holds its data."""

    max_tokens: int

    def __init__(self, folder: Path) -> None: ...

    def questions(self) -> Sequence[Question]:
        """All questions, in a fixed order; each sample ends with the user's message."""
        ...

    def right(self, question: Question, reply: str) -> bool:
        """Whether a reply counts as the gold answer."""
        ...


def same_text(reply: str, gold: str) -> bool:
    """Exact match but for case, outer space and a final full stop."""
    return _bare(reply) == _bare(gold)


def _bare(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").lower()


def picture_of(question: Question) -> str:
    """What a bootstrap resamples by: the picture, or the question itself where it has none."""
    pictures = question.sample.pictures
    return str(pictures[0].source) if pictures else f"question {question.id}"
