"""Ask a model every question of a task: with its picture, without it, and with another question's picture.

questions -> plan: blocks of whole pictures, condition by condition -> ask, a block at a time -> Answered rows
A block is asked in one batch of its own, so its answers depend on nothing but the block: not on which process asks it,
nor on what was asked before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vistune.data import PixelCache
from vistune.errors import DataError
from vistune.evaluation.letters import letters_of, read_letters
from vistune.evaluation.task import Task, image_of
from vistune.generation import GREEDY, Engine, PendingAnswer
from vistune.generation.batch import hash_prompt
from vistune.model import VisionLanguageModel
from vistune.processor import Processor
from vistune.types import ImageRef, Message, Part, Question

CONDITIONS = ("with_image", "without_image", "wrong_image")
BLOCK = 128  # questions, about: whole pictures stay together
BATCH = 64  # answers under way at once


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, what the model said, and how right that is, 0-1 (0 also where only a judge could tell)."""

    question: Question
    condition: str
    text: str
    right: float
    finish_reason: str = "stop"  # or "length": cut off at the task's most tokens

    def as_row(self) -> dict[str, Any]:
        """LLaVA's answer line, with what a report needs."""
        return {
            "question_id": self.question.id,
            "prompt": self.question.sample.messages[-1].text,
            "text": self.text,
            "answer": self.question.answer,
            "right": self.right,
            "condition": self.condition,
            "finish_reason": self.finish_reason,
            "image": image_of(self.question),
            **{name: value for name, value in self.question.tags.items() if isinstance(value, str | int | float)},
        }


@dataclass(frozen=True, slots=True)
class Block:
    """Questions that are asked together under one condition; `wrong`: each picture's stand-in."""

    condition: str
    questions: tuple[Question, ...]
    wrong: Mapping[str, str] = field(default_factory=dict)

    def messages(self, question: Question) -> list[Message]:
        return prompt_of(question, self.condition, self.wrong)


def derangement(images: Sequence[str], seed: int) -> dict[str, str]:
    """Each distinct picture to another one, by a cycle through a shuffled order; needs at least two."""
    order = sorted(set(images))
    if len(order) < 2:
        return {}
    random.Random(seed).shuffle(order)
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def conditions_for(questions: Sequence[Question]) -> tuple[tuple[str, ...], dict[str, str]]:
    """(conditions that these questions can be asked under, why each other one is left out)."""
    images = {image_of(question) for question in questions if question.sample.images}
    left_out = {}
    if not images:
        left_out["without_image"] = "no question has a picture to leave out"
    if len(images) < 2:
        left_out["wrong_image"] = f"a wrong picture needs two different ones, the questions asked have {len(images)}"
    return tuple(condition for condition in CONDITIONS if condition not in left_out), left_out


def prompt_of(question: Question, condition: str, wrong: Mapping[str, str]) -> list[Message]:
    """The question's messages with its picture kept, left out, or swapped for another."""
    messages = []
    for message in question.sample.messages:
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, ImageRef):
                if condition == "with_image":
                    parts.append(part)
                elif condition == "wrong_image":
                    parts.append(ImageRef(Path(wrong[str(part.source)])))
            else:
                parts.append(part)
        messages.append(replace(message, parts=tuple(parts)))
    return messages


def choose(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """All questions, or those of a seeded choice of pictures that makes about `limit` of them."""
    if limit is None or limit >= len(questions):
        return list(questions)
    images = sorted({image_of(question) for question in questions})
    random.Random(seed).shuffle(images)
    kept: list[Question] = []
    by_image = _by_image(questions)
    for image in images:
        if len(kept) >= limit:
            break
        kept += by_image[image]
    return kept


def _by_image(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Questions by picture, in the order in which pictures come first."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(image_of(question), []).append(question)
    return groups


def plan(
    questions: Sequence[Question], blind: Sequence[Question], conditions: Sequence[str], *, seed: int = 0
) -> list[Block]:
    """All that is to be asked: every question with its picture, `blind` ones also under the other conditions.

    Text-only questions have no wrong or missing picture and are left out there. `conditions` are among those that
    `conditions_for` names. Raises DataError where an id comes twice: answers are kept by it.
    """
    known: set[str] = set()
    for question in questions:
        if question.id in known:
            raise DataError(
                f"{question.sample.origin}:question_id: {question.id!r} comes twice", "give each question its own id"
            )
        known.add(question.id)
    found: list[Block] = []
    for condition in conditions:
        asked = questions if condition == "with_image" else [q for q in blind if q.sample.images]
        wrong = derangement([str(image.source) for q in asked for image in q.sample.images], seed)
        swapped = wrong if condition == "wrong_image" else {}
        block: list[Question] = []
        for group in _by_image(asked).values():
            block += group
            if len(block) >= BLOCK:
                found.append(Block(condition, tuple(block), swapped))
                block = []
        if block:
            found.append(Block(condition, tuple(block), swapped))
    return found


def ask(
    model: VisionLanguageModel,
    processor: Processor,
    task: Task,
    block: Block,
    *,
    letters: bool = False,
    hear: Callable[[Sequence[Answered]], None] = lambda rows: None,
) -> list[Answered]:
    """Greedy answers in the block's order; `hear` is told of each as it has ended.

    `letters`: of a multiple-choice question the likeliest letter is taken, from the prompt's own forward pass.
    """
    pixels = PixelCache()  # a picture's questions decode it once
    engine = Engine(model, processor, batch_size=BATCH, prefixes_at_once=BATCH)  # nothing is streamed
    known = read_letters(processor) if letters else None
    among = [tuple(known.tokens[letter] for letter in letters_of(q)) if known else () for q in block.questions]
    prompts = []
    for question, allowed in zip(block.questions, among, strict=True):
        prompt = processor.encode_prompt(block.messages(question), pixels)
        prompts.append(hash_prompt(known.begun(prompt) if known and allowed else prompt))
    under_way: dict[int, PendingAnswer] = {}
    for k in sorted(range(len(prompts)), key=lambda k: prompts[k].codes.tobytes()):  # those that begin alike together
        most = 1 if among[k] else task.max_tokens
        try:
            under_way[k] = engine.submit(prompts[k], max_tokens=most, sampling=replace(GREEDY, among=among[k]))
        except DataError as error:
            question = block.questions[k]
            raise DataError(f"{question.sample.origin}: {question.id}: {error.message}", error.hint) from None
    found: dict[int, Answered] = {}
    while under_way:
        engine.step()
        ended = [k for k, answer in under_way.items() if answer.ended]
        for k in ended:
            found[k] = _answered(task, block, block.questions[k], under_way.pop(k))
        if ended:
            hear([found[k] for k in ended])
    return [found[k] for k in range(len(prompts))]


def _answered(task: Task, block: Block, question: Question, answer: PendingAnswer) -> Answered:
    said = answer.result()
    text = said.text.strip() if answer.sequence.sampling.among else said.text
    reason = "stop" if answer.sequence.sampling.among else said.finish_reason
    return Answered(question, block.condition, text, task.mark(question, text).points, reason)
