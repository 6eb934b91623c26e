"""Define a benchmark: its questions with right answers, the parsing of replies, and the reported figures.

data folder -> questions
predictions file -> Prediction -> Reply (with its question) -> Marked (a parsed reply with points from 0 to 1) ->
TaskScore

A task is one small class derived from `Benchmark`. It defines the files of the benchmark's release, the prompt, how a
reply is parsed, how many points an answer gets, and the metrics. Running, joining, blind conditions, intervals and
printing are shared.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from vistune.errors import DataError, RecipeError
from vistune.evaluation.predictions import Prediction, read_predictions
from vistune.records import UnreadField
from vistune.records.errors import shown
from vistune.types import ImageRef, Message, Part, Question, Sample

OFFICIAL, LENIENT = "official", "lenient"
BOTH: tuple[str, ...] = (OFFICIAL, LENIENT)
EXAMPLES = 5  # unparsed replies that a result shows
# The suffixes that LLaVA-1.5 was trained and measured with.
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."

Table = Mapping[str, tuple[float, int]]  # group -> (figure, number of questions)
# Maps bodies of chat requests without `model` to the replies' texts in the same order; raises if one fails.
Judge = Callable[[Sequence[Mapping[str, Any]]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """The entry of a task in `evaluate --list`: the files of its data folder, their source and licence."""

    about: str
    files: tuple[str, ...]
    source: str
    licence: str
    size: str
    paper: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A question with a model's reply; `text` is None if the predictions have none for it."""

    question: Question
    text: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)  # the prediction's record


@dataclass(frozen=True, slots=True)
class Marked:
    """A parsed and marked reply: `answer` is None if it is missing or unparsed, `points` are from 0 to 1."""

    question: Question
    text: str | None
    answer: str | None
    points: float


class UnparsedReply(NamedTuple):
    """A reply in which the parse rule found no answer."""

    question_id: str
    text: str


