"""POPE: does the model claim objects that are not there? https://arxiv.org/abs/2305.10355

Three splits of yes-no questions; LLaVA's published figure is the mean of their F1. Two label sets are in use, which
differ by about fifty questions per split, so replies are joined by image and question, never by line. Replies to other
questions are refused.

A question's id is LLaVA's number over the three splits, or the label files' id if ids are unique over the splits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.parsing import yes_or_no
from vistune.evaluation.predictions import Prediction
from vistune.evaluation.release import field_of, find_files, id_in, matching, release_lines
from vistune.evaluation.task import BOTH, LENIENT, OFFICIAL, SHORT, Benchmark, Facts, Marked, Table, make_question
from vistune.types import Question

_BREAK = re.compile(r"\r\n?|(?:\\r)?\\n")
FIRST_ID = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}  # LLaVA's numbering over the three splits


class Pope(Benchmark):
    """A reply is "no" if it has "No", "no" or "not" before the first full stop, else "yes", even if it is evasive."""

    facts = Facts(
        about="about 9,000 yes-no questions on 500 COCO val2014 images, in three splits",
        files=(
            "coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json (LLaVA-1.5: commit e3e39262)",
            "llava_pope_test.jsonl (optional)",
            "val2014/ (COCO's images)",
        ),
        source="https://github.com/RUCAIBox/POPE and https://cocodataset.org",
        licence="MIT; images: COCO's terms",
        size="1 MB, and 6 GB of images (80 MB are used)",
        paper="https://arxiv.org/abs/2305.10355",
    )
    rules = BOTH

    prediction_fields = frozenset({"category", "label", "split"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.own: dict[str, dict[str, str]] = {}  # id in the label files -> split -> the question's id
        self.is_numbered = True  # whether the predictions' ids are LLaVA's numbers

    def questions(self) -> Sequence[Question]:
        paths = dict(
            zip(FIRST_ID, find_files(self.folder, [f"coco_pope_{split}.json" for split in FIRST_ID]), strict=True)
        )
        asked = matching(self.folder, "llava_pope_test*.jsonl")
        rows = []
        for split, path in paths.items():
            labels = list(release_lines(path))
            for location, row in self._asked(asked[0], split, path, labels) if asked else labels:
                rows.append((split, id_in(row, "question_id", location), location, row))
        self.own = {}
        for split, own, _, _ in rows:
            self.own.setdefault(own, {})[split] = own
        is_unique = all(len(splits) == 1 for splits in self.own.values())
        questions = []
        for split, own, location, row in rows:
            if not is_unique:
                self.own[own][split] = _numbered(split, own, location)
            _, text = _key(row, location)
            label = field_of(row, "label", str, location).strip().lower()
            if label not in ("yes", "no"):
                raise DataError(f"{location}:label: {label!r} is not a label", "write yes or no")
            image, tags = self.folder / "val2014" / row["image"], {"split": split, "bare": text}
            questions.append(
                make_question(self.own[own][split], text + SHORT, image, answer=label, origin=location, **tags)
            )
        self.bare = {question.id: question.tags["bare"] for question in questions}
        return questions

    def _asked(self, path: Path, split: str, label_path: Path, labels: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Return LLaVA's questions of a split with labels. Raise DataError unless both have the same questions."""
        label_of = {_key(row, location): field_of(row, "label", str, location) for location, row in labels}
        rows = [
            (location, row)
            for location, row in release_lines(path)
            if field_of({"category": "", **row} if isinstance(row, dict) else row, "category", str, location) == split
        ]
        counted, expected = (Counter(_key(row, location) for location, row in side) for side in (rows, labels))
        unlabelled = counted - expected
        if unlabelled or expected - counted:
            example = next(iter(unlabelled or expected - counted))
            raise DataError(
                f"{label_path} and {path.name} do not contain the same questions: {unlabelled.total()} questions "
                f"have no label, {(expected - counted).total()} labels have no question, "
                f"such as {example[1]!r} of {example[0]}",
                "use the label files of the release whose questions you asked: LLaVA-1.5 used commit e3e39262 of POPE",
            )
        return [(location, {**row, "label": label_of[_key(row, location)]}) for location, row in rows]

    def read(self, path: Path) -> Sequence[Prediction]:
        predictions = super().read(path)
        self.is_numbered = any(p.id.isdigit() and int(p.id) >= FIRST_ID["random"] for p in predictions)
        return predictions

    def identify(self, prediction: Prediction) -> str:
        """Return the question of a prediction, by its id and, if present, its `category` and `prompt`.

        An id of the label files is enough if only one question has it. If each split counts from 1, `category` is
        needed. Raises DataError if several questions match.
        """
        splits = self.own.get(prediction.id, {})
        if (named := _split_of(prediction)) is not None:
            if named in splits:
                return splits[named]
            is_own = prediction.id.isdigit() and int(prediction.id) < FIRST_ID["random"]
            return str(FIRST_ID[named] + int(prediction.id)) if is_own else prediction.id
        if not splits or self.is_numbered:
            return prediction.id
        if len(splits) == 1:
            return next(iter(splits.values()))
        prompt = " ".join(str(prediction.fields.get("prompt", "")).split())
        if len(fits := [name for name in splits.values() if prompt and self.bare[name] in prompt]) == 1:
            return fits[0]
        raise DataError(
            f"{prediction.location}:question_id: {prediction.id!r} is a question of each of {', '.join(splits)}",
            "add `category` (adversarial, random or popular) to each line, or add "
            "10,000,000 to the ids of random and 20,000,000 to those of popular, as LLaVA does",
        )

    def asks_another(self, question: Question, prediction: Prediction) -> bool:
        prompt = prediction.fields.get("prompt")
        return isinstance(prompt, str) and question.tags["bare"] not in " ".join(prompt.split())

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if rule == LENIENT:
            return yes_or_no(reply)
        tokens = reply.split(".", 1)[0].replace(",", "").split(" ")
        if any(word in tokens for word in ("No", "not", "no")):
            return "no"
        return "yes" if "yes" in reply.lower() else None

    def mark(self, question: Question, text: str | None, rule: str = OFFICIAL) -> Marked:
        """Mark a reply. An unparsed one counts as a yes, by the official rule; a missing one is wrong."""
        answer = None if text is None else self.parse(question, text, rule)
        return Marked(question, text, answer, float(text is not None and (answer or "yes") == question.answer))

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        splits = {split: [row for row in rows if row.question.tags["split"] == split] for split in FIRST_ID}
        figures = {split: confusion(chosen) for split, chosen in splits.items() if chosen}
        mean_f1 = sum(figure["f1"] for figure in figures.values()) / max(len(figures), 1)
        flat = {f"{split}_{name}": value for split, figure in figures.items() for name, value in figure.items()}
        return {"mean_f1": mean_f1, "pooled_f1": confusion(rows)["f1"], **flat}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        """Return the share of each split's questions that are true positives, false negatives …; positive = yes."""
        asked = Counter(row.question.tags["split"] for row in rows)
        cells = Counter((row.question.tags["split"], _cell(row)) for row in rows)
        return {
            "confusion": {
                f"{split} {cell}": (100 * count / asked[split], count) for (split, cell), count in sorted(cells.items())
            }
        }


