"""Score a predictions file of any program by a benchmark's own protocol; no model is loaded.

task + predictions file -> Prediction -> Reply, one per question -> TaskScore -> ScoreResult
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TypedDict

from vistune.errors import DataError, RecipeError
from vistune.evaluation.judge import RemoteJudge
from vistune.evaluation.predictions import (
    IDS,
    OWN_FIELDS,
    TEXTS,
    JoinedPredictions,
    Prediction,
    Predictions,
    join_predictions,
    other_texts,
)
from vistune.evaluation.task import LENIENT, OFFICIAL, Benchmark, Judge, Reply, TaskScore, Upload, questions_of
from vistune.evaluation.tasks import open_task
from vistune.files import write_atomic
from vistune.llm_client import Endpoint
from vistune.progress import Progress
from vistune.records import UnreadField, count_unread, unread_fields
from vistune.types import Question


class ScoreOptions(TypedDict, total=False):
    """Keyword arguments of `vistune.score`: the optional fields of `ScoreRequest`."""

    parse: str
    submission: str | PathLike[str] | None
    judge: Endpoint | None
    judgements: str | PathLike[str] | None
    opinions: int
    match: str | None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A predictions file to score.

    Attributes:
        task: A name in TASKS, or `package.module:attribute`.
        parse: The parse rule, "official" or "lenient".
        submission: Where to write the file that the benchmark's server takes.
        judge: Grades free-form answers.
        judgements: The folder of the judge's replies; by default next to the predictions.
        opinions: Number of gradings of each answer, for tasks that use the mean of several gradings.
        match: The match of the user's own questions, or KIND=MATCH for each kind, separated by commas.
    """

    task: str
    data: Path
    predictions: Path
    parse: str = OFFICIAL
    submission: Path | None = None
    judge: Endpoint | None = None
    judgements: Path | None = None
    opinions: int = 1
    match: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The figures of a predictions file on a task.

    Attributes:
        rule: The parse rule, "official" or "lenient".
        scored: The task's figures, and what was missing or unparsed.
        repeated: Predictions that a later one for the same question replaced.
        other: The figures by the other parse rule, if they differ.
        upload: The file for the benchmark's server, if it was requested.
        unread_fields: Fields of the predictions and of the user's own questions that vistune does not read.
        warnings: Warnings about the user's own questions.
    """

    task: str
    rule: str
    scored: TaskScore
    repeated: int
    other: Mapping[str, float] | None = None
    upload: Upload | None = None
    unread_fields: tuple[UnreadField, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def metrics(self) -> Mapping[str, float]:
        """The task's figures, named and scaled as the task does."""
        return self.scored.metrics

    def with_judge(self, judge: Mapping[str, object]) -> ScoreResult:
        """Return the result with a description of its judge: model, endpoint, day, dollars."""
        notes = {**self.scored.notes, "judge": {**self.scored.notes.get("judge", {}), **judge}}
        return replace(self, scored=replace(self.scored, notes=notes))

    def to_dict(self) -> dict[str, object]:
        """Return what `score --json` prints."""
        tree: dict[str, object] = {"task": self.task, **self.scored.to_dict()}
        tree |= {"parse": self.rule, "repeated": self.repeated}
        tree["unread_fields"] = [field.to_dict() for field in self.unread_fields]
        if self.other is not None:
            tree[OFFICIAL if self.rule == LENIENT else LENIENT] = dict(self.other)
        return tree


def score_file(request: ScoreRequest, progress: Progress) -> ScoreResult:
    """Score a predictions file as `vistune.score`: have it judged if a judge is given, and write the upload."""
    name, predictions = request.task, request.predictions
    task = open_task(name, request.data, match=request.match)
    if request.opinions != 1:
        if not hasattr(task, "judge_runs"):
            raise RecipeError(f"--opinions {request.opinions}: {name} uses no repeated judgements", "remove --opinions")
        task.judge_runs = request.opinions
    upload = request.submission is not None
    if request.judge is None:
        result = score(name, task, predictions, rule=request.parse, upload=upload)
    else:
        replies = request.judgements or predictions.with_name(f"{predictions.name}.judge")
        with progress("judge", 0) as advance:
            judge = RemoteJudge(request.judge, replies, advance)
            result = score(name, task, predictions, rule=request.parse, judge=judge, upload=upload)
        result = result.with_judge(judge.describe())
    if request.submission is not None and result.upload is not None:
        write_atomic(request.submission, result.upload.content)
    return result


def score(
    name: str,
    task: Benchmark,
    predictions: Path,
    *,
    rule: str = OFFICIAL,
    judge: Judge | None = None,
    upload: bool = False,
) -> ScoreResult:
    """Score a predictions file over all questions of the task's data.

    Args:
        upload: Whether to create the file for the benchmark's server.

    Raises:
        DataError: A prediction's question is not in the data, or the prediction was made for another question.
        RecipeError: The task does not have this rule, a judge, or a server.
    """
    if rule not in task.rules:
        raise RecipeError(f"--parse {rule}: {name} has no such rule", f"use one of: {', '.join(task.rules)}")
    questions = questions_of(task)
    if judge is not None and not task.judged:
        raise RecipeError(f"{name} does not use a judge", "remove --judge")
    read = task.read(predictions)
    unread = (*task.unread_fields, *_unread_fields(task, questions, predictions, read))
    replies, joined = _replies(task, questions, predictions, read)
    scored = task.score(replies, rule, judge)
    other = None
    if not task.judged and len(task.rules) > 1:
        figures = task.score(replies, next(known for known in task.rules if known != rule)).metrics
        other = figures if figures != scored.metrics else None
    submission = task.submission(replies) if upload else None
    if upload and submission is None:
        raise RecipeError(f"{name} has no server to upload to", "remove --submission")
    return ScoreResult(name, rule, scored, joined.repeated, other, submission, unread, tuple(task.warnings))


def _unread_fields(
    task: Benchmark, questions: Sequence[Question], path: Path, predictions: Sequence[Prediction]
) -> list[UnreadField]:
    """Return the fields of a predictions file that neither the task nor our formats know."""
    unread: Counter[str] = Counter(predictions.unread if isinstance(predictions, Predictions) else {})
    known = OWN_FIELDS.union(task.prediction_fields, *(question.tags for question in questions))
    for prediction in predictions:
        count_unread(prediction.fields, known, unread)
        unread.update(other_texts(prediction))
        unread.subtract(name for name in prediction.read_from if name not in known)
    return unread_fields(path, +unread, {*IDS, *TEXTS, "prompt", *task.prediction_fields})


def _replies(
    task: Benchmark, questions: Sequence[Question], path: Path, predictions: Sequence[Prediction]
) -> tuple[list[Reply], JoinedPredictions]:
    """Return one Reply per question, in the data's order, and the joined predictions."""
    by_id = {question.id: question for question in questions}
    joined = join_predictions(by_id, predictions, task.identify)
    if not joined.by_id:
        raise DataError(f"{path}: contains no prediction", "name the file with the model's answers")
    for name, prediction in joined.by_id.items():
        if task.asks_another(by_id[name], prediction):
            raise DataError(
                f"{prediction.location}:prompt: differs from that of question {name!r} in the data, "
                f"{by_id[name].sample.messages[-1].text!r:.90}",
                "use the label files of the version whose questions you asked",
            )
    replies = []
    for question in questions:
        own = joined.by_id.get(question.id)
        replies.append(Reply(question, own.text, own.fields) if own else Reply(question, None))
    return replies, joined
