"""POPE: does the model claim objects that are not there? https://arxiv.org/abs/2305.10355

Three splits of yes-no questions; the published figure of LLaVA is the mean of their F1. Two label sets are in use that
differ by about fifty questions a split: replies are joined by picture and question, never by line, and others refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.free_replies import yes_or_no
from vistune.evaluation.predictions import Prediction
from vistune.evaluation.release import field_of, find, matching, picture_folder, release_lines
from vistune.evaluation.task import BOTH, LENIENT, OFFICIAL, SHORT, Benchmark, Facts, Marked, Table, ask
from vistune.types import Question

FIRST_ID = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}  # LLaVA's numbering over the three splits


class Pope(Benchmark):
    """ "no" if "No", "no" or "not" stands before the first full stop, else "yes": also for an evasive reply."""

    facts = Facts(
        about="about 9,000 yes-no questions on 500 COCO val2014 pictures, in three splits",
        files=(
            "coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json (LLaVA-1.5: commit e3e39262)",
            "llava_pope_test.jsonl (optional)",
            "val2014/ (COCO's pictures)",
        ),
        source="https://github.com/RUCAIBox/POPE and https://cocodataset.org",
        licence="MIT; pictures: COCO's terms",
        size="1 MB, and 6 GB of pictures (80 MB are used)",
        paper="https://arxiv.org/abs/2305.10355",
    )
    rules = BOTH

    def questions(self) -> Sequence[Question]:
        paths = dict(zip(FIRST_ID, find(self.folder, [f"coco_pope_{split}.json" for split in FIRST_ID]), strict=True))
        asked = matching(self.folder, "llava_pope_test*.jsonl")
        pictures = picture_folder(self.folder, "val2014")
        found = []
        for split, path in paths.items():
            labels = [(f"{path}:{line}", row) for line, row in release_lines(path)]
            rows = (
                self._asked(asked[0], split, path, labels) if asked else [(p, _id(split, r, p), r) for p, r in labels]
            )
            for place, name, row in rows:
                text, image = field_of(row, "text", str, place), field_of(row, "image", str, place)
                label = field_of(row, "label", str, place)
                found.append(
                    ask(name, text + SHORT, pictures / image, answer=label, origin=place, split=split, bare=text)
                )
        return found

    def _asked(
        self, path: Path, split: str, label_path: Path, labels: list[tuple[str, Any]]
    ) -> list[tuple[str, str, Any]]:
        """LLaVA's questions of a split with their labels. Raises DataError unless both speak of the same questions."""
        label_of = {_key(row, place): row["label"] for place, row in labels}
        rows = [(f"{path}:{line}", row) for line, row in release_lines(path) if row.get("category") == split]
        counted, expected = (Counter(_key(row, place) for place, row in side) for side in (rows, labels))
        strange = counted - expected
        if strange or expected - counted:
            example = next(iter(strange or expected - counted))
            raise DataError(
                f"{label_path}: labels other questions than {path.name} asks: {strange.total()} asked without a label, "
                f"{(expected - counted).total()} labelled and not asked, such as {example[1]!r} of {example[0]}",
                "take the label files of the release that was asked: LLaVA-1.5 used POPE's commit e3e39262",
            )
        return [
            (place, str(row["question_id"]), {**row, "text": _key(row, place)[1], "label": label_of[_key(row, place)]})
            for place, row in rows
        ]

    def identify(self, prediction: Prediction) -> str:
        """LLaVA's number; a split's own number where the line names its `category`."""
        split = prediction.fields.get("category")
        if split in FIRST_ID and prediction.id.isdigit() and int(prediction.id) < FIRST_ID["random"]:
            return str(FIRST_ID[split] + int(prediction.id))
        return prediction.id

    def asks_another(self, question: Question, prediction: Prediction) -> bool:
        prompt = prediction.fields.get("prompt")
        return isinstance(prompt, str) and question.tags["bare"] not in prompt

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if rule == LENIENT:
            return yes_or_no(reply)
        words = reply.split(".", 1)[0].replace(",", "").split(" ")
        if any(word in words for word in ("No", "not", "no")):
            return "no"
        return "yes" if "yes" in reply.lower() else None

    def mark(self, question: Question, text: str | None, rule: str = OFFICIAL) -> Marked:
        """An unparsed reply counts as a yes, as officially; a missing one as the wrong answer."""
        answer = None if text is None else self.parse(question, text, rule)
        return Marked(question, text, answer, float(text is not None and (answer or "yes") == question.answer))

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        splits = {split: [row for row in rows if row.question.tags["split"] == split] for split in FIRST_ID}
        figures = {split: confusion(found) for split, found in splits.items() if found}
        mean_f1 = sum(found["f1"] for found in figures.values()) / max(len(figures), 1)
        flat = {f"{split}_{name}": value for split, found in figures.items() for name, value in found.items()}
        return {"mean_f1": mean_f1, "pooled_f1": confusion(rows)["f1"], **flat}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        """Per cent of the split's questions that are true positives, false negatives …; positive = yes."""
        asked = Counter(row.question.tags["split"] for row in rows)
        cells = Counter((row.question.tags["split"], _cell(row)) for row in rows)
        return {
            "confusion": {
                f"{split} {cell}": (100 * count / asked[split], count) for (split, cell), count in sorted(cells.items())
            }
        }


def confusion(rows: Sequence[Marked]) -> dict[str, float]:
    """Per cent, positive = yes; a ratio over nothing is 0."""
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
    """TP, FP, FN or TN: what the reply counted as, against the label."""
    right, yes = row.points == 1, row.question.answer == "yes"
    return {(True, True): "TP", (False, True): "FN", (True, False): "TN", (False, False): "FP"}[right, yes]


def _id(split: str, row: Any, place: str) -> str:
    return str(FIRST_ID[split] + field_of(row, "question_id", int, place))


def _key(row: Any, place: str) -> tuple[str, str]:
    """Picture and question, without LLaVA's suffix."""
    return field_of(row, "image", str, place), field_of(row, "text", str, place).split("\n", 1)[0]
