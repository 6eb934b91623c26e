"""Score a user's own data: records of {question_id, text, answer, …}, dialogues to train on, or a run's held-out split.

`match` decides how many points a reply gets: see `MATCHES`. It is the record's own; a record without one uses that of
`--match`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vistune.errors import DataError, RecipeError
from vistune.evaluation.held_out import HeldOutSamples, is_run
from vistune.evaluation.judge import (
    SAME_MEANING_PARAMETERS,
    SAME_MEANING_PROMPT,
    judgements,
    read_verdict,
    same_meaning_prompt,
    same_meaning_request,
    sha256_of_text,
)
from vistune.evaluation.matching import CHOICE, JUDGE, MATCHES, plain_points
from vistune.evaluation.own_questions import OwnQuestions, read_questions, warning_lines
from vistune.evaluation.own_samples import (
    MatchRule,
    SampleReader,
    read_match_rule,
    selected_option,
    with_own_id,
)
from vistune.evaluation.task import (
    OFFICIAL,
    Judge,
    Marked,
    Reply,
    Table,
    TaskScore,
    mean,
)
from vistune.evaluation.tasks.cards import CardedBenchmark
from vistune.records import GENERATED_FILES, folders_next_to, kind_of_file
from vistune.types import Question

QUESTIONS = "questions.jsonl"


class File(CardedBenchmark, card="file"):
    """A user's own questions, dialogues to train on, or the held-out samples of a run.

    Args:
        folder: The file itself, a folder with `questions.jsonl`, a folder of `generate`, or a run folder.
        images: The folder of the images; by default the folders in images.json next to the file, else its own folder.
        gold: Whether each record needs a right answer; `vistune answer` does not need it.

    Attributes:
        match: The text of `--match`: the match of questions without their own.
    """

    max_tokens = 64
    match: str | None = None
    has_dialogues: bool = False

    def __init__(self, folder: Path, *, images: Path | None = None, gold: bool = True) -> None:
        self.run = folder if is_run(folder) and not (folder / QUESTIONS).is_file() else None
        self.path = own_file(folder) if self.run is None else folder / "recipe.yaml"
        self.images, self.gold = images, gold

    def questions(self) -> Sequence[Question]:
        rule = read_match_rule(self.match)
        if self.run is not None:
            read = read_held_out(self.run, rule)
        else:
            folders = folders_next_to(self.path) if self.images is None else [self.images]
            read = read_questions(self.path, folders, gold=self.gold, rule=rule)
        rule.refuse_unknown_kinds({str(question.tags["type"]) for question in read.questions})
        self.unread_fields, self.warnings, self.missing = read.unread_fields, read.warnings, read.missing
        self.has_dialogues = read.has_dialogues
        self.judged = self.gold and any(question.tags["match"] == JUDGE for question in read.questions)
        return read.questions

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if not self.gold:
            return reply
        if question.tags["match"] == CHOICE:
            return selected_option(reply, question.tags["choices"])
        return MATCHES[str(question.tags["match"])].answer_in(reply)

    def points(self, question: Question, answer: str) -> float:
        """Return the points of an answer; 0 if only a judge can decide."""
        return MATCHES[str(question.tags["match"])].points(answer, question.answer)

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> TaskScore:
        marked = super().score(rows, rule)
        judged_rows = [row for row in rows if row.question.tags["match"] == JUDGE]
        if not judged_rows:
            return marked
        if judge is None:
            raise RecipeError(f"{len(judged_rows)} of the questions are marked by a judge", "name one with --judge")
        prompt, source = same_meaning_prompt(self.path.with_name(SAME_MEANING_PROMPT))
        bodies = {row.question.id: same_meaning_request(prompt, row) for row in judged_rows if row.text is not None}
        verdicts = judgements(judge, bodies, read_verdict)
        graded = [self.mark(row.question, row.text, rule) for row in rows]
        graded = [replace(row, points=verdicts.get(row.question.id, row.points)) for row in graded]
        note = {"prompt": source, "prompt_sha256": sha256_of_text(prompt), "parameters": SAME_MEANING_PARAMETERS}
        return replace(marked, metrics=self.metrics(graded), notes={"judge": note})

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """Return the mean points from 0 to 1: `accuracy`, and one figure per graded match such as `rouge_l`."""
        groups: dict[str, list[Marked]] = {}
        for row in rows:
            groups.setdefault(MATCHES[str(row.question.tags["match"])].metric, []).append(row)
        return {name: mean(group) / 100 for name, group in groups.items()}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        """Return the figures by each match that compares the texts only, if the user's data are dialogues."""
        if not self.has_dialogues:
            return {}
        answers = [(row.text, row.question.answer) for row in rows if row.question.tags["match"] != CHOICE]
        return {"by match": plain_points(answers)} if answers else {}


def own_file(folder: Path) -> Path:
    """Return the given file, or the file named `questions` in the given folder. Raise DataError if several match."""
    usual = folder / QUESTIONS
    if not folder.is_dir():
        return folder
    if usual.is_file():
        return usual
    if generated := next((folder / name for name in GENERATED_FILES if (folder / name).is_file()), None):
        return generated
    paths = sorted(path for path in folder.glob("questions.*") if kind_of_file(path.name))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise DataError(f"{folder}: several files match: {names}", "name one with --data FILE")
    return next(iter(paths), usual)


def read_held_out(run: Path, rule: MatchRule) -> OwnQuestions:
    """Read the samples of a run that it did not train on, as questions with their source."""
    held = HeldOutSamples(run)
    notes: Counter[str] = Counter()
    reader = SampleReader(rule, Counter(), notes)
    questions: dict[str, Question] = {}
    for source, sample in held:
        for question in reader.of_sample(sample, source=source):
            named = with_own_id(question, questions)
            questions[named.id] = named
    return OwnQuestions(tuple(questions.values()), tuple(held.unread_fields), warning_lines(run, notes), (), True)
