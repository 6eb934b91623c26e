"""Multiple choice by letter: ScienceQA and SEED-Bench (v1).

ScienceQA (https://arxiv.org/abs/2209.09513): school questions, half of them with an image. Figures: LLaVA's (`acc`,
`img_acc`; llava/eval/eval_science_qa.py) and the benchmark's own breakdown (tools/evaluate_acc.py), with its rounding.
A missing reply stays in the denominator of `img_acc`.

SEED-Bench (https://arxiv.org/abs/2307.16125): one of four choices about images and video frames, by the letter protocol
of LLaVA-1.5: the reply is the answer's letter and nothing else. The benchmark's own protocol ranks the choices by
likelihood and gives other figures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.parsing import lenient_letter
from vistune.evaluation.predictions import IDS, TEXTS, Prediction, Predictions, prediction_of
from vistune.evaluation.release import (
    Fields,
    field_of,
    find_files,
    id_in,
    image_folder,
    matching,
    release_map,
    release_text,
)
from vistune.evaluation.task import (
    BOTH,
    LENIENT,
    LETTER,
    Benchmark,
    Facts,
    Marked,
    Reply,
    Table,
    Upload,
    make_question,
    mean,
    mean_by,
)
from vistune.files import parse_json
from vistune.records import kind_of_file
from vistune.types import Question

LETTERS = "ABCDE"
SPLIT = "test"
RESULTS = frozenset({"acc", "correct", "count", "results", "outputs"})  # of LLaVA's result file
_STATED = re.compile(r"The answer is ([A-Z]).")  # the last dot is any sign but a line break, as in the original
_SUBJECTS = {"natural science": "natural", "social science": "social", "language science": "language"}


class ScienceQA(Benchmark):
    """The reply is a letter, or has "The answer is B." at the end of a chain of thought."""

    facts = Facts(
        about="4,241 test questions, 2,017 of them with an image; a letter among up to five",
        files=("problems.json", "pid_splits.json (else every problem whose split is test)", "images/test/ID/image.png"),
        source="https://github.com/lupantech/ScienceQA",
        licence="CC BY-NC-SA 4.0",
        size="about 0.6 GB with the test images",
        paper="https://arxiv.org/abs/2209.09513",
    )
    max_tokens = 1024
    rules = BOTH

    def questions(self) -> Sequence[Question]:
        path = (matching(self.folder, "problems.json") or find_files(self.folder, ["problems*.json"]))[0]
        problems = release_map(path)
        images = image_folder(self.folder, f"images/{SPLIT}", SPLIT)
        return [self._question(path, pid, problems.get(pid), images) for pid in self._split(problems)]

    def _split(self, problems: Fields) -> list[str]:
        listed = matching(self.folder, "pid_splits.json")
        if listed:
            return [str(pid) for pid in field_of(release_map(listed[0]), SPLIT, list, str(listed[0]))]
        return [pid for pid, row in problems.items() if not isinstance(row, dict) or row.get("split", SPLIT) == SPLIT]

    def _question(self, path: Path, pid: str, row: Fields | None, images: Path) -> Question:
        location = f"{path}:{pid}"
        if row is None:
            raise DataError(f"{location}: is in pid_splits.json, but not in the problems", "download both files again")
        choices = field_of(row, "choices", list, location)
        hint = str(row.get("hint") or "")
        lines = [f"Context: {hint}"] if hint else []
        lines += [str(row.get("question", "")), *(f"{LETTERS[k]}. {choice}" for k, choice in enumerate(choices))]
        image = images / pid / row["image"] if row.get("image") else None
        subject = row.get("subject")
        return make_question(
            pid,
            re.sub(" {2,}", " ", "\n".join(lines)) + LETTER,
            image,
            answer=LETTERS[field_of(row, "answer", int, location)],
            origin=location,
            choices=choices,
            subject=_SUBJECTS.get(str(subject), subject),
            topic=row.get("topic"),
            context=[*(["has_text"] if hint else []), *(["has_image"] if image else [])] or ["no_context"],
            grade=_grade(row.get("grade")),
        )

    def read(self, path: Path) -> Sequence[Prediction]:
        """Read LLaVA's answer lines, or its result file, whose `outputs` begin with "Assistant:"."""
        tree = _result_file(path)
        if tree is None:
            return super().read(path)
        outputs = field_of(tree, "outputs", dict, str(path))
        predictions = [prediction_of({IDS[0]: pid, TEXTS[0]: text}, f"{path}:{pid}") for pid, text in outputs.items()]
        unread = {name: 1 for name in tree if name not in RESULTS}
        return Predictions([replace(p, text=p.text.removeprefix("Assistant:").strip()) for p in predictions], unread)

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if reply in LETTERS and len(reply) == 1:
            return reply
        if len(reply) >= 3 and reply[0] in LETTERS and reply[1:3] == ". ":
            return reply[0]
        stated = _STATED.findall(reply)
        if len(stated) == 1:
            return str(stated[0])
        choices = question.tags["choices"]
        return lenient_letter(reply, dict(zip(LETTERS, choices, strict=False))) if rule == LENIENT else None

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        imaged = [row for row in rows if row.question.sample.images]
        figures = {"acc": mean(rows), "img_acc": mean(imaged)} if imaged else {"acc": mean(rows)}
        return figures | {name: round(value, 2) for name, (value, _) in _breakdown(rows).items()}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        return {"breakdown": _breakdown(rows), "topic": mean_by(rows, "topic")}

    def submission(self, rows: Sequence[Reply]) -> Upload | None:
        """Return the benchmark's results file: choice indices by problem id, -1 for unparsed replies."""
        marked = [self.mark(row.question, row.text) for row in rows]
        results = {row.question.id: LETTERS.find(row.answer) if row.answer else -1 for row in marked}
        return Upload("scienceqa_results.json", json.dumps({"results": results}, indent=1).encode())


