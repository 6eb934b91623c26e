"""A benchmark of your own: count the things in a picture; exact numbers, and how far off the others are.

counts.jsonl in the data folder: {"id": …, "image": …, "thing": "cats", "count": 3}. Then, with this folder importable,
PYTHONPATH=examples vistune score add_a_task:Counting --data FOLDER --predictions ANSWERS.jsonl
PYTHONPATH=examples vistune evaluate MODEL --task add_a_task:Counting --data FOLDER
"""

import re
from collections.abc import Sequence

from vistune.evaluation import Benchmark, Facts, Marked
from vistune.evaluation.release import find_files, release_lines
from vistune.evaluation.task import SHORT, make_question, mean, mean_by
from vistune.types import Question


class Counting(Benchmark):
    facts = Facts("how many are there", ("counts.jsonl", "pictures"), "yours", "yours", "any")
    max_tokens = 16

    def questions(self) -> Sequence[Question]:
        (path,) = find_files(self.folder, ["counts.jsonl"])
        return [self._question(row) for _, row in release_lines(path)]

    def _question(self, row: dict[str, str]) -> Question:
        prompt = f"How many {row['thing']} are in the picture?{SHORT}"
        image = self.folder / row["image"]
        return make_question(str(row["id"]), prompt, image, answer=str(row["count"]), thing=row["thing"])

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        numbers = re.findall(r"[0-9]+", reply)
        return str(numbers[0]) if len(numbers) == 1 else None

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        off = [abs(int(row.answer) - int(row.question.answer)) for row in rows if row.answer is not None]
        return {"accuracy": mean(rows), "mean_error": sum(off) / max(len(off), 1)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, dict[str, tuple[float, int]]]:
        return {"thing": mean_by(rows, "thing")}
