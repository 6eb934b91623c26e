"""Base of tasks whose release is one table: a subclass states its columns, prompt, parse rule and figures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from vistune.errors import DataError
from vistune.evaluation.image_table import ImageRow, ImageTable
from vistune.evaluation.parsing import lenient_letter
from vistune.evaluation.predictions import plain_id
from vistune.evaluation.task import BOTH, LENIENT, Marked, Table, mean, mean_by
from vistune.evaluation.tasks.cards import CardedBenchmark
from vistune.types import ImageRef, Question


class TableTask(CardedBenchmark):
    """A table with one question per row, and at most one image.

    Attributes:
        word: A word in the name of the table's file.
        language: Language in the name of the table's file; "" if there is only one.
        id_columns: The first of these columns that is present has the ids; without one, rows are numbered from 0.
        image_column: The column of the images.
        groups: Columns by which the figures are broken down.
    """

    word: ClassVar[str]
    language: ClassVar[str] = ""
    id_columns: ClassVar[tuple[str, ...]] = ()
    image_column: ClassVar[str] = "image"
    groups: ClassVar[tuple[str, ...]] = ()

    def questions(self) -> Sequence[Question]:
        self.table = ImageTable(self.folder, self.word, (self.image_column,), self.language)
        questions: dict[str, Question] = {}
        for row in self.table:
            question = self.question(row, self.id_of(row))
            if question.id in questions:
                raise DataError(f"{row.location}: the id {question.id!r} occurs twice", "download the file again")
            questions[question.id] = question
        return list(questions.values())

    def id_of(self, row: ImageRow) -> str:
        """Return a row's id."""
        named = row.get(*self.id_columns) if self.id_columns else None
        return str(row.number) if named is None else plain_id(named)

    def question(self, row: ImageRow, name: str) -> Question:
        """Return the question of a row: its prompt, image, answer and tags."""
        tags = {group: row.fields.get(group) for group in self.groups} | self.tags(row)
        image = row.images.get(self.image_column)
        text = self.prompt(row)
        return row.ask(name, (text,) if image is None else (ImageRef(image), text), self.answer(row), tags)

    def prompt(self, row: ImageRow) -> str:
        """Return the text that is asked."""
        return row.text("question")

    def answer(self, row: ImageRow) -> str:
        """Return the right answer; a closed test set has none."""
        return row.get("answer") or ""

    def tags(self, row: ImageRow) -> dict[str, object]:
        """Return values for the parse rule and the figures."""
        return {}

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"accuracy": mean(rows)}

    def tables(self, rows: Sequence[Marked]) -> Mapping[str, Table]:
        tables = {group: mean_by(rows, group) for group in self.groups}
        return {group: table for group, table in tables.items() if table}


class LetterTask(TableTask):
    """A table of multiple-choice questions, answered by a letter. The lenient rule is that of all choice tasks."""

    rules = BOTH

    def answer(self, row: ImageRow) -> str:
        return (row.get("answer") or "").strip().strip("()").upper()

    def options(self, row: ImageRow) -> dict[str, str]:
        """Return the options by letter; without texts if the question contains them."""
        return dict.fromkeys("ABCD", "")

    def tags(self, row: ImageRow) -> dict[str, object]:
        return {"options": self.options(row)}

    @abstractmethod
    def letter(self, reply: str, options: Mapping[str, str]) -> str | None:
        """Return the letter in a reply by the benchmark's own rule."""

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        options = question.tags["options"]
        return lenient_letter(reply, options) if rule == LENIENT else self.letter(reply, options)


def listed(options: Mapping[str, str]) -> str:
    """Return the options as lines "A. text"."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())
