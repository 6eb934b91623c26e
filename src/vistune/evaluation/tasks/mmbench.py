"""MMBench: each question is asked with its options in every rotation, and is right only if all are. arXiv 2307.06281

*mmbench*.tsv -> questions -> replies -> matcher -> circular accuracy

In the file, rotation k of question i has the index i + k x 1,000,000. vistune takes the rotations from the file and
does not compute them, because some last options ("all above are not right") keep their position in every rotation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vistune.errors import DataError
from vistune.evaluation.parsing import is_missing, lenient_letter, matched
from vistune.evaluation.predictions import Prediction, write_sheet
from vistune.evaluation.release import ReleaseRow, ReleaseTable
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
    mean,
    mean_by,
)
from vistune.types import Question

COLUMNS = "ABCDEFGH"
# Columns of the release and of VLMEvalKit's predictions.
RELEASED = frozenset(
    {*COLUMNS, "question", "hint", "category", "l2-category", "l2_category", "image", "image_path", "source", "comment"}
    | {"split", "options", "option_char", "hit", "log"}
)
ROTATION = 1_000_000  # index modulo this is the question, the quotient the rotation


class MMBench(Benchmark):
    """Circular accuracy over questions, by ability; English."""

    facts = Facts(
        about="abilities, every question asked in each rotation of its options",
        files=("mmbench*.tsv",),
        source="https://github.com/open-compass/MMBench (MMBench_DEV_EN.tsv, or LLaVA's mmbench_dev_20230712.tsv)",
        licence="as its page states",
        size="1,164 questions, 4,329 rows (dev); the file of 2023: 1,176 and 4,377",
        paper="https://arxiv.org/abs/2307.06281",
    )
    max_tokens = 1024
    rules = BOTH
    prediction_fields = RELEASED
    word, language = "mmbench", "en"
    suffix = LETTER

    def questions(self) -> Sequence[Question]:
        # An attribute, because unpacked images exist as long as the table does.
        self.table = ReleaseTable(self.folder, self.word, "index", "question_id", language=self.language)
        for index, row in self.table.rows.items():
            if not index.isdigit():
                problem = f"{row.location}:index: {index!r} is not a whole number"
                raise DataError(
                    problem, "take the index from the original file; it encodes the rotation of the options"
                )
        return [self._question(index, row) for index, row in self.table.rows.items()]

    def _question(self, index: str, row: ReleaseRow) -> Question:
        options = options_of(row.fields)
        lines = [row.get("hint"), row.get("question")]
        lines += [f"{letter}. {option}" for letter, option in options.items() if option]
        return self.table.question(
            index,
            "\n".join(filter(None, lines)) + self.suffix,
            answer=row.get("answer") or "",
            options=options,
            category=row.get("category"),
            l2=row.get("l2-category", "l2_category"),
            row={name: row.get(name) or "" for name in UPLOADED if name in row.fields},
        )

    def asks_another(self, question: Question, prediction: Prediction) -> bool:
        """Return whether the prompt is another question: releases differ in the questions of some indexes."""
        prompt, asked = prediction.fields.get("prompt"), question.tags["row"].get("question", "")
        return isinstance(prompt, str) and asked not in prompt

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        options = question.tags["options"]
        return lenient_letter(reply, options) if rule == LENIENT else matched(reply, options)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """Return per cent: `Overall` is circular, `vanilla_acc` is over unrotated rows, `row_acc` over all rows."""
        if not any(row.question.answer for row in rows):
            return {}  # the test split: its answers are on the server
        first = [row for row in rows if int(row.question.id) < ROTATION]
        return {"Overall": mean(circular(rows)), "vanilla_acc": mean(first), "row_acc": mean(rows)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        """Return circular accuracy by coarse (`l2-category`) and fine (`category`) ability, if the file has them."""
        if not any(row.question.answer for row in rows):
            return {}
        firsts = circular(rows)
        tables = {"l2-category": mean_by(firsts, "l2"), "category": mean_by(firsts, "category")}
        return {name: table for name, table in tables.items() if table}

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return the server's table: the unparsed reply to every row."""
        return Upload("mmbench_upload.xlsx", write_sheet([upload_row(row) for row in rows], numbers=("index",)))


class MMBenchCn(MMBench):
    """The same questions in Chinese."""

    facts = replace(
        MMBench.facts,
        about="MMBench in Chinese",
        files=("mmbench*cn*.tsv",),
        source="https://github.com/open-compass/MMBench (MMBench_DEV_CN.tsv)",
        size="1,164 questions, 4,329 rows (dev)",
    )
    language = "cn"
    suffix = "\n请直接回答选项字母。"


def options_of(fields: Mapping[str, object]) -> dict[str, str]:
    """Return the options' texts by letter, up to the first missing one; A to D without texts if no column exists."""
    if not any(letter in fields for letter in COLUMNS):
        return dict.fromkeys("ABCD", "")
    options: dict[str, str] = {}
    for letter in COLUMNS:
        if is_missing(fields.get(letter)):
            break
        options[letter] = str(fields[letter])
    return options


def circular(rows: Sequence[Marked]) -> list[Marked]:
    """Return one row per question, its first, with the points of its worst rotation."""
    groups: dict[int, list[Marked]] = {}
    for row in rows:
        groups.setdefault(int(row.question.id) % ROTATION, []).append(row)
    firsts = [(min(group, key=lambda row: int(row.question.id)), group) for group in groups.values()]
    return [Marked(f.question, f.text, f.answer, min(row.points for row in group)) for f, group in firsts]


UPLOADED = ("index", "question", "A", "B", "C", "D", "answer", "split")


def upload_row(row: Reply) -> dict[str, str]:
    """Return the release's columns without image and categories, with the prediction after the options."""
    fields = {"index": row.question.id, **row.question.tags["row"]}
    before = {name: value for name, value in fields.items() if name not in ("answer", "split")}
    after = {name: value for name, value in fields.items() if name in ("answer", "split")}
    return {**before, "prediction": row.text or "", **after}
