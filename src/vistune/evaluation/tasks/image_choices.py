"""Questions with options: MMStar, K-MMStar, AI2D, RealWorldQA, SEED-Bench-2-Plus and KRETA.

The prompts are those of lmms-eval 0.7.3, except KRETA's, which is that of KRETA's script. MMStar and KRETA have parse
rules of their authors. K-MMStar has the Korean form of MMStar's rule, from earlier versions of lmms-eval. The other
tasks have the rules of lmms-eval 0.7.3.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from vistune.evaluation.image_table import ImageRow
from vistune.evaluation.option_rules import (
    MMSTAR_KO_OPENINGS,
    kreta_letter,
    opening_letter,
    ranked_letter,
)
from vistune.evaluation.parsing import first_character
from vistune.evaluation.task import LETTER, Marked, mean, mean_by
from vistune.evaluation.tasks.tables import LetterTask, listed
from vistune.types import Question

LETTERS = "ABCD"
KRETA_REQUEST = (
    "Please select the correct answer from the options above. The last line of your response should be of the "
    "following format: 'Answer: LETTER' (without quotes) where LETTER is one of options."
)
_HEADED = re.compile(r"\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class MMStar(LetterTask, card="mmstar"):
    """The reply begins with the letter; the options are part of the question."""

    word = "mmstar"
    language = "en"
    id_columns = ("index",)
    groups = ("category", "l2_category")

    def prompt(self, row: ImageRow) -> str:
        return f"{row.text('question').strip()}{LETTER.removesuffix('.')}"

    def letter(self, reply: str, options: Mapping[str, str]) -> str | None:
        return opening_letter(reply, LETTERS)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """Return the accuracy of all questions and of each category; `average` is lmms-eval's mean over categories."""
        fine = [value for value, _ in mean_by(rows, "l2_category").values()]
        figures = {"final score": mean(rows), "average": sum(fine) / max(len(fine), 1)}
        return figures | {name: value for name, (value, _) in mean_by(rows, "category").items()}


class KMMStar(MMStar, card="k-mmstar"):
    """MMStar in Korean, with the openings "옵션" and "정답은"; the prompt's last line is English, as in lmms-eval."""

    language = "ko"

    def letter(self, reply: str, options: Mapping[str, str]) -> str | None:
        return opening_letter(reply, LETTERS, MMSTAR_KO_OPENINGS)


class Ai2d(LetterTask, card="ai2d"):
    """The reply is the letter, or begins with "B."."""

    word = "ai2d"
    max_tokens = 16

    def prompt(self, row: ImageRow) -> str:
        return f"{row.text('question')}\n{listed(self.options(row))}{LETTER}"

    def options(self, row: ImageRow) -> dict[str, str]:
        return dict(zip(string.ascii_uppercase, row.list_of("options"), strict=False))

    def answer(self, row: ImageRow) -> str:
        return string.ascii_uppercase[int(row.text("answer"))]

    def letter(self, reply: str, options: Mapping[str, str]) -> str | None:
        headed = _HEADED.match(reply)
        letter = headed[1] if headed else reply.translate(_NO_PUNCTUATION).upper()
        return letter if letter in options else None


class RealWorldQA(LetterTask, card="realworldqa"):
    """A letter if the answer is one, else the answer itself except for case, outer spaces and a final full stop."""

    word = "realworldqa"
    max_tokens = 16

    def prompt(self, row: ImageRow) -> str:
        return row.text("question").strip()

    def answer(self, row: ImageRow) -> str:
        return row.text("answer").strip()

    def tags(self, row: ImageRow) -> dict[str, object]:
        return {"options": dict.fromkeys(LETTERS, "")} if self.answer(row).upper() in tuple(LETTERS) else {}

    def letter(self, reply: str, options: Mapping[str, str]) -> str | None:
        return ranked_letter(reply, LETTERS)

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        has_options = "options" in question.tags
        return super().parse(question, reply, rule) if has_options else reply.lower().strip().rstrip(".")

    def points(self, question: Question, answer: str) -> float:
        return float(answer.lower() == question.answer.lower())


class SeedBench2Plus(LetterTask, card="seed2plus"):
    """The reply's first character is the letter, in any case."""

    word = "plus"
    id_columns = ("question_id",)
    groups = ("question_image_type",)
    max_tokens = 16

    def prompt(self, row: ImageRow) -> str:
        return f"{row.text('question')}\n{listed(self.options(row))}{LETTER}"

    def options(self, row: ImageRow) -> dict[str, str]:
        return {letter: row.text(f"choice_{letter}") for letter in LETTERS}

    def letter(self, reply: str, options: Mapping[str, str]) -> str | None:
        letter = first_character(reply)
        return letter if letter in options else None

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        kinds = {name.capitalize(): value for name, (value, _) in mean_by(rows, "question_image_type").items()}
        return {**kinds, "all": mean(rows)}


class Kreta(LetterTask, card="kreta"):
    """The last line of a reply is "Answer: B"; else the rule for MMMU."""

    word = "kreta"
    id_columns = ("id", "index")
    groups = ("category", "image_type", "topic_difficulty")
    max_tokens = 300

    def prompt(self, row: ImageRow) -> str:
        return f"Question: {row.text('question')}\nOptions:\n{listed(self.options(row))}\n{KRETA_REQUEST}"

    def options(self, row: ImageRow) -> dict[str, str]:
        return {letter: row.text(letter) for letter in LETTERS}

    def letter(self, reply: str, options: Mapping[str, str]) -> str | None:
        return kreta_letter(reply, options)
