"""Ask a model every question of a task: with its picture, without it, and with another question's picture.

Task + model -> Answered rows by condition
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vistune.data import PixelCache
from vistune.evaluation.task import Task, picture_of
from vistune.generation import generate
from vistune.model import VisionLanguageModel
from vistune.processor import Processor
from vistune.types import Message, Part, Picture, Question

CONDITIONS = ("with_image", "without_image", "wrong_image")


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, what the model said, and how right that is, 0-1 (0 also where only a judge could tell)."""

    question: Question
    condition: str
    text: str
    right: float

    def as_row(self) -> dict[str, Any]:
        """LLaVA's answer line, with what a report needs."""
        return {
            "question_id": self.question.id,
            "prompt": self.question.sample.messages[-1].text,
            "text": self.text,
            "answer": self.question.answer,
            "right": self.right,
            "condition": self.condition,
            "image": picture_of(self.question),
            **{name: value for name, value in self.question.tags.items() if isinstance(value, str | int | float)},
        }


def derangement(pictures: Sequence[str], seed: int) -> dict[str, str]:
    """Each distinct picture to another one, by a cycle through a shuffled order; needs at least two."""
    order = sorted(set(pictures))
    if len(order) < 2:
        return {}
    random.Random(seed).shuffle(order)
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def conditions_for(questions: Sequence[Question]) -> tuple[tuple[str, ...], dict[str, str]]:
    """(conditions that these questions can be asked under, why each other one is left out)."""
    pictures = {picture_of(question) for question in questions if question.sample.pictures}
    left_out = {}
    if not pictures:
        left_out["without_image"] = "no question has a picture to leave out"
    if len(pictures) < 2:
        left_out["wrong_image"] = f"a wrong picture needs two different ones, the questions asked have {len(pictures)}"
    return tuple(condition for condition in CONDITIONS if condition not in left_out), left_out


def prompt_of(question: Question, condition: str, wrong: Mapping[str, str]) -> list[Message]:
    """The question's messages with its picture kept, left out, or swapped for another."""
    messages = []
    for message in question.sample.messages:
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, Picture):
                if condition == "with_image":
                    parts.append(part)
                elif condition == "wrong_image":
                    parts.append(Picture(Path(wrong[str(part.source)])))
            else:
                parts.append(part)
        messages.append(replace(message, parts=tuple(parts)))
    return messages


def choose(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """All questions, or those of a seeded choice of pictures that makes about `limit` of them."""
    if limit is None or limit >= len(questions):
        return list(questions)
    pictures = sorted({picture_of(question) for question in questions})
    random.Random(seed).shuffle(pictures)
    kept: list[Question] = []
    by_picture: dict[str, list[Question]] = {}
    for question in questions:
        by_picture.setdefault(picture_of(question), []).append(question)
    for picture in pictures:
        if len(kept) >= limit:
            break
        kept += by_picture[picture]
    return kept


def answer(
    model: VisionLanguageModel,
    processor: Processor,
    task: Task,
    questions: Sequence[Question],
    *,
    condition: str = "with_image",
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Answered]:
    """Greedy answers; text-only questions have no wrong or missing picture and are left out of those conditions.

    `condition` is one that `conditions_for` names.
    """
    asked = [q for q in questions if condition == "with_image" or q.sample.pictures]
    wrong = derangement([picture_of(question) for question in asked if question.sample.pictures], seed)
    pixels = PixelCache()  # a picture's questions decode it once
    rows: list[Answered] = []
    for begin in range(0, len(asked), 256):  # pictures are decoded in blocks, so memory does not grow with the task
        block = asked[begin : begin + 256]
        prompts = [processor.encode_prompt(prompt_of(question, condition, wrong), pixels) for question in block]
        said = generate(model, processor, prompts, max_tokens=task.max_tokens, batch_size=64, advance=advance)
        rows += [Answered(q, condition, c.text, task.mark(q, c.text).points) for q, c in zip(block, said, strict=True)]
    return rows
