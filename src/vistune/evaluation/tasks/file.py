"""Score a user's own questions: records of {question_id, text, answer, image?, match?, choices?, type?, language?}.

`match` says when a reply is right: `exact` (the default), `contains`, `choice` (the reply selects the option `answer`
of `choices`, by the lenient rule of the choice tasks), or `judge` (a model decides that it means the same as `answer`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from vistune.errors import DataError, RecipeError
from vistune.evaluation.judge.prompts import sha256_of_text
from vistune.evaluation.judge.remote import judgements
from vistune.evaluation.own_questions import LETTERS, read_questions
from vistune.evaluation.parsing.free_replies import choice_of
from vistune.evaluation.release import release_text
from vistune.evaluation.task import OFFICIAL, Benchmark, Facts, Judge, Marked, Reply, Scored, bare, mean, same_text
from vistune.records import kind_of_file
from vistune.types import Question

PARAMETERS = {"temperature": 0.0, "max_tokens": 8}
PROMPT = "judge_prompt.txt"
FILLED = re.compile(r"\{(question|answer|reply)\}")


class File(Benchmark):
    """`folder`: the file itself, or a folder with `questions.jsonl`. Images are next to the file, or in `images`.

    `gold`: whether each record needs the right answer; `vistune answer` does not need it.
    """

    facts = Facts(
        about="your own questions, marked by exact match, contained text, choice or a judge",
        files=(
            "questions.jsonl, .json, .csv, .tsv or .parquet, or name the file by --data",
            "its images",
            f"{PROMPT} (optional)",
        ),
        source="yours",
        licence="yours",
        size="any",
    )
    max_tokens = 64

    def __init__(self, folder: Path, *, images: Path | None = None, gold: bool = True) -> None:
        self.path = own_file(folder)
        self.images, self.gold = images or self.path.parent, gold

    def questions(self) -> Sequence[Question]:
        read = read_questions(self.path, self.images, gold=self.gold)
        self.unread_fields, self.warnings, self.missing = read.unread_fields, read.warnings, read.missing
        self.judged = self.gold and any(question.tags["match"] == "judge" for question in read.questions)
        return read.questions

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if question.tags["match"] != "choice" or not self.gold:
            return reply
        return choice_of(reply, dict(zip(LETTERS, map(str, question.tags["choices"]), strict=False)))

    def points(self, question: Question, answer: str) -> float:
        """0 where only a judge can tell."""
        match = question.tags["match"]
        if match == "judge":
            return 0.0
        if match == "contains":
            return float(bare(question.answer) in bare(answer))
        return float(same_text(answer, question.answer))

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> Scored:
        marked = super().score(rows, rule)
        asked = [row for row in rows if row.question.tags["match"] == "judge"]
        if not asked:
            return marked
        if judge is None:
            raise RecipeError(f"{len(asked)} of the questions are marked by a judge", "name one by --judge")
        prompt, source = self._prompt()
        bodies = {row.question.id: _body(prompt, row) for row in asked if row.text is not None}
        verdicts = judgements(judge, bodies, read_verdict) if bodies else {}
        points = sum(self.mark(row.question, row.text, rule).points for row in rows) + sum(verdicts.values())
        notes = {"prompt": source, "prompt_sha256": sha256_of_text(prompt), "parameters": PARAMETERS}
        return replace(marked, metrics={"accuracy": points / max(len(rows), 1)}, notes={"judge": notes})

    def _prompt(self) -> tuple[str, str]:
        """(the judge's prompt, where it is from): the file beside the questions, else the one that comes with us."""
        own = self.path.with_name(PROMPT)
        if not own.is_file():
            return (files("vistune.evaluation.judge") / PROMPT).read_text(encoding="utf-8"), "vistune"
        prompt = release_text(own)
        if missing := {"question", "answer", "reply"} - set(FILLED.findall(prompt)):
            raise DataError(f"{own}: has no {{{'}, {'.join(sorted(missing))}}}", "say where each has to stand")
        return prompt, PROMPT

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """`accuracy`, 0-1."""
        return {"accuracy": mean(rows) / 100}


def own_file(folder: Path) -> Path:
    """The given file, or the file named `questions` in the given folder. Raises DataError if there are several."""
    usual = folder / "questions.jsonl"
    if not folder.is_dir() or usual.is_file():
        return usual if folder.is_dir() else folder
    found = sorted(path for path in folder.glob("questions.*") if kind_of_file(path.name))
    if len(found) > 1:
        raise DataError(f"{folder}: {', '.join(path.name for path in found)} all fit", "name one by --data FILE")
    return found[0] if found else usual


def _body(prompt: str, row: Reply) -> dict[str, Any]:
    """The prompt with question, gold answer and reply in their places, each put in once and never read again."""
    fills = {"question": row.question.sample.messages[-1].text, "answer": row.question.answer, "reply": row.text or ""}
    text = FILLED.sub(lambda match: fills[match[1]], prompt)
    return {"messages": [{"role": "user", "content": text}], **PARAMETERS}


def read_verdict(reply: str) -> float | None:
    """1 for "correct", 0 for "wrong", as the reply's first word; None for anything else, which is asked again."""
    word = re.match(r"\W*(\w*)", reply)
    return {"correct": 1.0, "wrong": 0.0}.get(word[1].lower()) if word else None
