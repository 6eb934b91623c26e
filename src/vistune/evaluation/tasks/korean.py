"""Korean multiple choice: K-MMBench, K-SEED, K-DTCBench (NCSOFT). arXiv 2411.19103

tsv, jsonl, parquet -> questions · reply -> the published rule of each, or with `lenient` what Koreans write -> accuracy
K-SEED and K-DTCBench are read by their first character, as their publisher's harness does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from vistune.evaluation.parsing.choices import first_character
from vistune.evaluation.parsing.free_replies import choice_of
from vistune.evaluation.tables import Images, rows_by_id, table_in
from vistune.evaluation.task import BOTH, LENIENT, Benchmark, Facts, Marked, Table, ask, by, mean
from vistune.evaluation.tasks.mmbench import MMBench
from vistune.types import Question

SUFFIX = "주어진 선택지 중 해당 옵션의 문자로 바로 답하세요."
LICENCE = "CC BY-NC 4.0"
PAPER = "https://arxiv.org/abs/2411.19103"


class KMMBench(MMBench):
    """MMBench's dev questions in Korean: circular accuracy by VLMEvalKit's matcher (its MMBench_DEV_KO)."""

    facts: ClassVar[Facts] = Facts(
        about="MMBench in Korean",
        files=("*mmbench*ko*.tsv or *mmbench*.jsonl, or the hub's data/*.parquet",),
        source="https://huggingface.co/datasets/NCSOFT/K-MMBench",
        licence=LICENCE,
        size="1,164 questions, 4,329 rows (dev)",
        paper=PAPER,
    )
    language = "ko"
    suffix = f"\n{SUFFIX}"


class KoreanChoice(Benchmark):
    """One question a row with choice_a to choice_d, and the letter of the right one."""

    max_tokens = 1024
    rules = BOTH
    prediction_fields = frozenset(
        {"question", "data_type", "question_type_id", "category", "image", "data_id"}
        | {f"choice_{letter}" for letter in "abcd"}
    )
    word: ClassVar[str]
    breakdown: ClassVar[tuple[str, ...]]

    def questions(self) -> Sequence[Question]:
        path = table_in(self.folder, self.word, "ko")
        rows = rows_by_id(path, "question_id", "index")
        self.images = Images(path)  # keeps a temporary folder as long as the task lives
        found = self.images.of(rows)
        questions = []
        for index, row in rows.items():
            options = {letter: row.get(f"choice_{letter.lower()}", letter) or "" for letter in "ABCD"}
            tags = {name: row.get(name) for name in self.breakdown}
            text = f"{row.get('question') or ''}\n{self.listed(options)}\n{SUFFIX}"
            answer = row.text("answer").strip().upper()
            questions.append(
                ask(index, text, found.get(index), answer=answer, origin=row.place, options=options, **tags)
            )
        return questions

    def listed(self, options: Mapping[str, str]) -> str:
        """The options as the publisher's prompt lists them."""
        return "\n".join(f"{letter}. {text}" for letter, text in options.items())

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return choice_of(reply, question.tags["options"]) if rule == LENIENT else first_character(reply)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"accuracy": mean(rows)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        tables = {name: by(rows, name) for name in self.breakdown}
        return {name: table for name, table in tables.items() if table}


class KSeed(KoreanChoice):
    """SEED-Bench's image questions in Korean."""

    facts: ClassVar[Facts] = Facts(
        about="SEED-Bench's image questions in Korean",
        files=("*seed*.tsv or *seed*.jsonl, or the hub's data/*.parquet",),
        source="https://huggingface.co/datasets/NCSOFT/K-SEED",
        licence=LICENCE,
        size="about 3,000 questions",
        paper=PAPER,
    )
    word = "seed"
    breakdown = ("data_type", "question_type_id", "category")


class KDtcBench(KoreanChoice):
    """Korean documents, tables and charts."""

    facts: ClassVar[Facts] = Facts(
        about="documents, tables and charts in Korean",
        files=("*dtcbench*.tsv or *dtcbench*.jsonl, or the hub's data/*.parquet",),
        source="https://huggingface.co/datasets/NCSOFT/K-DTCBench",
        licence=LICENCE,
        size="240 questions: 80 each on documents, tables, charts",
        paper=PAPER,
    )
    word = "dtcbench"
    breakdown = ("category",)

    def listed(self, options: Mapping[str, str]) -> str:
        return "Options: " + ", ".join(f"{letter}: {text}" for letter, text in options.items())
