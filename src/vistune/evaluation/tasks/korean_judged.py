"""Korean free answers before a judge: K-LLaVA-W (NCSOFT) and KOFFVQA (maum-ai, arXiv 2503.23730).

K-LLaVA-W: as LLaVA-Bench, in Korean. KOFFVQA: a rubric a question, 0 to 10; an answer in another language has 0.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

from vistune.errors import DataError, RecipeError
from vistune.evaluation.judge.prompts import read_prompt, sha256_of_text
from vistune.evaluation.judge.remote import judgements
from vistune.evaluation.tables import Images, rows_by_id, table_in
from vistune.evaluation.task import OFFICIAL, Benchmark, Facts, Judge, Marked, Reply, Scored, ask
from vistune.evaluation.tasks.llava_bench import LlavaBench
from vistune.evaluation.tasks.mmbench import RELEASED
from vistune.types import Question

PARAMETERS = {"temperature": 0.0, "max_tokens": 1024}


class KLlavaW(LlavaBench):
    """The request is that of lmms-eval, which the publisher used; VLMEvalKit sends another one."""

    facts: ClassVar[Facts] = Facts(
        about="LLaVA-Bench in Korean, rated by a judge against GPT's answers",
        files=(
            "*llava*w*.tsv or *llava*w*.jsonl, or the hub's data/*.parquet",
            "rule_ko.json (lmms-eval's tasks/llava-in-the-wild/rule_ko.json)",
        ),
        source="https://huggingface.co/datasets/NCSOFT/K-LLaVA-W",
        licence="CC BY-NC 4.0",
        size="60 questions, 24 pictures",
        paper="https://arxiv.org/abs/2411.19103",
    )
    system = "당신은 답변의 품질을 확인하는 유용하고 정확한 어시스턴트입니다."
    headings = ("설명", "질문", "{} 끝")

    def questions(self) -> Sequence[Question]:
        path = table_in(self.folder, "llava", "ko")
        rows = rows_by_id(path, "question_id", "index")
        self.images = Images(path)  # keeps a temporary folder as long as the task lives
        found = self.images.of(rows)
        return [
            ask(
                name,
                row.text("question"),
                found.get(name),
                origin=row.place,
                category=row.text("category"),
                caption=_lines(row.fields.get("caption")),
                reference=row.text("gpt_answer"),
            )
            for name, row in rows.items()
        ]

    def requests(self, rows: Sequence[Reply]) -> dict[str, str]:
        tags = {row.question.id: row.question.tags for row in rows}
        return {
            row.question.id: self.request(row, tags[row.question.id]["caption"], tags[row.question.id]["reference"])
            for row in rows
        }


def _lines(caption: Any) -> str:
    return "\n".join(map(str, caption)) if isinstance(caption, list) else str(caption or "")


class Koffvqa(Benchmark):
    """The judge of the publication is google/gemma-2-9b-it, greedy, behind any endpoint."""

    facts: ClassVar[Facts] = Facts(
        about="free answers in Korean to 275 questions, scored 0 to 10 by a judge with a rubric for each",
        files=(
            "*koffvqa*.tsv, or the hub's data/*.parquet",
            "judge_prompt.txt with {0} {1} {2}, or the repository's src/judges.py",
        ),
        source="https://github.com/maum-ai/KOFFVQA and https://huggingface.co/datasets/maum-ai/KOFFVQA_Data",
        licence="as its pages state",
        size="275 questions",
        paper="https://arxiv.org/abs/2503.23730",
    )
    max_tokens = 1024
    judged = True
    prediction_fields = RELEASED | {"review"}  # of a judge; used if every answer has one

    def questions(self) -> Sequence[Question]:
        path = table_in(self.folder, "koffvqa")
        rows = rows_by_id(path, "index", "question_id")
        self.images = Images(path)  # keeps a temporary folder as long as the task lives
        found = self.images.of(rows)
        return [
            ask(
                name,
                row.get("question") or "",
                found.get(name),
                answer=row.get("answer") or "",
                origin=row.place,
                category=row.get("category"),
            )
            for name, row in rows.items()
        ]

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {}  # a mark alone says nothing here: the figures come from the judge

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> Scored:
        notes: dict[str, Any]
        given = [row for row in rows if row.text is not None]
        if any("review" in row.fields for row in given):
            reviews, notes = {row.question.id: _stored(row) for row in given}, {"stored": True}
        else:
            reviews, notes = self._reviewed(given, judge)
        foreign = {row.question.id for row in given if not is_korean(row.text or "")}
        points = {
            row.question.id: 0
            if row.text is None or row.question.id in foreign
            else read_score(reviews[row.question.id])
            for row in rows
        }
        groups: dict[str, list[int]] = {}
        for row in rows:
            if row.question.tags["category"] is not None:
                groups.setdefault(row.question.tags["category"], []).append(points[row.question.id])
        table = {name: (_mean(groups[name]), len(groups[name])) for name in sorted(groups)}
        silent = sum(not _numbered(review) for review in reviews.values())
        notes |= {"without_a_score": silent}  # 0 each, by the official rule
        return replace(
            super().score(rows, rule),
            metrics={"overall": _mean(list(points.values()))},
            tables={"category": table} if table else {},
            notes={"judge": notes, "not_korean": sorted(foreign), "language_filter": f"py3langid {_langid()[1]}"},
        )

    def _reviewed(self, rows: Sequence[Reply], judge: Judge | None) -> tuple[dict[str, str], dict[str, Any]]:
        if judge is None:
            raise RecipeError("koffvqa is scored by a judge", "name one by --judge, or give each answer its `review`")
        prompt = read_prompt(self.folder, ["*judge_prompt*.txt"], ["judges.py"], "base_judge_prompt")
        bodies = {row.question.id: {"messages": [_message(prompt, row)], **PARAMETERS} for row in rows}
        reviews = judgements(judge, bodies, lambda review: review or None) if bodies else {}
        return reviews, {"prompt_sha256": sha256_of_text(prompt), "parameters": PARAMETERS}


def _message(prompt: str, row: Reply) -> dict[str, str]:
    """The template with question, answer and rubric in its places, each put in once and never read again."""
    fills = {"{0}": row.question.sample.messages[-1].text, "{1}": row.text or "", "{2}": row.question.answer}
    if missing := [place for place in fills if place not in prompt]:
        raise DataError(f"the judge's prompt has no {' '.join(missing)}", "take the published template as it is")
    return {"role": "user", "content": re.sub(r"\{[012]\}", lambda match: fills[match.group()], prompt)}


def _stored(row: Reply) -> str:
    review = row.fields.get("review")
    if not isinstance(review, str):
        raise DataError(f"question {row.question.id}: review: is no text", "have every answer judged, then score")
    return review


def _mean(points: Sequence[int]) -> float:
    """Of 0 to 10, as 0 to 100."""
    return 10 * sum(points) / max(len(points), 1)


def read_score(review: str) -> int:
    """The last run of digits in the last word that has one; 0 where there is none or it is above 10.

    The official rule: "7.5점" is a 5, and a remark with a number after the score takes its place.
    """
    for word in reversed(review.split()):
        if digits := _last_digits(word):
            try:
                return score if (score := int(digits)) <= 10 else 0
            except ValueError:  # a superscript is a digit and no number; thousands of digits are refused
                return 0
    return 0


def _last_digits(word: str) -> str:
    end = next((k for k in range(len(word), 0, -1) if word[k - 1].isdigit()), 0)
    start = end
    while start > 0 and word[start - 1].isdigit():
        start -= 1
    return word[start:end]


def _numbered(review: str) -> bool:
    return any(char.isdigit() for char in review)


def is_korean(answer: str) -> bool:
    """Whether py3langid finds Korean, or the answer has no words: digits, ASCII punctuation and blanks alone."""
    if all(char.isdigit() or char in string.punctuation or char in string.whitespace for char in answer):
        return True
    return bool(_langid()[0].classify(answer)[0] == "ko")


@cache
def _langid() -> tuple[Any, str]:
    try:
        import py3langid
    except ImportError:
        raise RecipeError("KOFFVQA's language filter is py3langid", "pip install 'vistune[evaluate]'") from None
    from importlib.metadata import version

    return py3langid, version("py3langid")
