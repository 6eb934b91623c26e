"""The drawn world's own questions: held-out scenes, and scenes with colour-shape pairs that training never showed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.task import same_text
from vistune.files import read_jsonl
from vistune.types import Message, Picture, Question, Sample


class HeldOut:
    """Exact short answers about scenes that were drawn for the test alone."""

    split = "heldout"
    max_tokens = 16

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def questions(self) -> Sequence[Question]:
        path = self.folder / f"questions_{self.split}.jsonl"
        if not path.is_file():
            raise DataError(f"{path}: no such file", "draw the scenes first: vistune scenes FOLDER")
        return [self._question(row) for _, row in read_jsonl(path)]

    def _question(self, row: dict[str, str]) -> Question:
        picture = Picture(self.folder / self.split / row["image"])
        sample = Sample(row["question_id"], (Message("user", (picture, row["text"])),))
        return Question(row["question_id"], sample, row["answer"], {"type": row["type"], "language": row["language"]})

    def right(self, question: Question, reply: str) -> bool:
        return same_text(reply, question.answer)


class Combinations(HeldOut):
    """The same about scenes with held-out colour-shape pairs."""

    split = "combinations"
