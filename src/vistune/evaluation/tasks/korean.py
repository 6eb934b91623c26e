"""Korean benchmarks: K-MMBench, K-SEED, K-DTCBench, K-LLaVA-W (arXiv 2411.19103) and KOFFVQA (arXiv 2503.23730).

Replies to multiple-choice questions are parsed by each benchmark's published rule; `lenient` also accepts the usual
ways in which Koreans write an option. For K-SEED and K-DTCBench, the first character of a reply is the answer, as in
their publisher's harness. K-LLaVA-W is LLaVA-Bench in Korean. KOFFVQA has a rubric per question, from 0 to 10 points. A
reply in another language than Korean gets 0 points.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import ClassVar

from vistune.errors import DataError, RecipeError
from vistune.evaluation.judge import JudgedBenchmark, judgements, read_prompt, sha256_of_text
from vistune.evaluation.parsing import first_character, lenient_letter
from vistune.evaluation.release import ReleaseTable
from vistune.evaluation.task import (
    BOTH,
    LENIENT,
    OFFICIAL,
    Benchmark,
    Facts,
    Judge,
    Marked,
    Reply,
    Table,
    TaskScore,
    mean,
    mean_by,
)
from vistune.evaluation.tasks.judged import LlavaBench
from vistune.evaluation.tasks.mmbench import RELEASED, MMBench
from vistune.evaluation.tasks.tables import listed
from vistune.types import Question

SUFFIX = "주어진 선택지 중 해당 옵션의 문자로 바로 답하세요."
PARAMETERS = {"temperature": 0.0, "max_tokens": 1024}


def _ncsoft(name: str, word: str, about: str, size: str, *more_files: str) -> Facts:
    """Describe a benchmark of NCSOFT, whose table has `word` in its name."""
    return Facts(
        about=about,
        files=(f"*{word}*.tsv or *{word.removesuffix('*ko')}*.jsonl, or the hub's data/*.parquet", *more_files),
        source=f"https://huggingface.co/datasets/NCSOFT/{name}",
        licence="CC BY-NC 4.0",
        size=size,
        paper="https://arxiv.org/abs/2411.19103",
    )


class KMMBench(MMBench):
    """MMBench's dev questions in Korean: circular accuracy by VLMEvalKit's matcher (its MMBench_DEV_KO)."""

    facts = _ncsoft("K-MMBench", "mmbench*ko", "MMBench in Korean", "1,164 questions, 4,329 rows (dev)")
    language = "ko"
    suffix = f"\n{SUFFIX}"


class KoreanChoice(Benchmark):
    """A table with one question per row, choice_a to choice_d, and the letter of the right one."""

    max_tokens = 1024
    rules = BOTH
    prediction_fields = frozenset(
        {"question", "data_type", "question_type_id", "category", "image", "data_id"}
        | {f"choice_{letter}" for letter in "abcd"}
    )
    word: ClassVar[str]
    breakdown: ClassVar[tuple[str, ...]]

    def questions(self) -> Sequence[Question]:
        self.table = ReleaseTable(self.folder, self.word, "question_id", "index", language="ko")
        questions = []
        for index, row in self.table.rows.items():
            options = {letter: row.get(f"choice_{letter.lower()}", letter) or "" for letter in "ABCD"}
            tags = {name: row.get(name) for name in self.breakdown}
            text = f"{row.get('question') or ''}\n{self.listed(options)}\n{SUFFIX}"
            answer = row.text("answer").strip().upper()
            questions.append(self.table.question(index, text, answer=answer, options=options, **tags))
        return questions

    def listed(self, options: Mapping[str, str]) -> str:
        """Return the options as the publisher's prompt lists them."""
        return listed(options)

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return lenient_letter(reply, question.tags["options"]) if rule == LENIENT else first_character(reply)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"accuracy": mean(rows)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        tables = {name: mean_by(rows, name) for name in self.breakdown}
        return {name: table for name, table in tables.items() if table}


class KSeed(KoreanChoice):
    """SEED-Bench's image questions in Korean."""

    facts = _ncsoft("K-SEED", "seed", "SEED-Bench's image questions in Korean", "about 3,000 questions")
    word = "seed"
    breakdown = ("data_type", "question_type_id", "category")


class KDtcBench(KoreanChoice):
    """Korean documents, tables and charts."""

    facts = _ncsoft(
        "K-DTCBench",
        "dtcbench",
        "documents, tables and charts in Korean",
        "240 questions: 80 each on documents, tables, charts",
    )
    word = "dtcbench"
    breakdown = ("category",)

    def listed(self, options: Mapping[str, str]) -> str:
        return "Options: " + ", ".join(f"{letter}: {text}" for letter, text in options.items())


