"""A user's own questions: JSONL of {question_id, image?, text, answer, type?, language?} beside their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.task import same_text
from vistune.files import read_jsonl
from vistune.types import Message, Part, Picture, Question, Sample


class File:
    """Exact match on a file of questions; `folder` may be the file itself or hold `questions.jsonl`."""

    max_tokens = 64

    def __init__(self, folder: Path) -> None:
        self.path = folder / "questions.jsonl" if folder.is_dir() else folder

    def questions(self) -> Sequence[Question]:
        found = []
        for line, row in read_jsonl(self.path):
            for field in ("question_id", "text", "answer"):
                if not isinstance(row, dict) or not isinstance(row.get(field), str | int):
                    raise DataError(f"{self.path}:{line}:{field}: is missing", "each row has question_id, text, answer")
            parts: tuple[Part, ...] = (str(row["text"]),)
            if row.get("image"):
                parts = (Picture(self.path.parent / str(row["image"])), *parts)
            name = str(row["question_id"])
            sample = Sample(name, (Message("user", parts),), origin=f"{self.path}:{line}")
            tags = {"type": row.get("type", "all"), "language": row.get("language", "all")}
            found.append(Question(name, sample, str(row["answer"]), tags))
        return found

    def right(self, question: Question, reply: str) -> bool:
        return same_text(reply, question.answer)
