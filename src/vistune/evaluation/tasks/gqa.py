"""GQA: compositional questions over scene graphs with one short answer each. https://arxiv.org/abs/1902.09506

Figures of the benchmark's eval.py: accuracy over balanced questions, of yes-no and open questions, by type, steps and
words, and the distance of the answers' distribution from the right one (lower is better). Validity and plausibility
need files that are not released for testdev, so they are omitted; the original prints 0.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from vistune.errors import DataError
from vistune.evaluation.release import field_of, find_files, image_folder, matching, release_map
from vistune.evaluation.task import SHORT, Benchmark, Facts, Marked, Reply, Table, Upload, make_question, mean, mean_by
from vistune.types import Question

USUAL = "testdev_balanced_questions.json"


class Gqa(Benchmark):
    """The answer is the reply in lower case without final full stops."""

    facts = Facts(
        about="12,578 balanced testdev questions on 398 images",
        files=(USUAL + " (or one other *questions*.json)", "images/"),
        source="https://cs.stanford.edu/people/dorarad/gqa/download.html",
        licence="CC BY 4.0; images: Visual Genome's terms",
        size="1.4 GB of questions, 20 GB of images",
        paper="https://arxiv.org/abs/1902.09506",
    )

    def questions(self) -> Sequence[Question]:
        path = (matching(self.folder, USUAL) or find_files(self.folder, ["*questions*.json"]))[0]
        images = image_folder(self.folder, "images")
        questions = []
        for name, row in release_map(path).items():
            location = f"{path}:{name}"
            if not field_of(row, "question", str, location) or row.get("isBalanced") is False:
                continue  # the benchmark's figures are over the balanced questions
            types = row.get("types") or {}
            tags = {
                "structural": types.get("structural"),
                "semantic": types.get("semantic"),
                "steps": f"{_steps(row['semantic']):02d}" if row.get("semantic") else None,
                "words": f"{len(row['question'].split()):02d}",
                "group": (row.get("groups") or {}).get("global"),
                "form": "open" if types.get("structural") == "query" else "binary",
            }
            answer = field_of(row, "answer", str, location)
            image = images / f"{row.get('imageId', name)}.jpg"
            questions.append(
                make_question(name, row["question"] + SHORT, image, answer=answer, origin=location, **tags)
            )
        if not questions:
            raise DataError(f"{path}: contains no balanced question", "take testdev_balanced_questions.json")
        return questions

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return reply.rstrip(".").lower()

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        forms = {form: value for form, (value, _) in mean_by(rows, "form").items()}
        return {"accuracy": mean(rows), **forms, "distribution": distribution(rows)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        numbered = {
            tag: {name.lstrip("0") or "0": cell for name, cell in mean_by(rows, tag).items()}
            for tag in ("steps", "words")
        }
        return {"structural": mean_by(rows, "structural"), "semantic": mean_by(rows, "semantic"), **numbered}

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return the server's list."""
        listed = [{"questionId": row.question.id, "prediction": (row.text or "").rstrip(".").lower()} for row in rows]
        return Upload("gqa_submission.json", json.dumps(listed).encode())


def _steps(semantic: Sequence[Mapping[str, object]]) -> int:
    """Count the operations of a question's programme, except those that only ask the final question."""
    steps = (f"{step['operation']}: {step['argument']}" for step in semantic)
    return sum(not any(end in step for end in ("exist", "query: name", "choose name")) for step in steps)


def distribution(rows: Sequence[Marked]) -> float:
    """Return the mean over groups, weighted by size, of the chi-square distance of given from right answers, / 100."""
    gold: dict[str, Counter[str]] = {}
    given: dict[str, Counter[str]] = {}
    for row in rows:
        group = row.question.tags["group"]
        if group is not None:
            gold.setdefault(group, Counter())[row.question.answer] += 1
            given.setdefault(group, Counter())[row.answer or ""] += 1
    total = sum(counts.total() for counts in gold.values())
    distance = sum(
        counts.total() * sum((given[group][answer] - expected) ** 2 / expected for answer, expected in counts.items())
        for group, counts in gold.items()
    )
    return distance / total / 100 if total else 0.0
