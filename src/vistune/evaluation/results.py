"""Turn answers into figures with confidence intervals, and compare them with the figures under the blind conditions.

answered questions -> Estimate (mean and 95 % interval, bootstrapped by image) -> EvaluationResult
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from vistune.evaluation.conditions import CONDITIONS
from vistune.evaluation.task import Benchmark, Reply, TaskScore, image_of
from vistune.notebook import html_table
from vistune.records import UnreadField
from vistune.types import Question

RESAMPLES = 2000
# Resampling fewer images than this gives an interval that is too narrow. With one image it has no width at all.
FEWEST_IMAGES = 10
TOO_FEW_IMAGES = f"too few images for a confidence interval: ask about at least {FEWEST_IMAGES} images"


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question with a model's answer, and its points from 0 to 1 (0 too if only a judge can decide).

    Attributes:
        finish_reason: "stop", or "length" if the answer was cut off at the task's `max_tokens`.
    """

    question: Question
    condition: str
    text: str
    points: float
    finish_reason: str = "stop"

    def to_dict(self) -> dict[str, object]:
        """Return LLaVA's answer line, with the fields that a report needs."""
        return {
            "question_id": self.question.id,
            "prompt": self.question.sample.messages[-1].text,
            "text": self.text,
            "answer": self.question.answer,
            "right": self.points,
            "condition": self.condition,
            "finish_reason": self.finish_reason,
            "image": image_of(self.question),
            **{name: value for name, value in self.question.tags.items() if isinstance(value, str | int | float)},
        }


StoreAnswers = Callable[[Sequence[AnsweredQuestion]], None]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean from 0 to 1 (a difference: -1 to 1) with its 95 % interval, over `count` questions.

    Attributes:
        has_interval: Whether there are enough images for an interval; otherwise `low` and `high` are the least and the
            greatest possible value.
    """

    value: float
    low: float
    high: float
    count: int
    has_interval: bool = True

    def to_dict(self) -> dict[str, float | int]:
        """Return the fields; `has_interval` only if it is false."""
        return {name: value for name, value in asdict(self).items() if name != "has_interval" or not value}


@dataclass(frozen=True, slots=True)
class Gap:
    """The accuracy gain from seeing the image.

    Attributes:
        difference: Accuracy with the image minus that of the better blind condition, on the same questions.
        against: The better blind condition.
        words: What the interval says.
    """

    difference: Estimate
    against: str
    words: str

    def to_dict(self) -> dict[str, object]:
        return {**self.difference.to_dict(), "against": self.against, "words": self.words}


@dataclass(frozen=True, slots=True)
class Change:
    """The share of questions whose answer changes without the right image, and what its interval says."""

    share: Estimate
    words: str

    def to_dict(self) -> dict[str, object]:
        return {**self.share.to_dict(), "words": self.words}


@dataclass(frozen=True, slots=True)
class GroupResult:
    """Accuracy of one question type or language by condition, and the accuracy of its most frequent answers."""

    accuracy: Mapping[str, Estimate]
    majority: float

    def to_dict(self) -> dict[str, object]:
        return {**{name: estimate.to_dict() for name, estimate in self.accuracy.items()}, "majority": self.majority}


@dataclass(frozen=True, slots=True, repr=False)
class EvaluationResult:
    """The figures of a model on a task.

    Intervals, gap and groups are about the mean points of the answers, from 0 to 1, whatever the task's metrics are. A
    task whose figures come from a judge or a server has no metrics here, but `changed`.

    Attributes:
        task: The task's name.
        score: The task's own figures with the image, and what was missing or unparsed.
        model: The model as the caller named it.
        majority: Accuracy of always giving the most frequent answer of a question's type and language.
        without_image, wrong_image: The metrics of the blind conditions, if they were asked.
        intervals: Accuracy by condition.
        gap: The accuracy gain from seeing the image, if a blind condition was asked.
        changed: By blind condition, how often the answer changes; only for a task without metrics.
        by_type, by_language: Accuracy of each group of questions.
        by_source: Accuracy by data file, if the questions are from a run's held-out split.
        asked_with: Everything on which the answers depend.
        left_out: Conditions that could not be asked, each with the reason.
        answers: All answers by condition. They are not part of the JSON.
        benchmark: The task object; images that it unpacked exist as long as it does.
    """

    task: str
    score: TaskScore
    model: str = ""
    majority: float | None = None
    without_image: Mapping[str, float] | None = None
    wrong_image: Mapping[str, float] | None = None
    intervals: Mapping[str, Estimate] = field(default_factory=dict)
    gap: Gap | None = None
    changed: Mapping[str, Change] = field(default_factory=dict)
    by_type: Mapping[str, GroupResult] = field(default_factory=dict)
    by_language: Mapping[str, GroupResult] = field(default_factory=dict)
    by_source: Mapping[str, GroupResult] = field(default_factory=dict)
    asked_with: Mapping[str, Any] = field(default_factory=dict)
    unread_fields: tuple[UnreadField, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Sequence[AnsweredQuestion]] = field(default_factory=dict, repr=False)
    benchmark: Benchmark | None = field(default=None, repr=False)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The task's own figures with the image, named and scaled as the task does."""
        return self.score.metrics

    @property
    def count(self) -> int:
        """The number of questions."""
        return self.score.count

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={value:.2f}" for name, value in self.metrics.items())
        return f"EvaluationResult({self.task!r}, {self.count} questions{', ' if figures else ''}{figures})"

    def _repr_html_(self) -> str:
        headers = ("", "value", "95 % interval")
        return html_table(_table_rows(self), headers, f"{self.task}, {self.count} questions")

    def to_dict(self) -> dict[str, object]:
        """Return what `evaluate --json` prints."""
        tree: dict[str, object] = {"task": self.task, **self.score.to_dict()}
        if self.metrics:
            tree["majority"] = self.majority
            if self.without_image is not None:
                tree["without_image"] = dict(self.without_image)
            if self.wrong_image is not None:
                tree["wrong_image"] = dict(self.wrong_image)
            tree["intervals"] = _to_dicts(self.intervals)
            if self.gap is not None:
                tree["gap"] = self.gap.to_dict()
            tree |= {"by_type": _to_dicts(self.by_type), "by_language": _to_dicts(self.by_language)}
            if self.by_source:
                tree["by_source"] = _to_dicts(self.by_source)
        elif self.changed:
            tree["changed"] = _to_dicts(self.changed)
        tree |= {"model": self.model, "asked_with": dict(self.asked_with)}
        tree["unread_fields"] = [field.to_dict() for field in self.unread_fields]
        return tree | ({"left_out": dict(self.left_out)} if self.left_out else {})