def _result_file(path: Path) -> Fields | None:
    """Return the JSON of LLaVA's result file; None if the file is not one."""
    if kind_of_file(path.name) not in (".json", ".jsonl", "") or not path.is_file():
        return None
    text = release_text(path).lstrip()
    if not text.startswith("{") or '"outputs"' not in text:
        return None
    tree: Fields = parse_json(text, str(path), first_line=1)
    return tree


def _grade(grade: str | None) -> str | None:
    if not grade:
        return None
    return "grade_1_6" if int(grade.removeprefix("grade")) <= 6 else "grade_7_12"


def _breakdown(rows: Sequence[Marked]) -> dict[str, tuple[float, int]]:
    """Return the benchmark's table of groups that have questions; empty if the problems have no subject."""
    if not any(row.question.tags["subject"] for row in rows):
        return {}
    table = dict(mean_by(rows, "subject"))
    for name in ("has_text", "has_image", "no_context"):
        group = [row for row in rows if name in row.question.tags["context"]]
        table |= {name: (mean(group), len(group))} if group else {}
    return table | mean_by(rows, "grade") | {"average": (mean(rows), len(rows))}


class Seed(Benchmark):
    """The reply is the capital letter alone."""

    facts = Facts(
        about="14,233 questions on images and 5,009 on videos (LLaVA: their middle frame)",
        files=("SEED-Bench.json", "SEED-Bench-image/", "SEED-Bench-video-image/ (one frame a video, DATA_ID.png)"),
        source="https://github.com/AILab-CVC/SEED-Bench",
        licence="CC BY-NC 4.0; videos: their owners' terms",
        size="about 30 GB; the images alone 4 GB",
        paper="https://arxiv.org/abs/2307.16125",
    )
    rules = BOTH
    prediction_fields = frozenset({"gt_answer", "q_type_id", "question_type_id", "data_type"})  # of its leaderboard

    def questions(self) -> Sequence[Question]:
        path = (matching(self.folder, "SEED-Bench.json") or find_files(self.folder, ["SEED-Bench*.json"]))[0]
        release = release_map(path)
        named = field_of({"question_type": {}, **release}, "question_type", dict, str(path))
        types = {number: name for name, number in named.items()}
        rows = field_of(release, "questions", list, str(path))
        return [self._question(f"{path}:question {k}", row, types) for k, row in enumerate(rows, start=1)]

    def _question(self, location: str, row: Fields, types: Mapping[int, str]) -> Question:
        name = id_in(row, "question_id", location)
        kind = row.get("data_type", "video" if name.startswith("v") else "image")
        columns = {letter: f"choice_{letter.lower()}" for letter in "ABCD"}
        options = {letter: str(row[column]) for letter, column in columns.items() if column in row}
        lines = [str(row.get("question", "")), *(f"{letter}. {text}" for letter, text in options.items())]
        data = str(row.get("data_id", name))
        image = self.folder / "SEED-Bench-image" / data
        if kind == "video":
            image = self.folder / "SEED-Bench-video-image" / f"{Path(data).stem}.png"
        ability = types.get(row.get("question_type_id", 0))
        answer = field_of(row, "answer", str, location)
        tags = {"kind": kind, "ability": ability, "options": options or dict.fromkeys("ABCD", "")}
        return make_question(name, "\n".join(lines) + LETTER, image, answer=answer, origin=location, **tags)

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        options = question.tags["options"]
        if reply in options:
            return reply
        return lenient_letter(reply, options) if rule == LENIENT else None

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"overall": mean(rows), **{kind: value for kind, (value, _) in mean_by(rows, "kind").items()}}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        return {"kind": mean_by(rows, "kind"), "ability": mean_by(rows, "ability")}

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return the leaderboard's lines."""
        lines = [json.dumps({"question_id": row.question.id, "prediction": row.text or ""}) for row in rows]
        return Upload("seed_submission.jsonl", ("\n".join(lines) + "\n").encode())
