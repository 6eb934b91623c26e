"""Ask a model the questions of a task; questions whose answers are already stored are not asked again.

TaskRun: blocks without an answer, shared among the processes -> Answerer -> gathered -> answered questions in order

A model that runs in this process answers each block as a separate batch. So its answers depend only on the block, not
on the process that asks it and not on earlier questions.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch

from vistune import __version__
from vistune.data import PixelCache
from vistune.errors import DataError, RecipeError, Stopped
from vistune.evaluation.answers import AnswerFile, AnswerLine, Key, Ranks, StoredAnswer
from vistune.evaluation.conditions import CONDITIONS, Block
from vistune.evaluation.results import AnsweredQuestion, StoreAnswers
from vistune.evaluation.task import Benchmark
from vistune.generation import GREEDY, Assistant, Engine, PendingAnswer
from vistune.generation.sequence import hash_prompt as coded
from vistune.model import VisionLanguageModel
from vistune.processor import Processor
from vistune.progress import Progress
from vistune.types import IGNORE, Example, ImageRef, Message, Question, Sample

BATCH = 64  # answers in progress at once
LETTERS = "ABCDEFGH"
VERSIONED = ("torch", "transformers")
SAMPLED = 1 << 20  # bytes that are hashed at the beginning, middle and end of a weight file


class Answerer(Protocol):
    """Something that answers questions: a model in this process, or a service."""

    @property
    def is_exact(self) -> bool:
        """Whether an answer is the same whichever questions are asked with it."""

    def settings(self) -> dict[str, object]:
        """Return the settings of the model on which its answers depend."""

    def answer(self, task: Benchmark, blocks: Sequence[Block], *, letters: bool, store: StoreAnswers) -> None:
        """Answer all questions of the blocks; pass answers to `store` as they are completed."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model in this process; `folder` has its weights, None for a model in training."""

    assistant: Assistant
    folder: Path | None = None

    @property
    def is_exact(self) -> bool:
        """Whether an answer is the same in any batch: all weights are in fp32, none quantized."""
        return all(weight.dtype == torch.float32 for weight in self.assistant.model.parameters())

    def settings(self) -> dict[str, object]:
        """Return model, template, precision and versions."""
        head = self.assistant.model.head
        return {
            "model": fingerprint(self.folder) if self.folder is not None else "",
            "template": self.assistant.processor.spec.template,
            "text_rules": self.assistant.processor.text_rules,
            "precision": {"dtype": str(head.dtype).removeprefix("torch."), "device": head.device.type},
            "versions": {package: version(package) for package in VERSIONED},
        }

    def answer(self, task: Benchmark, blocks: Sequence[Block], *, letters: bool, store: StoreAnswers) -> None:
        """Answer block by block, one batch each."""
        for block in blocks:
            ask(self.assistant.model, self.assistant.processor, task, block, letters=letters, on_answers=store)


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A task's questions as they are asked, in blocks.

    Attributes:
        name: The task's name.
        letters: Whether multiple-choice questions are answered by the likeliest letter, from one forward pass.
        line_of: Formats an answer for the answer file.
    """

    name: str
    task: Benchmark
    questions: Sequence[Question]
    blocks: Sequence[Block]
    letters: bool = False
    line_of: Callable[[AnsweredQuestion], AnswerLine] = AnsweredQuestion.to_dict

    def answer(
        self,
        model: Answerer,
        *,
        label: str,
        progress: Progress,
        file: AnswerFile | None = None,
        ranks: Ranks | None = None,
    ) -> list[AnsweredQuestion]:
        """Return the answers to all blocks' questions, by condition in the questions' order, on every process.

        Each process asks whole blocks. The result is that of an uninterrupted run: in fp32 an interrupted block
        resumes with the missing questions; in other precisions an answer depends on the other questions of its batch,
        so the whole block is asked again.
        """
        ranks = ranks or Ranks()
        known: dict[Key, StoredAnswer] = {}
        for part in ranks.gathered(file.known if file else {}):
            known |= part
        left = [_unanswered(block, known, exact=model.is_exact) for block in self.blocks]
        own = [block for block in left if block.questions][ranks.rank :: ranks.count]
        new: dict[Key, StoredAnswer] = {}
        to_ask = sum(len(block.questions) for block in own)
        with progress(label if to_ask else f"{label}: all kept", to_ask) as advance:

            def store(answers: Sequence[AnsweredQuestion]) -> None:
                if file is not None:
                    file.add(map(self.line_of, answers))
                new.update({(a.condition, a.question.id): StoredAnswer(a.text, a.finish_reason) for a in answers})
                advance(len(answers))

            with stoppable(resumable=file is not None):
                model.answer(self.task, own, letters=self.letters, store=store)
        for part in ranks.gathered(new):
            known |= part
        answers = self._marked(known)
        if file is not None:
            file.finish(map(self.line_of, answers))
        return answers

    def _marked(self, known: Mapping[Key, StoredAnswer]) -> list[AnsweredQuestion]:
        """Mark all answers by the task's current rule, and sort them."""
        answers = []
        for block in self.blocks:
            for question in block.questions:
                stored = known[block.condition, question.id]
                points = self.task.mark(question, stored.text).points
                answers.append(AnsweredQuestion(question, block.condition, stored.text, points, stored.finish_reason))
        index = {question.id: k for k, question in enumerate(self.questions)}
        return sorted(answers, key=lambda a: (CONDITIONS.index(a.condition), index[a.question.id]))

    def settings(self, model: Answerer) -> dict[str, object]:
        """Return everything on which the answers depend: those of the model, and prompts, decoding and versions."""
        own = model.settings()
        versions = own.pop("versions", {})
        conditions = dict.fromkeys(block.condition for block in self.blocks)
        return {
            "task": self.name,
            **own,
            "prompts": {c: _prompts([block for block in self.blocks if block.condition == c]) for c in conditions},
            "decoding": {"greedy": True, "max_tokens": self.task.max_tokens, "letters": self.letters},
            "versions": {"vistune": __version__, **(versions if isinstance(versions, Mapping) else {})},
        }


