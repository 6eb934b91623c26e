"""Ask the questions of a task to a model behind an OpenAI-compatible endpoint.

question + condition -> chat request -> RequestRunner (journal, budget, rate limits) -> answer
Each answer is stored as it arrives, and a reply in the journal is never requested again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vistune.errors import DataError, RecipeError, TeacherError
from vistune.evaluation.comparison import labels_of
from vistune.evaluation.conditions import Block
from vistune.evaluation.results import AnsweredQuestion, StoreAnswers
from vistune.evaluation.task import Benchmark
from vistune.llm_client import Endpoint, RequestResult, RequestRunner, content_of, remove_thoughts, run_workers
from vistune.progress import OnMessage, ignore_message
from vistune.records.image_files import HEAD, format_of
from vistune.types import ImageRef, Message, Part, Question


@dataclass(frozen=True, slots=True)
class AnsweredFault:
    """A fault of a reply that counts as the model's answer nevertheless: the finish reason, and a message."""

    reason: str
    message: str


ANSWERED_FAULTS: Mapping[str, AnsweredFault] = {
    "cut_off": AnsweredFault(
        "length",
        "{model}: {count:,} replies were cut off and count as they are; for complete ones, raise --max-tokens and add "
        "--again",
    ),
    "no_content": AnsweredFault("stop", "{model}: {count:,} replies have no text and count as empty answers"),
    "refusal": AnsweredFault("refusal", "{model}: {count:,} replies are refusals and count as empty answers"),
    "content_filter": AnsweredFault(
        "content_filter", "{model}: {count:,} replies were blocked by a content filter and count as empty answers"
    ),
}


@dataclass(frozen=True, slots=True)
class EndpointModel:
    """A model behind an endpoint that answers questions.

    Attributes:
        folder: The folder of the journal.
        on_message: Called with the cost, and with the number of answers that the service cut off or refused.
    """

    endpoint: Endpoint
    folder: Path
    on_message: OnMessage = ignore_message
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def is_exact(self) -> bool:
        """Each question is one request, so an answer does not depend on the other questions."""
        return True

    def settings(self) -> dict[str, object]:
        """Return the settings of the service on which the answers depend."""
        model = {"model": self.endpoint.model, "base_url": self.endpoint.base_url}
        return {"endpoint": {**model, **self.endpoint.asked_with()}}

    def answer(self, task: Benchmark, blocks: Sequence[Block], *, letters: bool, store: StoreAnswers) -> None:
        """Ask all questions of the blocks, many at a time, and pass each answer to `store`.

        Raises:
            RecipeError: `letters` is set: a service does not give the probabilities of the letters.
            TeacherError: Some questions have no answer. The answers that arrived are stored.
            BudgetError, Stopped: The run was stopped.
        """
        if letters:
            raise RecipeError("--letters: needs the probabilities of a model in this process", "remove --letters")
        if not any(block.questions for block in blocks):
            return
        asyncio.run(self._ask(task, blocks, store))

    async def _ask(self, task: Benchmark, blocks: Sequence[Block], store: StoreAnswers) -> None:
        header = {
            "model": self.endpoint.model,
            "base_url": self.endpoint.base_url,
            **self.endpoint.asked_with(),
            "use": "evaluate",
        }
        runner = self.endpoint.open(self.folder, header, report=self.on_message)
        waiting = iter([(block, question) for block in blocks for question in block.questions])
        failed: list[str] = []

        async def work() -> None:
            for block, question in waiting:
                result = await self._send(runner, task, block, question)
                reply = answer_of(result, runner)
                if reply is None:
                    completion = result.completion
                    failed.append(f"{question.id}: {completion.fault} ({completion.detail})")
                    continue
                text, reason = reply
                if result.completion.fault:
                    self.faults[result.completion.fault] += 1
                points = task.mark(question, text).points
                store([AnsweredQuestion(question, block.condition, text, points, reason)])

        try:
            await runner.begin()
            await run_workers(runner, [work() for _ in range(self.endpoint.concurrency)])
        finally:
            await runner.client.close()
            self._report(runner)
            runner.journal.close()
        if failed:
            raise TeacherError(
                f"{self.endpoint.model!r} gave no answer to {len(failed)} questions, such as {failed[0]}",
                "no score was computed; all other answers are saved: run the same command again",
            )

    async def _send(self, runner: RequestRunner, task: Benchmark, block: Block, question: Question) -> RequestResult:
        chat = [chat_message(message, question) for message in block.messages(question)]
        most = self.endpoint.max_tokens or task.max_tokens
        fields = {"model": self.endpoint.model, "messages": chat, "temperature": 0.0, "max_tokens": most}
        tree = {**self.endpoint.extra_body, **fields}
        body = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        key = hashlib.sha256(f"{block.condition} {question.id}\0".encode() + body).hexdigest()[:32]
        return await runner.ask(
            key, body, prompt_bound=self._prompt_bound(runner, block, question), completion_bound=most
        )

    def _prompt_bound(self, runner: RequestRunner, block: Block, question: Question) -> int:
        """Return a number of tokens that the prompt cannot exceed: a text token has at least one byte."""
        messages = block.messages(question)
        images = sum(len(message.images) for message in messages)
        texts = sum(len(message.text.encode()) + 8 * len(message.parts) for message in messages)
        return 16 + texts + images * (runner.price.image_tokens if runner.price else 0)

    def _report(self, runner: RequestRunner) -> None:
        ledger = runner.ledger
        cost = f"${ledger.dollars:.2f}" if runner.price is not None else "cost unknown"
        self.on_message(f"{self.endpoint.model}: {ledger.outcomes['reply']:,} replies in {self.folder}, {cost}")
        for fault, count in sorted(self.faults.items()):
            self.on_message(ANSWERED_FAULTS[fault].message.format(model=self.endpoint.model, count=count))


