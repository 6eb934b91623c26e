"""Charts, documents and text in images: ChartQA, DocVQA, InfographicVQA and OCRBench.

Prompts and maximum lengths of answers are those of lmms-eval 0.7.3. The scorers are the benchmarks' own: relaxed
accuracy (ChartQA, https://arxiv.org/abs/2203.10244, section 5.1), ANLS (https://arxiv.org/abs/2007.00398), and for
OCRBench whether the reply contains a right answer (OCRBench/scripts of https://github.com/Yuliang-Liu/MultimodalOCR;
lmms-eval also folds full-width characters).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from vistune.evaluation.image_table import ImageRow
from vistune.evaluation.matching import anls
from vistune.evaluation.parsing import is_missing
from vistune.evaluation.task import BOTH, LENIENT, SHORT, Marked, Reply, Upload, mean
from vistune.evaluation.tasks.tables import TableTask
from vistune.types import Question

LARGEST_RELATIVE_ERROR = 0.05
RECOGNITION = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
)
OTHER_OCR = (
    "Scene Text-centric VQA",
    "Doc-oriented VQA",
    "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition",
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def relaxed(reply: str, answer: str) -> bool:
    """Return whether a number is within 5 % of the answer, or else the texts are equal except for case.

    "50%" is read as 0.5, and an answer of zero needs the same text.
    """
    number, right = _number(reply), _number(answer)
    if number is not None and right:
        return abs(number - right) / abs(right) <= LARGEST_RELATIVE_ERROR
    return reply.lower() == answer.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


class ChartQA(TableTask, card="chartqa"):
    """Relaxed accuracy. The lenient rule removes outer spaces, a final full stop and thousands separators."""

    word = "chartqa"
    groups = ("type",)
    max_tokens = 16
    rules = BOTH

    def prompt(self, row: ImageRow) -> str:
        return f"{row.text('question')}\nAnswer the question with a single word."

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return _THOUSANDS.sub("", reply.strip().removesuffix(".")) if rule == LENIENT else reply

    def points(self, question: Question, answer: str) -> float:
        return float(relaxed(answer, question.answer))

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        halves = {"relaxed_human_split": "human_test", "relaxed_augmented_split": "augmented_test"}
        figures = {"relaxed_overall": mean(rows)}
        for name, half in halves.items():
            if own := [row for row in rows if row.question.tags["type"] == half]:
                figures[name] = mean(own)
        return figures


class DocVqa(TableTask, card="docvqa"):
    """ANLS from 0 to 1. The test set's answers are closed: it gives a submission file."""

    word = "docvqa"
    id_columns = ("questionId",)
    max_tokens = 32

    def prompt(self, row: ImageRow) -> str:
        return f"{row.text('question')}{SHORT}"

    def answer(self, row: ImageRow) -> str:
        return "" if is_missing(row.fields.get("answers")) else row.list_of("answers")[0]

    def tags(self, row: ImageRow) -> dict[str, object]:
        return {"answers": [] if is_missing(row.fields.get("answers")) else row.list_of("answers")}

    def points(self, question: Question, answer: str) -> float:
        return anls(answer, question.tags["answers"])

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"anls": mean(rows) / 100} if any(row.question.tags["answers"] for row in rows) else {}

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return the list that the challenge's server takes."""
        answers = [{"questionId": int(row.question.id), "answer": row.text or ""} for row in rows]
        return Upload(f"{self.word}_submission.json", json.dumps(answers, ensure_ascii=False).encode())


class InfoVqa(DocVqa, card="infovqa"):
    """DocVQA's protocol on infographics."""

    word = "infographicvqa"


class OcrBench(TableTask, card="ocrbench"):
    """A reply is right if it contains an answer; the figures are numbers of right replies."""

    word = "ocrbench"
    groups = ("question_type", "dataset")

    def prompt(self, row: ImageRow) -> str:
        return row.text("question").strip()

    def answer(self, row: ImageRow) -> str:
        return row.list_of("answer")[0]

    def tags(self, row: ImageRow) -> dict[str, object]:
        return {"answers": row.list_of("answer")}

    def points(self, question: Question, answer: str) -> float:
        is_formula = question.tags["dataset"] == "HME100k"
        reply = _ocr_form(answer, is_formula=is_formula)
        return float(any(_ocr_form(right, is_formula=is_formula) in reply for right in question.tags["answers"]))

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        right = {name: sum(r.points for r in rows if r.question.tags["question_type"] == name) for name in RECOGNITION}
        figures = {"Text Recognition": sum(right.values())}
        for name in OTHER_OCR:
            figures[name] = sum(row.points for row in rows if row.question.tags["question_type"] == name)
        return figures | {"Final Score": sum(figures.values())}


def _ocr_form(text: str, *, is_formula: bool) -> str:
    plain = (text if is_formula else text.lower()).strip().replace("\n", " ")
    return plain.replace(" ", "") if is_formula else plain
