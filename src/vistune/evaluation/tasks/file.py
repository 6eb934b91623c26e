"""A user's own questions: JSONL of {question_id, text, answer, image?, match?, choices?, type?, language?}.

`match` says when a reply is right: `exact` (the default), `contains`, or `choice` (the reply means the option `answer`
of `choices`, by the lenient rule of the choice tasks).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.free_replies import choice_of
from vistune.evaluation.task import Benchmark, Facts, Marked, mean, same_text
from vistune.files import read_jsonl
from vistune.registry import guess
from vistune.types import Message, Part, Picture, Question, Sample

LETTERS = "ABCDE"
MATCHES = ("exact", "contains", "choice")


class File(Benchmark):
    """`folder` may be the file itself or hold `questions.jsonl`; pictures lie relative to it."""

    facts = Facts(
        about="your own questions, marked by exact match, contained text or choice",
        files=("questions.jsonl, or name the file itself by --data", "its pictures"),
        source="yours",
        licence="yours",
        size="any",
    )
    max_tokens = 64

    def __init__(self, folder: Path) -> None:
        self.path = folder / "questions.jsonl" if folder.is_dir() else folder

    def questions(self) -> Sequence[Question]:
        return [self._question(f"{self.path}:{line}", row) for line, row in read_jsonl(self.path)]

    def _question(self, place: str, row: Any) -> Question:
        for field in ("question_id", "text", "answer"):
            if not isinstance(row, dict) or not isinstance(row.get(field), str | int):
                raise DataError(f"{place}:{field}: is missing", "each row has question_id, text, answer")
        match, choices = row.get("match", "exact"), row.get("choices")
        if match not in MATCHES:
            raise DataError(f"{place}:match: {match!r}", guess(str(match), MATCHES))
        if match == "choice" and not (isinstance(choices, list) and str(row["answer"]) in LETTERS[: len(choices)]):
            raise DataError(f"{place}:choices: do not hold the answer's letter", "list them; `answer` is A, B …")
        parts: tuple[Part, ...] = (str(row["text"]),)
        if row.get("image"):
            parts = (Picture(self.path.parent / str(row["image"])), *parts)
        name = str(row["question_id"])
        sample = Sample(name, (Message("user", parts),), origin=place)
        tags = {"type": row.get("type", "all"), "language": row.get("language", "all"), "match": match}
        return Question(name, sample, str(row["answer"]), tags | ({"choices": choices} if choices else {}))

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if question.tags["match"] != "choice":
            return reply
        return choice_of(reply, dict(zip(LETTERS, map(str, question.tags["choices"]), strict=False)))

    def points(self, question: Question, answer: str) -> float:
        if question.tags["match"] == "contains":
            return float(question.answer.lower() in answer.lower())
        return float(same_text(answer, question.answer))

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """`accuracy`, 0-1."""
        return {"accuracy": mean(rows) / 100}