def answer_of(result: RequestResult, runner: RequestRunner) -> tuple[str, str] | None:
    """Return the text and the finish reason of a reply, without thoughts; None if there is no reply.

    A refusal, a filtered reply and a thought without an answer are empty answers, as the model gave no other.
    """
    completion = result.completion
    if completion.fault and (completion.fault not in ANSWERED_FAULTS or result.offset is None):
        return None
    text, reason = completion.text, ANSWERED_FAULTS[completion.fault].reason if completion.fault else "stop"
    if completion.fault == "cut_off" and result.offset is not None:
        text = content_of(json.loads(runner.journal.read(result.offset)["body"])["choices"][0]["message"])
    return remove_thoughts(text or "") or "", reason


def chat_message(message: Message, question: Question) -> dict[str, object]:
    """Return a message of a chat request: a text, or a list of parts if it has images."""
    if not message.images:
        return {"role": message.role, "content": message.text}
    return {"role": message.role, "content": [_part(part, question) for part in message.parts if part != ""]}


def _part(part: Part, question: Question) -> dict[str, object]:
    if not isinstance(part, ImageRef):
        return {"type": "text", "text": part}
    path = Path(str(part.source))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{question.sample.origin}: {path}: {error.strerror}", "put the image there") from None
    form = format_of(data[:HEAD])
    if form is None:
        raise DataError(
            f"{question.sample.origin}: {path}: is not a JPEG, PNG, WebP or GIF image", "convert it to JPEG or PNG"
        )
    url = f"data:image/{form.lower()};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def endpoint_model(endpoint: Endpoint, answers: Path, *, again: bool, on_message: OnMessage) -> EndpointModel:
    """Return the model behind an endpoint, with its journal next to the answer file `answers`.

    Args:
        again: Whether to ask again although the journal has replies; it is removed.
    """
    folder = answers.with_name(f"{answers.name.removesuffix('.predictions.jsonl')}.requests")
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    return EndpointModel(endpoint, folder, on_message)


def labels_with_endpoints(models: Sequence[Path | Endpoint]) -> list[str]:
    """Return a short, distinct name for each model: as `labels_of` for folders, the model's name for endpoints.

    Raises RecipeError if two names are equal.
    """
    of_folders = iter(labels_of([model for model in models if isinstance(model, Path)]))
    labels = [_label(model) if isinstance(model, Endpoint) else next(of_folders) for model in models]
    for label in labels:
        if labels.count(label) > 1:
            raise RecipeError(f"two models are called {label!r}", "rename the folder, or ask them in two commands")
    return labels


def _label(endpoint: Endpoint) -> str:
    """Return a model's name as the name of a folder: "org/Model 7B" is "org-Model-7B"."""
    return re.sub(r"[^\w.-]+", "-", endpoint.model).strip(".-") or "endpoint"
