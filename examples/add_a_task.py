"""Add a benchmark: count objects in an image. Reports the exact matches and the mean error.

The data folder has counts.jsonl with {"id": 1, "image": "a.jpg", "thing": "cats", "count": 3} per line, and the images.
PYTHONPATH=examples vistune evaluate MODEL --task add_a_task:Counting --data FOLDER
"""

import re
from collections.abc import Sequence

from vistune.evaluation import Benchmark, Facts, Marked
from vistune.evaluation.release import field_of, find_files, id_in, release_lines
from vistune.evaluation.task import SHORT, make_question, mean, mean_by
from vistune.types import Question


class Counting(Benchmark):
    facts = Facts("how many objects an image shows", ("counts.jsonl", "images"), "yours", "yours", "any")
    max_tokens = 16

    def questions(self) -> Sequence[Question]:
        (path,) = find_files(self.folder, ["counts.jsonl"])
        return [self._question(record, location) for location, record in release_lines(path)]

    def _question(self, record: object, location: str) -> Question:
        thing = field_of(record, "thing", str, location)  # a missing field is an error with file, line and field
        image = self.folder / field_of(record, "image", str, location)
        count = str(field_of(record, "count", int, location))  # answers are compared as text
        prompt, name = f"How many {thing} are in the image?{SHORT}", id_in(record, "id", location)
        return make_question(name, prompt, image, answer=count, origin=location, thing=thing)

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return str(numbers[0]) if len(numbers := re.findall(r"[0-9]+", reply)) == 1 else None

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        errors = [abs(int(row.answer) - int(row.question.answer)) for row in rows if row.answer is not None]
        return {"accuracy": mean(rows), "mean_error": sum(errors) / max(len(errors), 1)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, dict[str, tuple[float, int]]]:
        return {"thing": mean_by(rows, "thing")}
