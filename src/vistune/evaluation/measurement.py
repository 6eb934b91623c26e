"""One model on one task: what is asked, kept, scored and told.

assistant + Wanted -> questions, blind ones on a seeded subset -> session -> Measurement (result as JSON, every answer)
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.errors import DataError, RecipeError
from vistune.evaluation.answers import AnswerFile, drop_drafts
from vistune.evaluation.ranks import Ranks
from vistune.evaluation.runner import Answered, choose, conditions_for, plan
from vistune.evaluation.scorer import figures_of
from vistune.evaluation.scoring import result_of
from vistune.evaluation.session import asked_with, run
from vistune.evaluation.task import Reply, Task
from vistune.evaluation.tasks import TASKS
from vistune.evaluation.tasks.file import File
from vistune.files import write_json
from vistune.generation import Assistant
from vistune.progress import OnMessage, Progress, ignore_message
from vistune.records import UnreadField, lines_of
from vistune.registry import lookup


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task as it is to be run. `blind_limit`: about how many questions are also asked blind; None = all.

    `out`: where answers and result are kept, as NAME.predictions.jsonl and NAME.json · `again`: in place of those
    that are there.
    """

    task: str
    data: Path
    out: Path | None = None
    name: str | None = None
    limit: int | None = None
    blind_limit: int | None = None
    blind: bool = True
    seed: int = 0
    letters: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a model's run over a task gave; `rows` by condition."""

    result: dict[str, Any]
    rows: dict[str, list[Answered]]
    task: Task | None = None  # pictures that it unpacked into a folder of its own are there as long as it is


@dataclass(frozen=True, slots=True)
class AnsweredFile:
    """A written file of answers to a user's own questions: its path, the number of answers, and unread fields."""

    path: Path
    count: int
    unread_fields: tuple[UnreadField, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        fields = [field.to_dict() for field in self.unread_fields]
        return {"out": str(self.path), "count": self.count, "unread_fields": fields}


def measure(
    assistant: Assistant,
    folder: Path,
    wanted: Wanted,
    *,
    told_as: str,
    progress: Progress,
    on_message: OnMessage = ignore_message,
    ranks: Ranks | None = None,
) -> Measurement:
    """Ask the questions, store the answers, score them. `folder`: of the model's weights. `told_as`: the model's name.

    `on_message` is called with a message for each unread field of the user's questions, before the first one is asked.
    """
    ranks = ranks or Ranks()
    name = wanted.name or wanted.task
    task = lookup(wanted.task, TASKS, "task")(wanted.data)
    questions = choose(task.questions(), wanted.limit, wanted.seed)
    if not questions:
        raise DataError(f"{wanted.data}: holds no question of {wanted.task}", "check --data")
    task.check_images()
    tell_account(task, on_message)
    if wanted.out is None and not figures_of(task, [Reply(questions[0], None)]).metrics:
        raise RecipeError(
            f"{wanted.task}: a judge or the benchmark's server gives its figures, and no answer would be kept for them",
            "add --out DIR, then `vistune score` what is kept there",
        )
    blind = choose(questions, wanted.blind_limit, wanted.seed)
    possible, left_out = conditions_for(blind)
    blocks = plan(questions, blind, possible if wanted.blind else possible[:1], seed=wanted.seed)
    asked = asked_with(wanted.task, task, assistant, folder, blocks, letters=wanted.letters)
    file = None
    if wanted.out is not None:
        file = AnswerFile(wanted.out / f"{name}.predictions.jsonl", asked, again=wanted.again, ranks=ranks)
    try:
        answered = run(
            assistant,
            task,
            questions,
            blocks,
            label=f"ask {name}",
            progress=progress,
            letters=wanted.letters,
            file=file,
            ranks=ranks,
        )
    finally:
        if file is not None:
            file.close()
    rows: dict[str, list[Answered]] = defaultdict(list)
    for row in answered:
        rows[row.condition].append(row)
    result = result_of(wanted.task, task, rows, seed=wanted.seed)
    result |= {"model": told_as, "asked_with": asked}
    result |= {"unread_fields": [field.to_dict() for field in task.unread_fields]}
    if wanted.blind and left_out:
        result["left_out"] = left_out
    if wanted.out is not None and ranks.is_first:
        drop_drafts(wanted.out / f"{name}.json")
        write_json(wanted.out / f"{name}.json", result)
    return Measurement(result, dict(rows), task)


def answer_file(
    assistant: Assistant,
    folder: Path,
    questions: Path,
    out: Path,
    *,
    told_as: str,
    images: Path | None = None,
    max_tokens: int = 256,
    again: bool = False,
    progress: Progress,
    on_message: OnMessage = ignore_message,
    ranks: Ranks | None = None,
) -> AnsweredFile:
    """Answer a user's own questions, in the format of task `file`, with or without gold answers.

    `out` holds LLaVA's answer lines, in the questions' order once all are there.
    """
    ranks = ranks or Ranks()
    task = File(questions, images=images, gold=False)
    task.max_tokens = max_tokens
    asked = task.questions()
    if not asked:
        raise DataError(f"{questions}: holds no question", 'each line is {"question_id": …, "text": …, "image": …}')
    task.check_images()
    tell_account(task, on_message)
    blocks = plan(asked, (), ("with_image",))
    told = asked_with("file", task, assistant, folder, blocks, letters=False)

    def line(row: Answered) -> dict[str, Any]:
        prompt = row.question.sample.messages[-1].text
        said = {"question_id": row.question.id, "prompt": prompt, "text": row.text}
        return {**said, "finish_reason": row.finish_reason, "model_id": told_as, "metadata": {}}

    with AnswerFile(out, told, again=again, ranks=ranks) as file:
        rows = run(
            assistant, task, asked, blocks, label="answer", progress=progress, file=file, ranks=ranks, row_of=line
        )
    return AnsweredFile(out, len(rows), tuple(task.unread_fields), tuple(task.warnings))


def tell_account(task: Task, on_message: OnMessage) -> None:
    """A line for each unread field of the user's questions, and for each warning."""
    for words in (*lines_of(task.unread_fields), *task.warnings):
        on_message(words)
