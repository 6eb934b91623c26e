"""A request that was admitted: its answers while the engine generates them, as events of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vistune.generation import GrammarError, Output, PendingAnswer, Sampling
from vistune.generation.answer import PLAIN
from vistune.generation.fields import FieldError
from vistune.generation.logprobs import TokenLogprobs
from vistune.generation.sequence import Prompt
from vistune.serving.api.guard import Refusal, field_refusal

if TYPE_CHECKING:
    from vistune.serving.api.service import ModelService

LARGE_BYTES = 4 * 2**20  # after a request that used more, freed memory is returned to the system


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """How the answers of a request are generated.

    Attributes:
        count: Answers per prompt. They differ in their seeds.
        output: The form of each answer; each answer gets a copy of the grammar.
        format_param: The request's field from which the grammar comes.
    """

    max_tokens: int
    sampling: Sampling
    stop: Sequence[str] = ()
    count: int = 1
    output: Output = PLAIN
    format_param: str = "response_format"


@dataclass(frozen=True, slots=True)
class TextEvent:
    """New text of an answer, the log probabilities of its tokens, and whether the answer has ended."""

    index: int
    text: str
    logprobs: Sequence[TokenLogprobs] = ()
    ended: bool = False


class ActiveRequest:
    """A request that was admitted, and its answers, which wait or run. It must be released once, whatever happens."""

    def __init__(self, service: ModelService) -> None:
        self.service = service
        self.answers: list[PendingAnswer] = []
        self.per_prompt = 1  # answers of each prompt
        self.start = time.monotonic()
        self.bytes = 0  # of its body and its decoded images
        self.unused: Sequence[str] = ()  # paths of the unused fields of its body
        self._pieces: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
        self._characters: list[int] = []  # of each answer, those that were yielded
        self._reported: list[int] = []  # of each answer, the log probabilities that were yielded
        self._format_param = "response_format"
        service.active.add(self)

    def submit(self, prompts: Sequence[Prompt], settings: AnswerSettings) -> None:
        """Give the prompts to the engine. Answer k of prompt i has index `i * count + k`."""
        self.per_prompt, self._format_param = settings.count, settings.format_param
        for prompt in prompts:
            for _ in range(settings.count):
                self._submit_one(replace(prompt), settings)  # copies: the engine reads what two prompts share once
        self._characters = [0] * len(self.answers)
        self._reported = [0] * len(self.answers)

    def _submit_one(self, prompt: Prompt, settings: AnswerSettings) -> None:
        loop, index = asyncio.get_running_loop(), len(self.answers)

        def listen(piece: str | None) -> None:  # in the engine's thread
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

        grammar = settings.output.grammar
        answer = self.service.engine.submit(
            prompt,
            max_tokens=settings.max_tokens,
            sampling=replace(settings.sampling, seed=settings.sampling.seed + index),
            stop=settings.stop,
            listen=listen,
            output=settings.output if grammar is None else replace(settings.output, grammar=grammar.copy()),
        )
        self.answers.append(answer)

    async def events(self) -> AsyncIterator[TextEvent | None]:
        """Yield the text of the answers as it comes, and None as a heartbeat if there is none for a while.

        Raises Refusal, or the engine's error, if an answer ends early.
        """
        limits, metrics = self.service.limits, self.service.metrics
        running = len(self.answers)
        has_text = False
        while running:
            left = max(self.start + limits.answer_seconds - time.monotonic(), 0)
            try:
                index, piece = await asyncio.wait_for(self._pieces.get(), min(left, limits.heartbeat_seconds))
            except TimeoutError:
                if left <= limits.heartbeat_seconds:
                    message = f"the answer took longer than {limits.answer_seconds:.0f} s"
                    raise Refusal(504, message, code="timeout") from None
                yield None
                continue
            if piece is None:
                self._raise_error(self.answers[index])
                running -= 1
                yield TextEvent(index, "", self._last_logprobs(index), ended=True)
                continue
            if not has_text:
                metrics.first_piece.observe(time.monotonic() - self.start)
                has_text = True
            yield TextEvent(index, piece, self._new_logprobs(index, piece))

    def _new_logprobs(self, index: int, piece: str) -> Sequence[TokenLogprobs]:
        if self.answers[index].sequence.top_logprobs is None:
            return ()
        self._characters[index] += len(piece)
        entries = self.answers[index].logprobs_of(self._characters[index])[self._reported[index] :]
        self._reported[index] += len(entries)
        return entries

    def _last_logprobs(self, index: int) -> Sequence[TokenLogprobs]:
        """Return those of tokens that add no text, such as a space at the end."""
        answer = self.answers[index]
        return () if answer.sequence.top_logprobs is None else answer.all_logprobs()[self._reported[index] :]

    def _raise_error(self, answer: PendingAnswer) -> None:
        if isinstance(answer.error, GrammarError):
            raise field_refusal(FieldError(self._format_param, answer.error.message, answer.error.hint)) from None
        if answer.error is not None:
            raise answer.error
        if answer.finish_reason == "cancelled":
            raise shutting_down_error()

    def cancel(self) -> None:
        """Cancel all answers."""
        for answer in self.answers:
            answer.cancel()

    def release(self) -> None:
        """Make room for another request, and count this one's tokens. Releasing twice does nothing."""
        if self not in self.service.active:
            return
        self.service.active.discard(self)
        metrics = self.service.metrics
        if self.answers:
            metrics.answer.observe(time.monotonic() - self.start)
        for answer in self.answers:
            answer.cancel()
            metrics.prompt_tokens.inc(answer.prompt_tokens)
            metrics.reused_tokens.inc(answer.reused_tokens)
            metrics.answer_tokens.inc(answer.completion_tokens)
        if self.bytes > LARGE_BYTES:
            self.service.return_memory()


def shutting_down_error() -> Refusal:
    """Return the error for requests during shutdown."""
    return Refusal(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"})
