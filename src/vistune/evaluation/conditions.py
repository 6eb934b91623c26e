"""Plan which questions are asked under which condition: with the image, without it, and with another question's image.

questions -> plan_blocks -> blocks: all questions about some images, asked in one batch under one condition
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.task import image_of
from vistune.types import ImageRef, Message, Part, Question

CONDITIONS = ("with_image", "without_image", "wrong_image")
BLOCK = 128  # questions per block, about: the questions of an image stay together


@dataclass(frozen=True, slots=True)
class Block:
    """Questions that are asked together under one condition; `wrong` maps each image to the wrong one."""

    condition: str
    questions: tuple[Question, ...]
    wrong: Mapping[str, str] = field(default_factory=dict)

    def messages(self, question: Question) -> list[Message]:
        return prompt_of(question, self.condition, self.wrong)


def derangement(images: Sequence[str], seed: int) -> dict[str, str]:
    """Map each distinct image to another one, by a cycle through a shuffled order; empty for fewer than two."""
    order = sorted(set(images))
    if len(order) < 2:
        return {}
    random.Random(seed).shuffle(order)
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def conditions_for(questions: Sequence[Question]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the conditions under which these questions can be asked, and for each other condition why it cannot."""
    images = {image_of(question) for question in questions if question.sample.images}
    left_out = {}
    if not images:
        left_out["without_image"] = "no question has an image to leave out"
    if len(images) < 2:
        left_out["wrong_image"] = f"a wrong image needs two different ones, the questions asked have {len(images)}"
    return tuple(condition for condition in CONDITIONS if condition not in left_out), left_out


def prompt_of(question: Question, condition: str, wrong: Mapping[str, str]) -> list[Message]:
    """Return the question's messages with their images kept, left out, or replaced by the wrong ones."""
    messages = []
    for message in question.sample.messages:
        parts: list[Part] = []
        for part in message.parts:
            if not isinstance(part, ImageRef) or condition == "with_image":
                parts.append(part)
            elif condition == "wrong_image":
                parts.append(ImageRef(Path(wrong[str(part.source)])))
        messages.append(replace(message, parts=tuple(parts)))
    return messages


def choose_questions(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """Return all questions, or about `limit` of them: those of randomly chosen images."""
    if limit is None or limit >= len(questions):
        return list(questions)
    images = sorted({image_of(question) for question in questions})
    random.Random(seed).shuffle(images)
    chosen: list[Question] = []
    by_image = _by_image(questions)
    for image in images:
        if len(chosen) >= limit:
            break
        chosen += by_image[image]
    return chosen


def _by_image(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Group questions by image, in the order in which the images first occur."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(image_of(question), []).append(question)
    return groups


def plan_blocks(
    questions: Sequence[Question], blind: Sequence[Question], conditions: Sequence[str], *, seed: int = 0
) -> list[Block]:
    """Return the blocks of all questions with their images, and of the `blind` ones under the other conditions.

    Text-only questions are asked once, because they have no image to leave out or replace.

    Args:
        conditions: Some of those that `conditions_for` returns.

    Raises:
        DataError: Two questions have the same id.
    """
    known: set[str] = set()
    for question in questions:
        if question.id in known:
            raise DataError(
                f"{question.sample.origin}:question_id: {question.id!r} occurs twice", "give each question its own id"
            )
        known.add(question.id)
    blocks: list[Block] = []
    for condition in conditions:
        asked = questions if condition == "with_image" else [q for q in blind if q.sample.images]
        wrong: Mapping[str, str] = {}
        if condition == "wrong_image":
            wrong = derangement([str(image.source) for q in asked for image in q.sample.images], seed)
        block: list[Question] = []
        for group in _by_image(asked).values():
            block += group
            if len(block) >= BLOCK:
                blocks.append(Block(condition, tuple(block), wrong))
                block = []
        if block:
            blocks.append(Block(condition, tuple(block), wrong))
    return blocks