class KLlavaW(LlavaBench):
    """LLaVA-Bench in Korean, with the request of lmms-eval, which the publisher used; VLMEvalKit's is different."""

    facts = _ncsoft(
        "K-LLaVA-W",
        "llava*w",
        "LLaVA-Bench in Korean, rated by a judge against GPT's answers",
        "60 questions, 24 images",
        "rule_ko.json (lmms-eval's tasks/llava-in-the-wild/rule_ko.json)",
    )
    system = "당신은 답변의 품질을 확인하는 유용하고 정확한 어시스턴트입니다."
    headings = ("설명", "질문", "{} 끝")

    def questions(self) -> Sequence[Question]:
        self.table = ReleaseTable(self.folder, "llava", "question_id", "index", language="ko")
        return [
            self.table.question(
                name,
                row.text("question"),
                category=row.text("category"),
                caption=_lines(row.fields.get("caption")),
                reference=row.text("gpt_answer"),
            )
            for name, row in self.table.rows.items()
        ]

    def requests(self, rows: Sequence[Reply]) -> dict[str, str]:
        return {
            row.question.id: self.request(row, row.question.tags["caption"], row.question.tags["reference"])
            for row in rows
        }


def _lines(caption: object) -> str:
    return "\n".join(map(str, caption)) if isinstance(caption, list) else str(caption or "")


class Koffvqa(JudgedBenchmark):
    """KOFFVQA. The judge of the publication is google/gemma-2-9b-it, greedy, behind any endpoint."""

    facts = Facts(
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
    prediction_fields = RELEASED | {"review"}  # `review` is a judge's; it is used if every answer has one

    def questions(self) -> Sequence[Question]:
        self.table = ReleaseTable(self.folder, "koffvqa", "index", "question_id")
        return [
            self.table.question(
                name, row.get("question") or "", answer=row.get("answer") or "", category=row.get("category")
            )
            for name, row in self.table.rows.items()
        ]

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> TaskScore:
        notes: dict[str, object]
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

    def _reviewed(self, rows: Sequence[Reply], judge: Judge | None) -> tuple[dict[str, str], dict[str, object]]:
        if judge is None:
            raise RecipeError("koffvqa is scored by a judge", "name one with --judge, or give each answer its `review`")
        prompt = read_prompt(self.folder, ["*judge_prompt*.txt"], ["judges.py"], "base_judge_prompt")
        bodies = {row.question.id: {"messages": [_message(prompt, row)], **PARAMETERS} for row in rows}
        reviews = judgements(judge, bodies, lambda review: review or None)
        return reviews, {"prompt_sha256": sha256_of_text(prompt), "parameters": PARAMETERS}


def _message(prompt: str, row: Reply) -> dict[str, str]:
    """Fill question, answer and rubric into the template; placeholders in them are not filled."""
    fills = {"{0}": row.question.sample.messages[-1].text, "{1}": row.text or "", "{2}": row.question.answer}
    if missing := [marker for marker in fills if marker not in prompt]:
        raise DataError(f"the judge's prompt has no {' '.join(missing)}", "use the published template unchanged")
    return {"role": "user", "content": re.sub(r"\{[012]\}", lambda match: fills[match.group()], prompt)}


def _stored(row: Reply) -> str:
    review = row.fields.get("review")
    if not isinstance(review, str):
        raise DataError(f"question {row.question.id}: review: is not a text", "have every answer judged, then score")
    return review


def _mean(points: Sequence[int]) -> float:
    """Return the mean of scores from 0 to 10 in per cent."""
    return 10 * sum(points) / max(len(points), 1)


def read_score(review: str) -> int:
    """Return the last digits of the last word that has some; 0 if there are none or the number is above 10.

    This is the official rule: "7.5점" is a 5, and a number in a remark after the score replaces it.
    """
    for word in reversed(review.split()):
        if digits := _last_digits(word):
            try:
                return score if (score := int(digits)) <= 10 else 0
            except ValueError:  # a superscript is a digit but not a number; thousands of digits are refused
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
    """Return whether py3langid finds Korean, or the answer has only digits, ASCII punctuation and spaces."""
    if all(char.isdigit() or char in string.punctuation or char in string.whitespace for char in answer):
        return True
    return bool(_langid()[0].classify(answer)[0] == "ko")


@cache
def _langid() -> tuple[ModuleType, str]:
    try:
        import py3langid
    except ImportError:
        raise RecipeError("KOFFVQA's language filter needs py3langid", "pip install 'vistune[evaluate]'") from None
    from importlib.metadata import version

    return py3langid, version("py3langid")
