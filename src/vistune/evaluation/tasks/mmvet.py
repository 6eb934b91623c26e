"""MM-Vet: free answers that a judge grades from 0 to 1, over six capabilities and their combinations. arXiv 2308.02490

mm-vet.json -> questions -> replies -> judge's prompt with question | answer | reply -> grades -> means by capability
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from vistune.errors import DataError, RecipeError
from vistune.evaluation.judge import Body, judgements, read_prompt, sha256_of_text
from vistune.evaluation.predictions import Prediction
from vistune.evaluation.release import field_of, find_files, release_json
from vistune.evaluation.task import OFFICIAL, Benchmark, Facts, Judge, Marked, Reply, Table, TaskScore, make_question
from vistune.records import kind_of_file
from vistune.types import Question

PROMPT_SHA256 = "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"  # of the published prompt
AGAIN = "\nPredict the correctness of the answer (digit): "
PARAMETERS = {"temperature": 0.0, "max_tokens": 3}


class MMVet(Benchmark):
    """The judge of the publication was gpt-4-0613. Other judges give other figures, so the result names the judge."""

    facts: ClassVar[Facts] = Facts(
        about="free answers to 218 questions that need several capabilities, graded by a judge",
        files=("mm-vet.json", "images/", "mm-vet_evaluator.py or mmvet_judge_prompt.txt (the judge's prompt)"),
        source="https://github.com/yuweihao/MM-Vet (mm-vet.zip)",
        licence="CC BY-NC 4.0",
        size="218 questions, 200 images",
        paper="https://arxiv.org/abs/2308.02490",
    )
    max_tokens = 1024
    judged = True
    prediction_fields = frozenset({"model", "content", "score"})  # of stored grades
    judge_runs = 1  # grades per answer; the publication took five

    def questions(self) -> Sequence[Question]:
        [path] = find_files(self.folder, ["mm-vet.json"])
        tree = release_json(path)
        if not isinstance(tree, dict):
            raise DataError(f"{path}: is not a map of questions", "download mm-vet.zip again")
        images = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
        questions = []
        for name, row in tree.items():
            location = f"{path}:{name}"
            text, image = field_of(row, "question", str, location), field_of(row, "imagename", str, location)
            answer, capabilities = field_of(row, "answer", str, location), field_of(row, "capability", list, location)
            questions.append(
                make_question(
                    name, text, images / image, answer=answer, origin=location, capabilities=sorted(set(capabilities))
                )
            )
        return questions

    def read(self, path: Path) -> Sequence[Prediction]:
        """Read answers, or the grades that MM-Vet's own scorer wrote: {id: {model, content, score}}."""
        if kind_of_file(path.name) == ".json":
            tree = release_json(path)
            if isinstance(tree, dict) and tree and all(isinstance(v, dict) and "score" in v for v in tree.values()):
                return [Prediction(name, "", f"{path}:{name}", row) for name, row in tree.items()]
        return super().read(path)

    def identify(self, prediction: Prediction) -> str:
        """Return the id with the release's `v1_`, which LLaVA's answer lines omit."""
        return prediction.id if prediction.id.startswith("v1_") else f"v1_{prediction.id}"

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> TaskScore:
        notes: dict[str, object] = {}
        if any("score" in row.fields and not row.text for row in rows):
            grades = _stored(rows)
            models = sorted({str(name) for row in rows for name in row.fields.get("model", [])})
            notes["judge"] = {"answered_as": ", ".join(models), "stored": True}
        else:
            grades, notes["judge"] = self._graded(rows, judge)
        metrics, combinations, runs = figures([row.question for row in rows], grades)
        scored = super().score(rows, rule)
        return replace(scored, metrics=metrics, tables=combinations, notes={**notes, "runs": runs})

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {}  # the figures come from the judge

    def _graded(self, rows: Sequence[Reply], judge: Judge | None) -> tuple[dict[str, list[float]], dict[str, object]]:
        """Return the grades by question; a missing answer has 0 in every run and is not sent."""
        if judge is None:
            raise RecipeError("mmvet is graded by a judge", "name one with --judge, or score a file of stored grades")
        prompt = read_prompt(self.folder, ["*judge_prompt*.txt"], ["mm-vet_evaluator.py"], "prompt")
        bodies = {
            f"{row.question.id} run {run}": {"messages": [{"role": "user", "content": request}], **PARAMETERS}
            for row in rows
            if row.text is not None
            for request in [request_of(prompt, row.question, row.text)]
            for run in range(self.judge_runs)
        }
        judged = judgements(judge, bodies, read_grade, again) if bodies else {}
        grades = {
            row.question.id: [judged.get(f"{row.question.id} run {run}", 0.0) for run in range(self.judge_runs)]
            for row in rows
        }
        digest = sha256_of_text(prompt)
        return grades, {
            "prompt_sha256": digest,
            "prompt_as_published": digest == PROMPT_SHA256,
            "parameters": PARAMETERS,
        }


