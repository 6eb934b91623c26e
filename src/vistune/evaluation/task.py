"""What a benchmark is: questions with gold answers, how a reply is read, and what figures it reports.

data folder -> questions · predictions file -> Prediction -> Reply -> Marked -> Scored
A task is one small class on `Benchmark`: its release's files, prompt, parse rule, points and metrics. Running, joining,
blind baselines, intervals and printing are shared.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vistune.errors import DataError
from vistune.evaluation.predictions import Prediction, read_predictions
from vistune.records import UnreadField
from vistune.types import ImageRef, Message, Part, Question, Sample

OFFICIAL, LENIENT = "official", "lenient"
BOTH: tuple[str, ...] = (OFFICIAL, LENIENT)
EXAMPLES = 5  # unparsed replies that are shown
SHORT = (
    "\nAnswer the question using a single word or phrase."  # the suffixes that LLaVA-1.5 was trained and measured with
)
LETTER = "\nAnswer with the option's letter from the given choices directly."

Table = Mapping[str, tuple[float, int]]  # group -> (its figure, how many questions it has)
# Bodies of chat requests without a model's name -> the replies' texts in the same order; raises where one failed.
Judge = Callable[[Sequence[Mapping[str, Any]]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What `evaluate --list` says of a task: what to put into the data folder, from where, under which licence."""

    about: str
    files: tuple[str, ...]
    source: str
    licence: str
    size: str
    paper: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A question with what was said to it; `text` is None where the predictions have nothing for it."""

    question: Question
    text: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)  # the rest of the prediction's line


@dataclass(frozen=True, slots=True)
class Marked:
    """A reply read and marked: `answer` None where it is missing or cannot be parsed, `points` 0-1."""

    question: Question
    text: str | None
    answer: str | None
    points: float


@dataclass(frozen=True, slots=True)
class Scored:
    """What a scorer finds. Missing and unparsed replies are in `count`, the denominator, like all others."""

    metrics: Mapping[str, float]
    count: int
    unparsed: int = 0
    missing: int = 0
    examples: tuple[tuple[str, str], ...] = ()  # unparsed: (question id, reply)
    tables: Mapping[str, Table] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)  # judge, its prompt's hash, rule of the data version …

    def to_dict(self) -> dict[str, Any]:
        """Without the task's name; tables as {group: {value, count}}."""
        tables = {
            name: {group: {"value": value, "count": count} for group, (value, count) in table.items()}
            for name, table in self.tables.items()
        }
        return {
            "metrics": dict(self.metrics),
            "count": self.count,
            "unparsed": self.unparsed,
            "missing": self.missing,
            "examples": [{"question_id": name, "text": text} for name, text in self.examples],
            "tables": tables,
            **self.notes,
        }


class Task(Protocol):
    """Built from the folder that holds its data."""

    facts: ClassVar[Facts]
    max_tokens: int  # what the published runs allowed a reply
    rules: tuple[str, ...]  # how replies can be read: official, and lenient where the task has such a rule
    judged: bool  # whether `score` asks a judge
    prediction_fields: frozenset[str]  # further fields of this task's predictions: used here, or part of the release

    unread_fields: Sequence[UnreadField]  # in the user's own questions; known once they are read
    warnings: Sequence[str]  # about the user's own questions; known once they are read

    def __init__(self, folder: Path) -> None: ...

    def questions(self) -> Sequence[Question]:
        """All questions, in a fixed order, ids unique; each sample ends with the user's message."""
        ...

    def check_images(self) -> None:
        """Raise DataError if images are missing. Called before a model is asked; scoring needs no images."""
        ...

    def read(self, path: Path) -> Sequence[Prediction]:
        """A predictions file in any form that the task's users have."""
        ...

    def identify(self, prediction: Prediction) -> str:
        """The id of the question that a prediction answers."""
        ...

    def asks_another(self, question: Question, prediction: Prediction) -> bool:
        """Whether a prediction of this id was plainly made for another question, as when files of two versions meet."""
        ...

    def mark(self, question: Question, text: str | None, rule: str = OFFICIAL) -> Marked:
        """Read one reply; no exception and linear time whatever it holds."""
        ...

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> Scored:
        """The figures over exactly these questions."""
        ...

    def submission(self, rows: Sequence[Reply]) -> tuple[str, bytes] | None:
        """(file name, content) of the upload where the benchmark has a server, else None."""
        ...