class Upload(NamedTuple):
    """A file for a benchmark's server."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A task's figures. Missing and unparsed replies are part of `count`, the denominator, like all others.

    Attributes:
        examples: The first unparsed replies.
        notes: Notes on the scoring: the judge, the hash of its prompt, the rule of the data's version.
    """

    metrics: Mapping[str, float]
    count: int
    unparsed: int = 0
    missing: int = 0
    examples: tuple[UnparsedReply, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON, without the task's name; tables as {group: {value, count}}."""
        tables = {
            name: {group: {"value": value, "count": count} for group, (value, count) in table.items()}
            for name, table in self.tables.items()
        }
        return {
            "metrics": dict(self.metrics),
            "count": self.count,
            "unparsed": self.unparsed,
            "missing": self.missing,
            "examples": [reply._asdict() for reply in self.examples],
            "tables": tables,
            **self.notes,
        }


class Benchmark(ABC):
    """Base of all tasks. A task defines `facts`, `questions` and `metrics`, and overrides what else differs.

    Attributes:
        max_tokens: Longest reply in tokens, as in the published runs.
        rules: Parse rules: official (the benchmark's published rule, or a harness's), and lenient if the task has one.
        judged: Whether `score` asks a judge.
        prediction_fields: Fields of predictions that the task uses or that its release contains.
        unread_fields, warnings: Unread fields of the user's own questions, and warnings about them; known once the
            questions are read.
        missing: One error per missing image.
    """

    facts: ClassVar[Facts]
    max_tokens: int = 128
    rules: tuple[str, ...] = (OFFICIAL,)
    judged: bool = False
    prediction_fields: frozenset[str] = frozenset()
    unread_fields: Sequence[UnreadField] = ()
    warnings: Sequence[str] = ()
    missing: Sequence[DataError] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def questions(self) -> Sequence[Question]:
        """Return all questions in the release's order, with unique ids; each sample ends with the user's message."""

    def check_images(self) -> None:
        """Raise DataError if images are missing. It is called before a model is asked; scoring needs no images."""
        if self.missing:
            first, more = self.missing[0], len(self.missing) - 1
            raise DataError(first.message + (f"; and {more:,} more images" if more else ""), first.hint)

    def read(self, path: Path) -> Sequence[Prediction]:
        """Read a predictions file in any format that is in use for the task."""
        return read_predictions(path)

    def identify(self, prediction: Prediction) -> str:
        """Return the id of the question that a prediction answers."""
        return prediction.id

    def asks_another(self, question: Question, prediction: Prediction) -> bool:
        """Return whether a prediction with this id was made for another question, of another version of the files."""
        return False

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        """Return the answer that the rule finds in a reply, None if it finds none."""
        return reply

    def points(self, question: Question, answer: str) -> float:
        """Return the points of a parsed answer, from 0 to 1."""
        return float(answer == question.answer)

    @abstractmethod
    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """Return the benchmark's figures, named and scaled as it does."""

    def tables(self, rows: Sequence[Marked]) -> Mapping[str, Table]:
        """Return breakdowns of the figures."""
        return {}

    def mark(self, question: Question, text: str | None, rule: str = OFFICIAL) -> Marked:
        """Parse and mark one reply, in linear time and without exceptions for any text.

        Raises RecipeError if `parse` or `points` of a user's task returns a value of the wrong type.
        """
        answer = None if text is None else self.parse(question, text, rule)
        if answer is None:
            return Marked(question, text, None, 0.0)
        if not isinstance(answer, str):
            raise self._wrong("parse", answer, "text, or None if the reply has no answer")
        points = self.points(question, answer)
        if not isinstance(points, Real) or not 0 <= points <= 1:
            raise self._wrong("points", points, "a number from 0 to 1")
        return Marked(question, text, answer, points)

    def _wrong(self, method: str, value: object, expected: str) -> RecipeError:
        return RecipeError(f"{type(self).__name__}.{method} returned {shown(value)}", f"return {expected}")

    def _figures(self, rows: Sequence[Marked]) -> tuple[Mapping[str, float], Mapping[str, Table]]:
        """Return `metrics` and `tables`. Raises RecipeError if they are of the wrong type."""
        metrics, tables = self.metrics(rows), self.tables(rows)
        if not isinstance(metrics, Mapping) or not all(isinstance(value, Real) for value in metrics.values()):
            raise self._wrong("metrics", metrics, "a dict of numbers by name")
        groups = [list(table.items()) if isinstance(table, Mapping) else [("", None)] for table in tables.values()]
        for group, cell in chain.from_iterable(groups):
            if not (isinstance(cell, tuple | list) and len(cell) == 2 and all(isinstance(n, Real) for n in cell)):
                problem = f"{type(self).__name__}.tables returned {shown(cell)} for the group {group!r}"
                raise RecipeError(problem, "return {table: {group: (value, number of questions)}}, as mean_by does")
        return metrics, tables

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> TaskScore:
        """Compute the figures over exactly these questions."""
        marked = [self.mark(row.question, row.text, rule) for row in rows]
        unparsed = [
            UnparsedReply(row.question.id, row.text) for row in marked if row.answer is None and row.text is not None
        ]
        metrics, tables = self._figures(marked)
        return TaskScore(
            metrics=metrics,
            count=len(marked),
            unparsed=len(unparsed),
            missing=sum(row.text is None for row in marked),
            examples=tuple(unparsed[:EXAMPLES]),
            tables=tables,
        )

    def submission(self, rows: Sequence[Reply]) -> Upload | None:
        """Return the file for the benchmark's server; None if it has none."""
        return None


def questions_of(task: Benchmark) -> Sequence[Question]:
    """Return a task's questions.

    Raises RecipeError if they are not a list of questions, DataError if an id occurs twice.
    """
    questions: object = task.questions()
    if not isinstance(questions, Sequence) or not all(isinstance(question, Question) for question in questions):
        problem = f"{type(task).__name__}.questions returned {shown(questions)}"
        raise RecipeError(problem, "return a list of questions, as make_question builds them")
    if repeated := len(questions) - len({question.id for question in questions}):
        raise DataError(f"{repeated} question ids occur twice in the data", "correct the data's ids")
    return questions


def make_question(
    name: str, text: str, image_file: Path | None = None, *, answer: str = "", origin: str = "", **tags: object
) -> Question:
    """Return a question of one user turn, with its image first.

    Args:
        origin: Where the question is from, such as file and line, for error messages.
        tags: Values for the task's metrics and tables.

    Raises DataError unless name, text and answer are text: an answer 1 would never equal a reply "1".
    """
    for field_name, value in (("name", name), ("text", text), ("answer", answer)):
        if not isinstance(value, str):
            location = origin or f"question {name}"
            raise DataError(f"{location}: {field_name}: expected text, got {shown(value)}", "convert it with str()")
    parts: tuple[Part, ...] = (text,) if image_file is None else (ImageRef(image_file), text)
    return Question(name, Sample(name, (Message("user", parts),), origin=origin), answer, tags)


def prompt_lines(prompt: str) -> list[str]:
    """Split a prompt into lines. Without a line break it is split at `\\n` in two characters, as some files have it."""
    text = prompt.replace("\r\n", "\n")
    return (text if "\n" in text else text.replace("\\r", "").replace("\\n", "\n")).split("\n")


def mean(rows: Sequence[Marked]) -> float:
    """Return the mean points in per cent; 0 for no rows."""
    return 100 * sum(row.points for row in rows) / max(len(rows), 1)


def mean_by(rows: Sequence[Marked], tag: str) -> dict[str, tuple[float, int]]:
    """Return `mean` and count for each value of a tag, sorted; rows without the tag are omitted."""
    groups: dict[str, list[Marked]] = {}
    for row in rows:
        if row.question.tags.get(tag) is not None:
            groups.setdefault(str(row.question.tags[tag]), []).append(row)
    return {name: (mean(groups[name]), len(groups[name])) for name in sorted(groups)}


def same_text(reply: str, gold: str) -> bool:
    """Return whether two texts are equal except for case, outer space and a final full stop."""
    return bare(reply) == bare(gold)


def bare(text: str) -> str:
    """Normalise a text: lower case, single spaces, no final full stop, Hangul as syllables (NFC)."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip().removesuffix(".").lower()


def image_of(question: Question) -> str:
    """Return a question's image, by which the bootstrap resamples; the question itself if it has none."""
    images = question.sample.images
    return str(images[0].source) if images else f"question {question.id}"