def confusion(rows: Sequence[Marked]) -> dict[str, float]:
    """Return POPE's figures in per cent; positive = yes, and a ratio over nothing is 0."""
    cells = Counter(_cell(row) for row in rows)
    tp, fp, fn, tn = (cells[name] for name in ("TP", "FP", "FN", "TN"))
    precision, recall = 100 * tp / max(tp + fp, 1), 100 * tp / max(tp + fn, 1)
    return {
        "accuracy": 100 * (tp + tn) / max(len(rows), 1),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if tp else 0.0,
        "yes_ratio": 100 * (tp + fp) / max(len(rows), 1),
    }


def _cell(row: Marked) -> str:
    """Return TP, FP, FN or TN for a marked reply."""
    right, yes = row.points == 1, row.question.answer == "yes"
    return {(True, True): "TP", (False, True): "FN", (True, False): "TN", (False, False): "FP"}[right, yes]


def _split_of(prediction: Prediction) -> str | None:
    named = (str(prediction.fields.get(name, "")).strip().lower() for name in ("category", "split"))
    return next((split for split in named if split in FIRST_ID), None)


def _numbered(split: str, own: str, location: str) -> str:
    """Return LLaVA's number of a question whose id is also used in other splits."""
    if not own.isdigit():
        raise DataError(f"{location}:question_id: {own!r} is in other splits too", "give each question its own id")
    return str(FIRST_ID[split] + int(own))


def _key(row: object, location: str) -> tuple[str, str]:
    """Return the image's file name and the bare question."""
    image = field_of(row, "image", str, location)
    return image.replace("\\", "/").rsplit("/", 1)[-1], bare_question(field_of(row, "text", str, location))


def bare_question(text: str) -> str:
    """Remove the text that projects add to a question: an image marker, and the instruction on how to answer.

    The instruction follows the question mark, or a line break, which may be written as `\\n` in two characters.
    """
    lines = _BREAK.sub("\n", text).replace("<image>", "\n").strip().split("\n", 1)[0]
    question, mark, _ = lines.partition("?")
    return " ".join((question + mark).split())