def _table_rows(result: EvaluationResult) -> list[tuple[str, str, str]]:
    """Return name, value and interval of each figure."""
    rows = [(name, f"{value:.2f}", "") for name, value in result.metrics.items()]
    for condition, interval in result.intervals.items():
        shown = f"{100 * interval.low:.1f} – {100 * interval.high:.1f}" if interval.has_interval else TOO_FEW_IMAGES
        rows.append((f"accuracy {condition.replace('_', ' ')}", f"{100 * interval.value:.1f} %", shown))
    if result.majority is not None:
        rows.append(("most frequent answer", f"{100 * result.majority:.1f} %", ""))
    if result.gap is not None:
        rows.append(("gain from the image", f"{100 * result.gap.difference.value:.1f} points", result.gap.words))
    for condition, change in result.changed.items():
        name = f"answers changed {condition.replace('_', ' ')}"
        rows.append((name, f"{100 * change.share.value:.1f} %", change.words))
    return rows + [(condition.replace("_", " "), "not asked", reason) for condition, reason in result.left_out.items()]


def _to_dicts(values: Mapping[str, Estimate | Change | GroupResult]) -> dict[str, object]:
    return {name: value.to_dict() for name, value in values.items()}


def read_result(tree: Mapping[str, Any], answers: Mapping[str, Sequence[AnsweredQuestion]]) -> EvaluationResult:
    """Read back the figures of `EvaluationResult.to_dict` that a comparison shows; tables and groups are not read."""
    gap = tree.get("gap")
    return EvaluationResult(
        tree["task"],
        TaskScore(tree["metrics"], tree["count"]),
        model=tree.get("model", ""),
        intervals={name: _estimate(value) for name, value in tree.get("intervals", {}).items()},
        gap=None if gap is None else Gap(_estimate(gap), gap.get("against", ""), gap["words"]),
        changed={name: Change(_estimate(value), value["words"]) for name, value in tree.get("changed", {}).items()},
        asked_with=tree.get("asked_with", {}),
        answers=answers,
    )


def _estimate(tree: Mapping[str, Any]) -> Estimate:
    return Estimate(tree["value"], tree["low"], tree["high"], tree["count"], tree.get("has_interval", True))


def _sums(answers: Sequence[AnsweredQuestion], images: Sequence[str]) -> np.ndarray:
    """Return the points and the number of questions of each image; shape (images, 2)."""
    index = {image: k for k, image in enumerate(images)}
    sums = np.zeros((len(images), 2))
    for answer in answers:
        sums[index[image_of(answer.question)]] += (answer.points, 1)
    return sums


def _resample(sums: np.ndarray, seed: int) -> np.ndarray:
    """Return the accuracies of RESAMPLES draws of images with replacement; equal seeds draw equal images."""
    draws = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    totals = sums[draws].sum(axis=1)
    means: np.ndarray = totals[:, 0] / np.maximum(totals[:, 1], 1)
    return means


def accuracy(answers: Sequence[AnsweredQuestion], *, seed: int = 0) -> Estimate:
    """Estimate the mean points. Images are resampled, because the questions of an image are not independent."""
    if not answers:
        return Estimate(0.0, 0.0, 0.0, 0)
    sums = _sums(answers, sorted({image_of(answer.question) for answer in answers}))
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < FEWEST_IMAGES:
        return Estimate(value, 0.0, 1.0, len(answers), has_interval=False)
    low, high = np.quantile(_resample(sums, seed), (0.025, 0.975))
    return Estimate(value, float(low), float(high), len(answers))


