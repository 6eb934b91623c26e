"""An answer under way: what a request gives back at once, and what fills as the engine goes.

Engine.submit -> Answer: pieces as they come, or the whole Completion
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Event
from typing import Literal, Protocol

from vistune.generation.running import Speaker
from vistune.generation.text import Text
from vistune.processor import Processor
from vistune.types import Completion

Reason = Literal["stop", "length", "cancelled"]
Listener = Callable[[str | None], None]


class Driver(Protocol):
    """Whoever makes an answer go on."""

    def drive(self, done: Callable[[], bool]) -> None:
        """Step until `done`, unless a thread of the engine's own does."""


class Answer:
    """Iterate over it for pieces of text, or ask for the `result`; both wait, and raise what went wrong.

    `listen` is called in the engine's thread with each piece and a last None; pieces then go there alone.
    """

    def __init__(
        self,
        driver: Driver,
        processor: Processor,
        speaker: Speaker,
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        listen: Listener | None = None,
    ) -> None:
        self.speaker = speaker
        self.finish_reason: Reason | None = None
        self.error: BaseException | None = None
        self.text = ""
        self.is_cancelled = False
        self._driver = driver
        self._processor = processor
        self._max_tokens = max_tokens
        self._text = Text(processor, stop)
        self._pieces: SimpleQueue[str | None] = SimpleQueue()
        self._tell = listen or self._pieces.put
        self._ended = Event()

    @property
    def prompt_tokens(self) -> int:
        return len(self.speaker.prompt)

    @property
    def reused_tokens(self) -> int:
        """Of the prompt's, those that had been read for an earlier one."""
        return self.speaker.reused

    @property
    def completion_tokens(self) -> int:
        return len(self.speaker.said)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def cancel(self) -> None:
        """Stop: no step that begins after this says more of it. What was said stays."""
        self.is_cancelled = True

    def __iter__(self) -> Iterator[str]:
        while True:
            self._driver.drive(lambda: not self._pieces.empty())
            piece = self._pieces.get()
            if piece is None:
                self._pieces.put(None)  # iterating again ends again
                break
            yield piece
        if self.error is not None:
            raise self.error

    def result(self) -> Completion:
        """The whole answer, once it has ended."""
        self._driver.drive(self._ended.is_set)
        self._ended.wait()
        if self.error is not None:
            raise self.error
        assert self.finish_reason is not None
        return Completion(self.text, self.finish_reason, self.prompt_tokens, self.completion_tokens)

    def hear(self) -> None:
        """Take up the token that was said last; the engine calls this, as all that follows."""
        said = self.speaker.said
        if self._processor.ended(said):
            return self.end("stop")
        self._show(self._text.add(said[-1]))
        if self._text.stopped:
            self.end("stop")
        elif len(said) >= self._max_tokens:
            self.end("length")

    def end(self, reason: Reason) -> None:
        self.finish_reason = reason
        piece, self.text = self._text.finish(self.speaker.said)
        self._show(piece)
        self._close()

    def fail(self, error: BaseException) -> None:
        if not self.ended:
            self.error = error
            with suppress(Exception):  # a listener's, which may be the very error
                self._close()

    def _show(self, piece: str) -> None:
        if piece:
            self._tell(piece)

    def _close(self) -> None:
        self._ended.set()
        self._tell(None)