class Benchmark(ABC):
    """What tasks share. A task gives `facts`, `questions` and `metrics`, and what differs of the rest."""

    facts: ClassVar[Facts]
    max_tokens: int = 128
    rules: tuple[str, ...] = (OFFICIAL,)
    judged: bool = False
    prediction_fields: frozenset[str] = frozenset()
    unread_fields: Sequence[UnreadField] = ()
    warnings: Sequence[str] = ()
    missing: Sequence[DataError] = ()  # one error per missing image

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def questions(self) -> Sequence[Question]:
        """All questions, in the release's order; each sample ends with the user's message."""

    def check_images(self) -> None:
        """Raise DataError with the first missing image and the number of others."""
        if self.missing:
            first, more = self.missing[0], len(self.missing) - 1
            raise DataError(first.message + (f"; and {more:,} more images" if more else ""), first.hint)

    def read(self, path: Path) -> Sequence[Prediction]:
        return read_predictions(path)

    def identify(self, prediction: Prediction) -> str:
        return prediction.id

    def asks_another(self, question: Question, prediction: Prediction) -> bool:
        return False

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        """What the rule reads in a reply, None where it reads nothing."""
        return reply

    def points(self, question: Question, answer: str) -> float:
        """What a parsed answer is worth, 0-1."""
        return float(answer == question.answer)

    @abstractmethod
    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """The benchmark's figures, named and scaled as it names and scales them."""

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        """Breakdowns beside the figures."""
        return {}

    def mark(self, question: Question, text: str | None, rule: str = OFFICIAL) -> Marked:
        answer = None if text is None else self.parse(question, text, rule)
        return Marked(question, text, answer, 0.0 if answer is None else self.points(question, answer))

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> Scored:
        marked = [self.mark(row.question, row.text, rule) for row in rows]
        unparsed = [(row.question.id, row.text) for row in marked if row.answer is None and row.text is not None]
        return Scored(
            metrics=self.metrics(marked),
            count=len(marked),
            unparsed=len(unparsed),
            missing=sum(row.text is None for row in marked),
            examples=tuple(unparsed[:EXAMPLES]),
            tables=self.tables(marked),
        )

    def submission(self, rows: Sequence[Reply]) -> tuple[str, bytes] | None:
        return None


def ask(
    name: str, text: str, image_file: Path | None = None, *, answer: str = "", origin: str = "", **tags: Any
) -> Question:
    """Return a question of one user turn, with its image first."""
    parts: tuple[Part, ...] = (text,) if image_file is None else (ImageRef(image_file), text)
    return Question(name, Sample(name, (Message("user", parts),), origin=origin), answer, tags)


def prompt_lines(prompt: str) -> list[str]:
    """A prompt's lines. If it has no line break, it is split at `\\n` written as two characters, as some files do."""
    text = prompt.replace("\r\n", "\n")
    return (text if "\n" in text else text.replace("\\r", "").replace("\\n", "\n")).split("\n")


def mean(rows: Sequence[Marked]) -> float:
    """Per cent of all points; 0 where there are no rows."""
    return 100 * sum(row.points for row in rows) / max(len(rows), 1)


def by(rows: Sequence[Marked], tag: str) -> dict[str, tuple[float, int]]:
    """`mean` of each value of a tag, in sorted order; rows without the tag stay out."""
    groups: dict[str, list[Marked]] = {}
    for row in rows:
        if row.question.tags.get(tag) is not None:
            groups.setdefault(str(row.question.tags[tag]), []).append(row)
    return {name: (mean(groups[name]), len(groups[name])) for name in sorted(groups)}


def same_text(reply: str, gold: str) -> bool:
    """Exact match but for case, outer space and a final full stop."""
    return bare(reply) == bare(gold)


def bare(text: str) -> str:
    """Lower case, blanks made one, no final full stop; Hangul in syllables, which some systems write as letters."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip().removesuffix(".").lower()


def image_of(question: Question) -> str:
    """What a bootstrap resamples by: the picture, or the question itself where it has none."""
    images = question.sample.images
    return str(images[0].source) if images else f"question {question.id}"
