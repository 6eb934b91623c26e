"""A run over a task's questions: what is known already is not asked again, what is asked is kept as it comes.

blocks + AnswerFile -> those without an answer, shared out over the processes -> ask -> gathered -> Answered, in order
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vistune import __version__
from vistune.errors import DataError, Stopped
from vistune.evaluation.answers import AnswerFile, Key, Row, Said
from vistune.evaluation.ranks import Ranks
from vistune.evaluation.runner import CONDITIONS, Answered, Block, ask
from vistune.evaluation.task import Task
from vistune.generation import Assistant
from vistune.progress import Progress
from vistune.types import ImageRef, Question

VERSIONED = ("torch", "transformers")
SAMPLED = 1 << 20  # bytes at a weight file's beginning, middle and end


def run(
    assistant: Assistant,
    task: Task,
    questions: Sequence[Question],
    blocks: Sequence[Block],
    *,
    label: str,
    progress: Progress,
    letters: bool = False,
    file: AnswerFile | None = None,
    ranks: Ranks | None = None,
    row_of: Callable[[Answered], Row] = Answered.as_row,
) -> list[Answered]:
    """Answers to all blocks' questions, condition by condition in the questions' order; the same on every process.

    Blocks are shared out whole. In fp32 a block that was cut off goes on with what it lacks; in other precisions an
    answer depends on who shares its batch, so it is asked whole again: either way the result is that of a run which
    nobody stopped.
    """
    ranks = ranks or Ranks()
    known: dict[Key, Said] = {}
    for part in ranks.gathered(file.known if file else {}):
        known |= part
    left = [_left(block, known, exact=is_exact(assistant)) for block in blocks]
    own = [block for block in left if block.questions][ranks.rank :: ranks.count]
    new: dict[Key, Said] = {}
    to_ask = sum(len(block.questions) for block in own)
    with progress(label if to_ask else f"{label}: all kept", to_ask) as advance:

        def hear(rows: Sequence[Answered]) -> None:
            if file is not None:
                file.add(row_of(row) for row in rows)
            new.update({(row.condition, row.question.id): Said(row.text, row.finish_reason) for row in rows})
            advance(len(rows))

        with stoppable(kept=file is not None):
            for block in own:
                ask(assistant.model, assistant.processor, task, block, letters=letters, hear=hear)
    for part in ranks.gathered(new):
        known |= part
    rows = _in_order([row for block in blocks for row in _told(task, block, known)], questions)
    if file is not None:
        file.finish(row_of(row) for row in rows)
    return rows


@contextmanager
def stoppable(*, kept: bool) -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: with Stopped, whatever was answered until then written."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main_thread else None
    try:
        yield
    except KeyboardInterrupt:
        hint = "every answer is kept: the same command goes on" if kept else "with --out a stopped run can go on"
        raise Stopped("stopped", hint) from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _left(block: Block, known: Mapping[Key, Said], *, exact: bool) -> Block:
    missing = tuple(q for q in block.questions if (block.condition, q.id) not in known)
    return replace(block, questions=missing) if exact or not missing else block


def _told(task: Task, block: Block, known: Mapping[Key, Said]) -> list[Answered]:
    """A block's answers, marked by the task's rule of today."""
    rows = []
    for question in block.questions:
        said = known[block.condition, question.id]
        right = task.mark(question, said.text).points
        rows.append(Answered(question, block.condition, said.text, right, said.finish_reason))
    return rows


def _in_order(rows: Sequence[Answered], questions: Sequence[Question]) -> list[Answered]:
    places = {question.id: place for place, question in enumerate(questions)}
    return sorted(rows, key=lambda row: (CONDITIONS.index(row.condition), places[row.question.id]))


def is_exact(assistant: Assistant) -> bool:
    """Whether an answer is the same whoever shares its batch: all weights are in fp32, none quantised."""
    return all(weight.dtype == torch.float32 for weight in assistant.model.parameters())


def asked_with(
    name: str, task: Task, assistant: Assistant, folder: Path, blocks: Sequence[Block], *, letters: bool
) -> dict[str, Any]:
    """All that answers depend on: model, template, prompts, decoding, precision and versions."""
    head = assistant.model.head
    return {
        "task": name,
        "model": fingerprint(folder),
        "template": assistant.processor.spec.template,
        "text_rules": assistant.processor.text_rules,
        "prompts": {c: _prompts([block for block in blocks if block.condition == c]) for c in _conditions(blocks)},
        "decoding": {"greedy": True, "max_tokens": task.max_tokens, "letters": letters},
        "precision": {"dtype": str(head.dtype).removeprefix("torch."), "device": head.device.type},
        "versions": {"vistune": __version__, **{package: version(package) for package in VERSIONED}},
    }


def _conditions(blocks: Sequence[Block]) -> list[str]:
    return list(dict.fromkeys(block.condition for block in blocks))


def _prompts(blocks: Sequence[Block]) -> dict[str, Any]:
    """How many there are, and a hash of every id, message and picture; a picture by its name and size: data may move.

    In the order in which they are asked, which says who shares a batch.
    """
    digest = hashlib.sha256()
    for block in blocks:
        for question in block.questions:
            said = [[m.role, [_shown(part, question.sample.origin) for part in m.parts]]
                    for m in block.messages(question)]  # fmt: skip
            digest.update(json.dumps([question.id, said], ensure_ascii=False).encode() + b"\n")
    return {"count": sum(len(block.questions) for block in blocks), "sha256": digest.hexdigest()}


def _shown(part: str | ImageRef, place: str) -> Any:
    if isinstance(part, str):
        return part
    path = Path(str(part.source))
    try:
        return {"picture": path.name, "bytes": path.stat().st_size}
    except OSError as error:
        raise DataError(f"{place}: {path}: {error.strerror}", "put the picture there") from None


def fingerprint(folder: Path) -> str:
    """A hash that tells a model from others: of its manifest, else of its configs and samples of its weight files."""
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
