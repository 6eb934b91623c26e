"""Add a benchmark: count objects in an image. Reports the exact matches and the mean error.

The data folder has counts.jsonl with {"id": 1, "image": "a.jpg", "thing": "cats", "count": 3} per line, and the images.
PYTHONPATH=examples vistune evaluate MODEL --task add_a_task:Counting --data FOLDER
PYTHONPATH=examples vistune score add_a_task:Counting --data FOLDER --predictions ANSWERS.jsonl
"""

import re
from collections.abc import Sequence

from vistune.evaluation import Benchmark, Facts, Marked
from vistune.evaluation.release import find_files, release_lines
from vistune.evaluation.task import SHORT, make_question, mean, mean_by
from vistune.types import Question


class Counting(Benchmark):
    facts = Facts("how many objects an image shows", ("counts.jsonl", "images"), "yours", "yours", "any")
    max_tokens = 16

    def questions(self) -> Sequence[Question]:
        (path,) = find_files(self.folder, ["counts.jsonl"])
        return [self._question(record) for _, record in release_lines(path)]

    def _question(self, record: dict[str, str]) -> Question:
        prompt = f"How many {record['thing']} are in the image?{SHORT}"
        image = self.folder / record["image"]
        return make_question(str(record["id"]), prompt, image, answer=str(record["count"]), thing=record["thing"])

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        numbers = re.findall(r"[0-9]+", reply)
        return str(numbers[0]) if len(numbers) == 1 else None

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        errors = [abs(int(row.answer) - int(row.question.answer)) for row in rows if row.answer is not None]
        return {"accuracy": mean(rows), "mean_error": sum(errors) / max(len(errors), 1)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, dict[str, tuple[float, int]]]:
        return {"thing": mean_by(rows, "thing")}
