"""VQAv2: open questions with ten people's answers each. https://arxiv.org/abs/1612.00837

Soft accuracy by the official vqaEval.py, quirks kept: where all ten people say the very same, answers are compared as
they stand, so "Yes." to ten times "yes" is wrong. Figures are rounded to two digits, as it rounds them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.parsing.vqa_text import evalai_form, one_line, soft_points, vqa_form
from vistune.evaluation.release import field_of, find, id_in, image_folder, matching, release_text
from vistune.evaluation.task import (
    OFFICIAL,
    SHORT,
    Benchmark,
    Facts,
    Judge,
    Marked,
    Reply,
    Scored,
    Table,
    ask,
    by,
    mean,
)
from vistune.types import Question


class VqaV2(Benchmark):
    """Points as TextVQA's, with VQA's own text processor and its rule of unanimity."""

    facts = Facts(
        about="214,354 validation questions with answers; 107,394 test-dev questions for the server",
        files=(
            "v2_mscoco_val2014_annotations.json and v2_OpenEnded_mscoco_val2014_questions.json, pictures in val2014/",
            "or v2_OpenEnded_mscoco_test-dev2015_questions.json alone (upload only), pictures in test2015/",
        ),
        source="https://visualqa.org/download.html",
        licence="CC BY 4.0; pictures: COCO's terms",
        size="0.3 GB, and 6 GB (val2014) or 12 GB (test2015) of pictures",
        paper="https://arxiv.org/abs/1612.00837",
    )

    def questions(self) -> Sequence[Question]:
        (path,) = find(self.folder, ["v2_*questions*.json"])
        listed = matching(self.folder, "v2_*annotations*.json")
        gold = self._gold() if listed else {}
        release = read_vqa(path)
        subset = release.get("data_subtype", "val2014")
        split = "test2015" if subset == "test-dev2015" else subset  # test-dev's pictures are part of test's
        images = image_folder(self.folder, split)
        found = []
        for row in field_of(release, "questions", list, str(path)):
            name = id_in(row, "question_id", str(path))
            place = f"{path}:{name}"
            if listed and name not in gold:
                raise DataError(f"{place}: has no annotation in {listed[0].name}", "take both files of one split")
            image = images / f"COCO_{split}_{field_of(row, 'image_id', int, place):012d}.jpg"
            text = field_of(row, "question", str, place)
            found.append(ask(name, text + SHORT, image, origin=place, **gold.get(name, {})))
        return found

    def _gold(self) -> dict[str, dict[str, Any]]:
        """Each question's answers as they are compared, its types, and whether all ten are the same."""
        (path,) = find(self.folder, ["v2_*annotations*.json"])
        gold = {}
        for row in field_of(read_vqa(path), "annotations", list, str(path)):
            name = id_in(row, "question_id", str(path))
            place = f"{path}:{name}"
            people = field_of(row, "answers", list, place)
            if not people or not all(isinstance(answer, str) for answer in people):
                raise DataError(f"{place}:answers: are no people's answers", "download the file again")
            said = tuple(sys.intern(one_line(answer)) for answer in people)
            alike = len(set(said)) == 1
            answers = said if alike else tuple(vqa_form(answer) for answer in said)
            types = {key: sys.intern(field_of(row, key, str, place)) for key in ("answer_type", "question_type")}
            usual = row.get("multiple_choice_answer", answers[0])
            gold[name] = {"answer": usual, "answers": answers, "alike": alike, **types}
        return gold

    def points(self, question: Question, answer: str) -> float:
        said = one_line(answer)
        return soft_points(said if question.tags["alike"] else vqa_form(said), question.tags["answers"])

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> Scored:
        if rows and "answers" not in rows[0].question.tags:
            return Scored({}, len(rows), missing=sum(row.text is None for row in rows))
        return super().score(rows, rule)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"overall": round(mean(rows), 2), **_rounded(by(rows, "answer_type"))}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        return {
            tag: {k: (round(v, 2), n) for k, (v, n) in by(rows, tag).items()}
            for tag in ("answer_type", "question_type")
        }

    def submission(self, rows: Sequence[Reply]) -> tuple[str, bytes]:
        """The server's list: every question of the split, in EvalAI's form, empty where nothing was asked."""
        listed = [
            {"question_id": int(name) if (name := row.question.id).isdigit() else name,
             "answer": evalai_form(row.text or "")}
            for row in rows
        ]  # fmt: skip
        return "vqav2_upload.json", json.dumps(listed).encode()


def _rounded(table: Table) -> dict[str, float]:
    return {name: round(value, 2) for name, (value, _) in table.items()}


def read_vqa(path: Any) -> Mapping[str, Any]:
    """A release's file; each person's answer becomes its text at once, so two million of them fit into memory."""

    def light(row: dict[str, Any]) -> Any:
        return sys.intern(row["answer"]) if "answer_id" in row else row

    try:
        value = json.loads(release_text(path), object_hook=light)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a VQA file: {str(error)[:80]}", "download it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: is no object", "download it again")
    return value