def ask(
    model: VisionLanguageModel,
    processor: Processor,
    task: Benchmark,
    block: Block,
    *,
    letters: bool = False,
    on_answers: Callable[[Sequence[AnsweredQuestion]], None] = lambda answers: None,
) -> list[AnsweredQuestion]:
    """Answer a block's questions greedily, in the block's order.

    Args:
        letters: Whether multiple-choice questions are answered by the likeliest letter, from one forward pass.
        on_answers: Called with answers as they are completed.
    """
    pixels = PixelCache()  # decodes an image once for all of its questions
    engine = Engine(model, processor, batch_size=BATCH, prefixes_at_once=BATCH)  # no stream waits for its first token
    tokens = read_letters(processor) if letters else None
    allowed = [tuple(tokens.ids[letter] for letter in letters_of(q)) if tokens else () for q in block.questions]
    prompts = []
    for question, ids in zip(block.questions, allowed, strict=True):
        prompt = processor.encode_prompt(block.messages(question), pixels)
        prompts.append(coded(tokens.begin_reply(prompt) if tokens and ids else prompt))
    running: dict[int, PendingAnswer] = {}
    for k in sorted(range(len(prompts)), key=lambda k: prompts[k].codes.tobytes()):  # equal beginnings together
        most = 1 if allowed[k] else task.max_tokens
        try:
            running[k] = engine.submit(prompts[k], max_tokens=most, sampling=replace(GREEDY, among=allowed[k]))
        except DataError as error:
            question = block.questions[k]
            raise DataError(f"{_location(question)}: {error.message}", error.hint) from None
    answers: dict[int, AnsweredQuestion] = {}
    while running:
        engine.step()
        ended = [k for k, answer in running.items() if answer.ended]
        for k in ended:
            question, completion = block.questions[k], running.pop(k).result()
            text, reason = completion.text, completion.finish_reason
            if allowed[k]:
                text, reason = text.strip(), "stop"
            points = task.mark(question, text).points
            answers[k] = AnsweredQuestion(question, block.condition, text, points, reason)
        if ended:
            on_answers([answers[k] for k in ended])
    return [answers[k] for k in range(len(prompts))]


