"""A request's answer while the engine generates it: text in pieces, or the whole completion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Literal

from vistune.errors import DataError
from vistune.generation.grammar import Grammar, GrammarError
from vistune.generation.logprobs import TokenLogprobs
from vistune.generation.sequence import RunningSequence
from vistune.generation.text_stream import ANSWER, TextStream, TextStyle
from vistune.processor import Processor
from vistune.types import Completion

if TYPE_CHECKING:
    from vistune.generation.engine import Engine

Reason = Literal["stop", "length", "cancelled"]
Listener = Callable[[str | None], None]


@dataclass(frozen=True, slots=True)
class Output:
    """The form of an answer, and the numbers that are recorded with it.

    Attributes:
        grammar: Which tokens may come next; it belongs to this answer. Then only a token ends the answer, not the text
            with which a template ends turns.
        top_logprobs: How many likeliest tokens are recorded for each generated token; None records nothing.
        style: How tokens become text.
    """

    grammar: Grammar | None = None
    top_logprobs: int | None = None
    style: TextStyle = ANSWER


PLAIN = Output()


class PendingAnswer:
    """Iterate over it for pieces of text, or call `result` for the whole. Both wait, and raise the answer's error.

    `listen` is called in the engine's thread with each piece, and at last with None; iterating then yields nothing.
    """

    def __init__(
        self,
        engine: Engine,
        processor: Processor,
        sequence: RunningSequence,
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        listen: Listener | None = None,
        style: TextStyle = ANSWER,
    ) -> None:
        self.sequence = sequence
        self.finish_reason: Reason | None = None
        self.error: BaseException | None = None
        self.text = ""
        self.is_cancelled = False
        self._engine = engine
        self._processor = processor
        self._max_tokens = max_tokens
        self._style = style if sequence.grammar is None else replace(style, ends_by_text=False)
        self._stream = TextStream(processor, stop, self._style)
        self._pieces: SimpleQueue[str | None] = SimpleQueue()
        self._emit = listen or self._pieces.put
        self._ended = Event()

    @property
    def prompt_tokens(self) -> int:
        return len(self.sequence.prompt)

    @property
    def reused_tokens(self) -> int:
        """Number of prompt tokens that had been read for an earlier prompt."""
        return self.sequence.reused

    @property
    def completion_tokens(self) -> int:
        return len(self.sequence.tokens)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def logprobs_of(self, characters: int) -> list[TokenLogprobs]:
        """Return the log probabilities of the tokens that begin within the first characters of the answer."""
        return self.sequence.logprobs[: self._stream.tokens_of(characters)]

    def all_logprobs(self) -> list[TokenLogprobs]:
        """Return the log probabilities of an ended answer's tokens, without its end token and stop string."""
        if self._stream.is_cut:
            return self.logprobs_of(len(self.text))
        tokens = self.sequence.tokens
        return self.sequence.logprobs[: len(tokens) - (bool(tokens) and tokens[-1] in self._processor.stop_ids)]

    def cancel(self) -> None:
        """Stop: no later step generates for it. The text so far is kept."""
        self.is_cancelled = True

    def __iter__(self) -> Iterator[str]:
        while True:
            self._engine.drive(lambda: not self._pieces.empty())
            piece = self._pieces.get()
            if piece is None:
                self._pieces.put(None)  # iterating again ends at once
                break
            yield piece
        if self.error is not None:
            raise self.error

    def result(self) -> Completion:
        """Wait for the end and return the whole answer."""
        self._engine.drive(self._ended.is_set)
        self._ended.wait()
        if self.error is not None:
            raise self.error
        assert self.finish_reason is not None
        return Completion(self.text, self.finish_reason, self.prompt_tokens, self.completion_tokens)

    def update(self) -> None:
        """Add the newest token. Only the engine calls `update`, `end` and `fail`."""
        tokens, grammar = self.sequence.tokens, self.sequence.grammar
        if self.sequence.error:
            raise DataError(
                self.sequence.error, "load the model with another dtype, such as fp32, or check its weights"
            )
        if grammar is not None and grammar.error:
            raise GrammarError(grammar.error, "use a simpler schema")
        if self._ended_by_token(tokens):
            return self.end("stop")
        self._show(self._stream.add(tokens[-1]))
        if self._stream.stopped or (grammar is not None and grammar.ended):
            self.end("stop")
        elif len(tokens) >= self._max_tokens:
            self.end("length")

    def end(self, reason: Reason) -> None:
        """End the answer for this reason."""
        self.finish_reason = reason
        piece, self.text = self._stream.finish(self.sequence.tokens)
        self._show(piece)
        self._close()

    def fail(self, error: BaseException) -> None:
        """End the answer with an error, unless it has ended."""
        if not self.ended:
            self.error = error
            with suppress(Exception):  # a listener may raise, perhaps this very error
                self._close()

    def _ended_by_token(self, tokens: Sequence[int]) -> bool:
        return self._processor.ended(tokens) if self._style.ends_by_text else tokens[-1] in self._processor.stop_ids

    def _show(self, piece: str) -> None:
        if piece:
            self._emit(piece)

    def _close(self) -> None:
        self._ended.set()
        self._emit(None)
