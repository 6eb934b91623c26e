"""A request's answer while the engine generates it: text in pieces, or the whole completion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Literal

from vistune.generation.batch import RunningSequence
from vistune.processor import Processor
from vistune.types import Completion

if TYPE_CHECKING:
    from vistune.generation.engine import Engine

Reason = Literal["stop", "length", "cancelled"]
Listener = Callable[[str | None], None]

WINDOW = 24  # tokens decoded at a time, so that the work per token does not grow with the answer
KEPT = 8  # tokens kept as context when the window is shortened


class TextStream:
    """Decode an answer token by token, so that text which was shown is never taken back.

    An unfinished character, outer whitespace and the possible beginning of a stop string are held back.
    """

    def __init__(self, processor: Processor, stop: Sequence[str] = ()) -> None:
        self._processor = processor
        self._stop = tuple(stop)
        self._ends = tuple(filter(None, (*stop, processor.stop_text)))
        self._window: list[int] = []
        self._window_text = ""
        self._text = ""
        self._shown = 0
        self.stopped = False  # whether a stop string was generated

    def add(self, token: int) -> str:
        """Add a token and return the text that can be shown now."""
        self._window.append(token)
        decoded = self._decode(self._window)
        if decoded.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        before = len(self._text)
        self._text += decoded[len(self._window_text) :]
        self._window_text = decoded
        if len(self._window) >= WINDOW:
            self._shorten_window()
        if not self._shown:
            self._text = self._text.lstrip()
        longest = max(map(len, self._ends), default=0)
        self.stopped = any(self._text.find(stop, max(0, before - longest)) >= 0 for stop in self._stop)
        return "" if self.stopped else self._show(self._stable_length())

    def finish(self, tokens: Sequence[int]) -> tuple[str, str]:
        """Return the last piece and the whole text of an answer that has ended."""
        whole = self._processor.answer(tokens)
        if not whole.startswith(self._text[: self._shown]):
            # SentencePiece decodes a run of byte tokens differently if its last character is cut off.
            whole = self._text.rstrip()
        cuts = [index for end in self._ends if (index := whole.find(end)) >= 0]
        whole = whole[: min(cuts)].rstrip() if cuts else whole
        return whole[self._shown :], whole

    def _shorten_window(self) -> None:
        """Drop all but a few tokens, at a token from which the text decodes as before.

        A character may consist of up to four byte tokens; SentencePiece decodes them differently from the middle on.
        """
        for count in range(KEPT, KEPT + 4):
            kept = self._decode(self._window[-count:])
            if self._window_text.endswith(kept):
                self._window, self._window_text = self._window[-count:], kept
                return

    def _stable_length(self) -> int:
        """Return the length of the text that can no longer change."""
        stable = len(self._text)
        for end in self._ends:
            index = self._text.find(end, max(0, self._shown - len(end)))
            begun = (len(self._text) - k for k in range(min(len(end), len(self._text)), 0, -1)
                     if self._text.endswith(end[:k]))  # fmt: skip
            stable = min(stable, index if index >= 0 else next(begun, stable))
        return len(self._text[:stable].rstrip())

    def _show(self, end: int) -> str:
        piece = self._text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._processor.tokenizer.decode(tokens, skip_special_tokens=True))


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
    ) -> None:
        self.sequence = sequence
        self.finish_reason: Reason | None = None
        self.error: BaseException | None = None
        self.text = ""
        self.is_cancelled = False
        self._engine = engine
        self._processor = processor
        self._max_tokens = max_tokens
        self._stream = TextStream(processor, stop)
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
        tokens = self.sequence.tokens
        if self._processor.ended(tokens):
            return self.end("stop")
        self._show(self._stream.add(tokens[-1]))
        if self._stream.stopped:
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

    def _show(self, piece: str) -> None:
        if piece:
            self._emit(piece)

    def _close(self) -> None:
        self._ended.set()
        self._emit(None)