def request_of(prompt: str, question: Question, reply: str) -> str:
    """Return what the judge reads: the examples, then this question's row up to the grade."""
    gold = question.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    asked = "".join(part for part in question.sample.messages[-1].parts if isinstance(part, str))
    return prompt + "\n" + " | ".join([asked, gold, reply, ""])


def again(body: Body, attempt: int) -> Body:
    """Return the request after a reply without a grade: plainer, and warmer by 0.5 each time from the third on."""
    [message] = body["messages"]
    warmer = {"temperature": 0.5 * (attempt - 1)}
    return {**body, **warmer, "messages": [{**message, "content": message["content"] + AGAIN}]}


def read_grade(reply: str) -> float | None:
    """Read the number before the first space, from 0 to 1; None if there is none."""
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0.0 <= grade <= 1.0 else None


def _stored(rows: Sequence[Reply]) -> dict[str, list[float]]:
    """Return grades from a file. Raise DataError if a question has none, or not as many as the others."""
    grades: dict[str, list[float]] = {}
    for row in rows:
        scores = row.fields.get("score")
        if (
            not isinstance(scores, list)
            or not scores
            or not all(type(s) in (int, float) and 0 <= s <= 1 for s in scores)
        ):
            raise DataError(f"{row.question.id}: score: no grades from 0 to 1", "grade every question, then score")
        grades[row.question.id] = [float(score) for score in scores]
    if len({len(scores) for scores in grades.values()}) > 1:
        raise DataError("the questions do not have equally many grades", "finish the last run of the grading")
    return grades


def figures(
    questions: Sequence[Question], grades: Mapping[str, Sequence[float]]
) -> tuple[dict[str, float], dict[str, Table], list[float]]:
    """Compute the figures of grades, each a list over runs.

    Returns:
        Per cent by capability with `total` and `std`; a table by exact set of capabilities; the total of each run.

    Each question counts in all of its capabilities; means over runs, to one decimal, as the official scorer rounds.
    """
    groups: dict[str, list[str]] = {}
    sets: dict[str, list[str]] = {}
    for question in questions:
        for capability in question.tags["capabilities"]:
            groups.setdefault(capability, []).append(question.id)
        sets.setdefault("_".join(question.tags["capabilities"]), []).append(question.id)

    def by_run(names: Sequence[str]) -> np.ndarray:
        means: np.ndarray = np.array([grades[name] for name in names]).sum(axis=0) / len(names) * 100
        return means

    totals = by_run([question.id for question in questions])
    metrics = {name: _rounded(by_run(groups[name]).mean()) for name in sorted(groups)}
    metrics |= {"total": _rounded(totals.mean()), "std": _rounded(totals.std())}
    table = {name: (_rounded(by_run(sets[name]).mean()), len(sets[name])) for name in sorted(sets)}
    return metrics, {"capability integration": table}, [_rounded(total) for total in totals]


def _rounded(value: float) -> float:
    return round(float(value), 1)