def gap(seen: Sequence[AnsweredQuestion], blind: Sequence[AnsweredQuestion], *, seed: int = 0) -> Estimate:
    """Estimate the accuracy of `seen` minus that of `blind`, over the questions that are in both."""
    both = {answer.question.id for answer in blind}
    seen = [answer for answer in seen if answer.question.id in both]
    images = sorted({image_of(answer.question) for answer in seen})
    if not images:
        return Estimate(0.0, 0.0, 0.0, 0)
    with_it, without = _sums(seen, images), _sums(blind, images)
    value = float(with_it[:, 0].sum() / with_it[:, 1].sum() - without[:, 0].sum() / max(without[:, 1].sum(), 1))
    if len(images) < FEWEST_IMAGES:
        return Estimate(value, -1.0, 1.0, len(seen), has_interval=False)
    differences = _resample(with_it, seed) - _resample(without, seed)
    low, high = np.quantile(differences, (0.025, 0.975))
    return Estimate(value, float(low), float(high), len(seen))


def describe_gap(difference: Estimate) -> str:
    """Say what the interval of a gap means."""
    if not difference.has_interval:
        return TOO_FEW_IMAGES
    if difference.low > 0:
        return "the image helps: the 95 % interval of the gain is above zero"
    if difference.high < 0:
        return "the image hurts: the 95 % interval of the gain is below zero"
    return "no sign that the model uses the image: the 95 % interval of the gain includes zero"


def share_changed(seen: Sequence[AnsweredQuestion], blind: Sequence[AnsweredQuestion], *, seed: int = 0) -> Estimate:
    """Estimate the share of questions in both whose answer differs."""
    texts = {answer.question.id: answer.text for answer in seen}
    return accuracy([replace(a, points=float(a.text != texts[a.question.id])) for a in blind], seed=seed)


def describe_change(share: Estimate) -> str:
    """Say what the interval of a share of changed answers means."""
    if not share.has_interval:
        return TOO_FEW_IMAGES
    if share.low > 0:
        return "its replies depend on the image: the interval of the share is above zero"
    return "no sign that the model uses the image: the interval of the share of changed replies includes zero"


def majority(questions: Sequence[Question]) -> float:
    """Return the accuracy of always giving the most frequent answer of the question's type and language."""
    answers: dict[tuple[object, object], Counter[str]] = defaultdict(Counter)
    for question in questions:
        answers[question.tags.get("type"), question.tags.get("language")][question.answer] += 1
    return sum(counter.most_common(1)[0][1] for counter in answers.values()) / max(len(questions), 1)


def score_answers(task: Benchmark, replies: Sequence[Reply]) -> TaskScore:
    """Return the task's figures; a judged task has none without its judge."""
    return TaskScore({}, len(replies)) if task.judged else task.score(replies)


def evaluation_result(
    name: str, task: Benchmark, answers: Mapping[str, Sequence[AnsweredQuestion]], *, seed: int = 0
) -> EvaluationResult:
    """Compute all figures of a model's answers by condition."""
    asked = [condition for condition in CONDITIONS if condition in answers]
    seen = answers["with_image"]
    scores = {c: score_answers(task, [Reply(a.question, a.text) for a in answers[c]]) for c in asked}
    result = EvaluationResult(name, scores["with_image"], answers=answers)
    if not result.metrics:
        shares = {condition: share_changed(seen, answers[condition], seed=seed) for condition in asked[1:]}
        return replace(result, changed={c: Change(share, describe_change(share)) for c, share in shares.items()})
    intervals = {condition: accuracy(answers[condition], seed=seed) for condition in asked}
    against = max((c for c in asked[1:] if answers[c]), key=lambda c: intervals[c].value, default=None)
    blind_gap = None
    if against is not None:
        difference = gap(seen, answers[against], seed=seed)
        blind_gap = Gap(difference, against, describe_gap(difference))
    return replace(
        result,
        majority=majority([answer.question for answer in seen]),
        without_image=dict(scores["without_image"].metrics) if "without_image" in scores else None,
        wrong_image=dict(scores["wrong_image"].metrics) if "wrong_image" in scores else None,
        intervals=intervals,
        gap=blind_gap,
        by_type=_by_group(answers, "type", seed),
        by_language=_by_group(answers, "language", seed),
        by_source=_by_group(answers, "source", seed) if any("source" in a.question.tags for a in seen) else {},
    )


def _by_group(answers: Mapping[str, Sequence[AnsweredQuestion]], tag: str, seed: int) -> dict[str, GroupResult]:
    def group_of(answer: AnsweredQuestion) -> str:
        return str(answer.question.tags.get(tag, "all"))

    groups = {}
    for group in sorted(set(map(group_of, answers["with_image"]))):
        chosen = {c: [answer for answer in listed if group_of(answer) == group] for c, listed in answers.items()}
        estimates = {condition: accuracy(listed, seed=seed) for condition, listed in chosen.items()}
        groups[group] = GroupResult(estimates, majority([answer.question for answer in chosen["with_image"]]))
    return groups
