"""Yes or no, and two options, scored over groups of questions: HallusionBench and NaturalBench.

HallusionBench (https://arxiv.org/abs/2310.14566): as VLMEvalKit scores its HallusionBench.tsv without a judge.
NaturalBench (https://arxiv.org/abs/2410.14669): four questions per group, two images by two questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vistune.errors import DataError
from vistune.evaluation.image_table import ImageRow
from vistune.evaluation.option_rules import natural_bench_answer, only_yes_or_no
from vistune.evaluation.parsing import lenient_letter, yes_or_no
from vistune.evaluation.task import BOTH, LENIENT, Marked, mean
from vistune.evaluation.tasks.tables import TableTask
from vistune.types import Question

# The four questions of a group are question 0 on image 0, on image 1, question 1 on image 0, on image 1.
IS_FIRST_ANSWER = (True, False, False, True)
QUESTION_PAIRS, IMAGE_PAIRS = ((0, 1), (2, 3)), ((0, 2), (1, 3))
ASKED_FOR = {
    "yes_no": "Please answer Yes or No.",
    "multiple_choice": "Please output the letter corresponding to the correct option.",
}
ANSWERS = {"yes_no": ("yes", "no"), "multiple_choice": ("A", "B")}


def all_right(rows: Sequence[Marked], group_of: Callable[[Question], str]) -> float:
    """Return the per cent of groups in which every row is right."""
    groups: dict[str, bool] = {}
    for row in rows:
        name = group_of(row.question)
        groups[name] = groups.get(name, True) and row.points == 1
    return 100 * sum(groups.values()) / max(len(groups), 1)


class HallusionBench(TableTask, card="hallusionbench"):
    """aAcc over questions, fAcc over figures, qAcc over questions asked about several figures."""

    word = "hallusionbench"
    id_columns = ("index",)
    groups = ("category", "l2-category")
    rules = BOTH

    def tags(self, row: ImageRow) -> dict[str, object]:
        parts = row.text("index").split("_")
        if len(parts) < 6:
            raise DataError(f"{row.location}:index: has fewer than six parts", "download VLMEvalKit's table")
        return {"set": parts[3], "figure": parts[4], "number": parts[5]}

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if rule == LENIENT:
            word = yes_or_no(reply)
            return word.capitalize() if word else None
        return only_yes_or_no(reply)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        def name(question: Question, last: str) -> str:
            tags = question.tags
            return f"{tags['l2-category']}_{tags['set']}_{tags[last]}"

        return {
            "aAcc": mean(rows),
            "fAcc": all_right(rows, lambda question: name(question, "figure")),
            "qAcc": all_right(rows, lambda question: name(question, "number")),
        }


class NaturalBench(TableTask, card="naturalbench"):
    """Acc over replies, Q_Acc and I_Acc over pairs with the same question or image, G_Acc over groups of four."""

    word = "naturalbench"
    id_columns = ("Index",)
    image_column = "Image"
    max_tokens = 16
    rules = BOTH

    def prompt(self, row: ImageRow) -> str:
        return f"{row.text('Question')} {ASKED_FOR[self._kind(row)]}"

    def answer(self, row: ImageRow) -> str:
        first, second = ANSWERS[self._kind(row)]
        return first if IS_FIRST_ANSWER[int(self.id_of(row)) % 4] else second

    def tags(self, row: ImageRow) -> dict[str, object]:
        number = int(self.id_of(row))
        tags: dict[str, object] = {"kind": self._kind(row), "group": number // 4, "index": number % 4}
        return tags | ({"options": {"A": "", "B": ""}} if tags["kind"] == "multiple_choice" else {})

    def _kind(self, row: ImageRow) -> str:
        kind = row.text("Question_Type")
        if kind not in ANSWERS:
            raise DataError(f"{row.location}:Question_Type: unknown value {kind!r}", "download the file again")
        return kind

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if rule == LENIENT:
            options = question.tags.get("options")
            return yes_or_no(reply) if options is None else lenient_letter(reply, options)
        return natural_bench_answer(reply, *ANSWERS[question.tags["kind"]])

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """Return the figures; incomplete pairs and groups do not count."""
        groups: dict[int, dict[int, bool]] = {}
        for row in rows:
            groups.setdefault(row.question.tags["group"], {})[row.question.tags["index"]] = row.points == 1
        return {
            "Acc": mean(rows),
            "Q_Acc": _share(groups, QUESTION_PAIRS),
            "I_Acc": _share(groups, IMAGE_PAIRS),
            "G_Acc": _share(groups, ((0, 1, 2, 3),)),
        }


def _share(groups: Mapping[int, Mapping[int, bool]], parts: Sequence[Sequence[int]]) -> float:
    """Return the per cent of complete parts of groups that are all right."""
    right = [
        all(group[index] for index in part)
        for group in groups.values()
        for part in parts
        if all(index in group for index in part)
    ]
    return 100 * sum(right) / max(len(right), 1)
