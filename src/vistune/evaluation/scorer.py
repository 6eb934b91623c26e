"""The scorer alone, on anybody's predictions.

task + predictions file -> Prediction -> Reply, one a question -> Scored -> what `score --json` prints
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vistune.errors import DataError, RecipeError
from vistune.evaluation.predictions import IDS, KEPT, TEXTS, Joined, Prediction, join, other_texts
from vistune.evaluation.task import LENIENT, OFFICIAL, Judge, Reply, Scored, Task
from vistune.records import UnreadField, count_unread, unread_fields
from vistune.types import Question


@dataclass(frozen=True, slots=True)
class Measured:
    """A task's figures on a predictions file, and the upload for its server where it has one."""

    task: str
    rule: str
    scored: Scored
    repeated: int  # lines of the predictions that a later line for the same question replaced
    other: Mapping[str, float] | None = None  # the figures by the other parse rule, where they differ
    upload: tuple[str, bytes] | None = None
    unread_fields: tuple[UnreadField, ...] = ()  # in the predictions and in the user's own questions
    warnings: tuple[str, ...] = ()  # about the user's own questions

    def told_by(self, judge: Mapping[str, Any]) -> Measured:
        """The same with who judged: model, endpoint, day, dollars, beside the prompt's hash and parameters."""
        notes = {**self.scored.notes, "judge": {**self.scored.notes.get("judge", {}), **judge}}
        return replace(self, scored=replace(self.scored, notes=notes))

    def to_dict(self) -> dict[str, Any]:
        result: dict[str, Any] = {"task": self.task, **self.scored.to_dict()}
        result |= {"parse": self.rule, "repeated": self.repeated}
        result |= {"unread_fields": [field.to_dict() for field in self.unread_fields]}
        if self.other is not None:
            result[OFFICIAL if self.rule == LENIENT else LENIENT] = dict(self.other)
        return result


def score(
    name: str, task: Task, predictions: Path, *, rule: str = OFFICIAL, judge: Judge | None = None, upload: bool = False
) -> Measured:
    """Score a predictions file over all questions of the task's data.

    Raises DataError for a prediction whose question is not in the data or that was made for another question, and
    RecipeError for a rule that the task does not have. `upload` also makes the file for the benchmark's server.
    """
    if rule not in task.rules:
        raise RecipeError(f"--parse {rule}: {name} has no such rule", f"it has: {', '.join(task.rules)}")
    questions = task.questions()
    if judge is not None and not task.judged:
        raise RecipeError(f"{name} has nothing for a judge", "leave --judge out")
    said = task.read(predictions)
    unread = (*task.unread_fields, *unread_of(task, questions, predictions, said))
    rows, joined = replies(task, questions, predictions, said)
    scored = task.score(rows, rule, judge)
    other = None
    if not task.judged and len(task.rules) > 1:
        figures = task.score(rows, next(known for known in task.rules if known != rule)).metrics
        other = figures if figures != scored.metrics else None
    made = task.submission(rows) if upload else None
    if upload and made is None:
        raise RecipeError(f"{name} has no server to upload to", "leave --submission out")
    return Measured(name, rule, scored, joined.repeated, other, made, unread, tuple(task.warnings))


def unread_of(
    task: Task, questions: Sequence[Question], path: Path, predictions: Sequence[Prediction]
) -> list[UnreadField]:
    """The fields of a predictions file that are known neither to the task nor to our formats."""
    unread = Counter(getattr(predictions, "unread", {}))
    known = KEPT.union(task.prediction_fields, *(question.tags for question in questions))
    for prediction in predictions:
        count_unread(prediction.fields, known, unread)
        unread.update(other_texts(prediction))
        unread.subtract(name for name in prediction.read_from if name not in known)
    return unread_fields(path, +unread, {*IDS, *TEXTS, "prompt", *task.prediction_fields})


def replies(
    task: Task, questions: Sequence[Question], predictions: Path, read: Sequence[Prediction]
) -> tuple[list[Reply], Joined]:
    """One Reply per question, in the data's order; `read`: the contents of the predictions file."""
    by_id = {question.id: question for question in questions}
    if len(by_id) != len(questions):
        raise DataError(f"{len(questions) - len(by_id)} question ids come twice in the data", "mend the data's ids")
    joined = join(by_id, read, task.identify)
    if not joined.found:
        raise DataError(f"{predictions}: holds no prediction", "name the file that the model's answers are in")
    for name, prediction in joined.found.items():
        if task.asks_another(by_id[name], prediction):
            raise DataError(
                f"{prediction.place}:prompt: is another question than {name!r} of the data, "
                f"{by_id[name].sample.messages[-1].text!r:.90}",
                "these predictions belong to other label files: take those of the version that was asked",
            )
    rows = []
    for question in questions:
        said = joined.found.get(question.id)
        rows.append(Reply(question, None) if said is None else Reply(question, said.text, said.fields))
    return rows, joined


def figures_of(task: Task, rows: Sequence[Reply]) -> Scored:
    """The official figures of answers that were just given; a judged task has none without its judge."""
    if task.judged:
        return Scored({}, len(rows))
    return replace(task.score(rows), tables={})
