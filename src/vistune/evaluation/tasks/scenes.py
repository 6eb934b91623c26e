"""Questions about the built-in scenes: the test split, and scenes with colour-shape pairs unseen in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vistune.errors import DataError
from vistune.evaluation.task import Benchmark, Facts, Marked, mean, same_text
from vistune.files import read_jsonl
from vistune.types import ImageRef, Message, Question, Sample


class HeldOut(Benchmark):
    """Exact short answers about the scenes of the test split."""

    facts = Facts(
        about="the built-in scenes: test split, English and Korean",
        files=("questions_heldout.jsonl and heldout/ (a run's own world/, or `vistune scenes FOLDER`)",),
        source="drawn by this program",
        licence="Apache-2.0",
        size="a few MB",
    )
    split = "heldout"
    max_tokens = 16

    def questions(self) -> Sequence[Question]:
        path = self.folder / f"questions_{self.split}.jsonl"
        if not path.is_file():
            raise DataError(f"{path}: no such file", "draw the scenes first: vistune scenes FOLDER")
        return [self._question(row) for _, row in read_jsonl(path)]

    def _question(self, row: Mapping[str, str]) -> Question:
        image = ImageRef(self.folder / self.split / row["image"])
        sample = Sample(row["question_id"], (Message("user", (image, row["text"])),))
        return Question(row["question_id"], sample, row["answer"], {"type": row["type"], "language": row["language"]})

    def points(self, question: Question, answer: str) -> float:
        return float(same_text(answer, question.answer))

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """Return `accuracy` from 0 to 1."""
        return {"accuracy": mean(rows) / 100}


class Combinations(HeldOut):
    """Exact short answers about scenes with colour-shape pairs that training never showed."""

    facts = replace(
        HeldOut.facts,
        about="the built-in scenes: colour-shape pairs that training never showed",
        files=("questions_combinations.jsonl and combinations/ (likewise)",),
    )
    split = "combinations"