def letters_of(question: Question) -> tuple[str, ...]:
    """Return the letters of a multiple-choice question's options; empty for other questions."""
    tags = question.tags
    if isinstance(options := tags.get("options"), Mapping):
        return tuple(letter for letter in options if letter in LETTERS)
    if isinstance(choices := tags.get("choices"), list | tuple) and tags.get("match", "choice") == "choice":
        return tuple(LETTERS[: len(choices)])
    return ()


@dataclass(frozen=True, slots=True)
class LetterTokens:
    """The tokens of a reply that is one letter: those before the letter, such as a space, and the letter's own ids."""

    before: tuple[int, ...]
    ids: Mapping[str, int]

    def begin_reply(self, prompt: Example) -> Example:
        """Append the tokens before the letter, so that the next token is the letter."""
        before = torch.tensor(self.before, dtype=prompt.input_ids.dtype)
        ids = torch.cat([prompt.input_ids, before])
        labels = torch.cat([prompt.labels, torch.full_like(before, IGNORE)])
        return replace(prompt, input_ids=ids, labels=labels)


def read_letters(processor: Processor) -> LetterTokens:
    """Find the tokens of each letter.

    The likeliest of these tokens is the model's answer if it would begin its reply with a letter. If it would begin
    with anything else ("The answer is B"), the figures may differ from those of free replies.

    Raises:
        RecipeError: The tokenizer writes a letter as several tokens.
    """
    asked = Message("user", ("?",))
    begin = len(processor.encode_prompt([asked]))
    replies = [
        processor.encode(Sample(letter, (asked, Message("assistant", (letter,))))).input_ids[begin:].tolist()
        for letter in LETTERS
    ]
    before = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*replies, strict=False))))
    ids = {letter: reply[before] for letter, reply in zip(LETTERS, replies, strict=True)}
    if len(set(ids.values())) < len(LETTERS):
        raise RecipeError("--letters: this tokenizer writes a letter as several tokens", "remove --letters")
    return LetterTokens(tuple(replies[0][:before]), ids)


@contextmanager
def stoppable(*, resumable: bool) -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C within the block into Stopped; everything answered until then is stored."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main_thread else None
    try:
        yield
    except KeyboardInterrupt:
        hint = (
            "all answers are saved: run the same command to resume" if resumable else "add --out to be able to resume"
        )
        raise Stopped("stopped", hint) from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _unanswered(block: Block, known: Mapping[Key, StoredAnswer], *, exact: bool) -> Block:
    missing = tuple(q for q in block.questions if (block.condition, q.id) not in known)
    return replace(block, questions=missing) if exact or not missing else block


def _prompts(blocks: Sequence[Block]) -> dict[str, object]:
    """Return the number of questions and a hash of every id, message and image, in the order of asking.

    The order is part of the hash because it decides which questions share a batch.
    """
    digest = hashlib.sha256()
    for block in blocks:
        for question in block.questions:
            shown = partial(_shown, location=_location(question))
            messages = [[m.role, list(map(shown, m.parts))] for m in block.messages(question)]
            digest.update(json.dumps([question.id, messages], ensure_ascii=False).encode() + b"\n")
    return {"count": sum(len(block.questions) for block in blocks), "sha256": digest.hexdigest()}


def _location(question: Question) -> str:
    return ": ".join(filter(None, (question.sample.origin, f"question {question.id}")))


def _shown(part: str | ImageRef, location: str) -> str | dict[str, str | int]:
    """Return a part as it is hashed: an image by its name and size, because the data folder may move."""
    if isinstance(part, str):
        return part
    path = Path(str(part.source))
    try:
        return {"picture": path.name, "bytes": path.stat().st_size}
    except OSError as error:
        raise DataError(f"{location}: {path}: {error.strerror}", "put the image there") from None


def fingerprint(folder: Path) -> str:
    """Return a hash of a model: that of its manifest, or else of its configs and parts of its weight files."""
    digest = hashlib.sha256()
    if (folder / "manifest.json").is_file():
        digest.update((folder / "manifest.json").read_bytes())
        return digest.hexdigest()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".model"):
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with open(path, "rb") as file:
                for begin in (0, size // 2, max(size - SAMPLED, 0)):
                    file.seek(begin)
                    digest.update(file.read(SAMPLED))
    return digest.hexdigest()
