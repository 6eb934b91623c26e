"""The text of an answer, token by token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from vistune.processor import Processor

WINDOW = 24  # tokens decoded at a time, so that the work per token does not grow with the answer
KEPT = 8  # tokens kept as context when the window is shortened


@dataclass(frozen=True, slots=True)
class TextStyle:
    """How tokens become the text of an answer.

    Attributes:
        is_stripped: Remove outer whitespace, and the space that the template writes before an answer.
        ends_by_text: The template's end, if it is text such as `###`, ends the answer.
        keeps_special: Special tokens are part of the text.
    """

    is_stripped: bool = True
    ends_by_text: bool = True
    keeps_special: bool = False


ANSWER = TextStyle()
CONTINUATION = TextStyle(is_stripped=False, ends_by_text=False)  # of a text without a template


class TextStream:
    """Decode an answer token by token, so that text which was shown is never taken back.

    An unfinished character, outer whitespace and the possible beginning of a stop string are held back. A stop string
    may also begin the answer: whitespace that is not shown counts, except the space that the template writes.
    """

    def __init__(self, processor: Processor, stop: Sequence[str] = (), style: TextStyle = ANSWER) -> None:
        self._processor = processor
        self._style = style
        self._stop = tuple(stop)
        self._ends = tuple(filter(None, (*stop, processor.stop_text if style.ends_by_text else "")))
        # A SentencePiece tokenizer must not take the first space of a continuation for its own.
        self._before = [] if style.is_stripped else processor.plain_tokens
        self._window = list(self._before)
        self._window_text = self._decode(self._window) if self._window else ""
        self._text = ""
        self._begin: int | None = 0 if not style.is_stripped else None  # of the shown text; None: not known yet
        self._shown = 0
        self._starts: list[int] = []  # for each token, the length of the text before it
        self.stopped = False  # whether a stop string was generated
        self.is_cut = False  # whether the answer ended before text that was generated: a stop string, or `###`

    def add(self, token: int) -> str:
        """Add a token and return the text that can be shown now."""
        before = len(self._text)
        self._starts.append(before)
        self._window.append(token)
        decoded = self._decode(self._window)
        if decoded.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        added = decoded[len(self._window_text) :]
        self._text += added if self._text else self._first(added)
        self._window_text = decoded
        if len(self._window) >= WINDOW:
            self._shorten_window()
        longest = max(map(len, self._ends), default=0)
        self.stopped = any(self._text.find(stop, max(0, before - longest)) >= 0 for stop in self._stop)
        return "" if self.stopped else self._show(self._stable_length())

    def finish(self, tokens: Sequence[int]) -> tuple[str, str]:
        """Return the last piece and the whole text of an answer that has ended."""
        if tokens and tokens[-1] in self._processor.stop_ids:
            tokens = tokens[:-1]
        before = self._decode(self._before) if self._before else ""
        whole = self._decode([*self._before, *tokens])[len(before) :]
        if self._style.is_stripped:
            whole = whole.removeprefix(self._processor.answer_space)
        if not whole.startswith(self._text[: self._shown]):
            # SentencePiece decodes a run of byte tokens differently if its last character is cut off.
            whole = self._text
        cuts = [index for end in self._ends if (index := whole.find(end)) >= 0]
        self.is_cut = bool(cuts)
        whole = whole[: min(cuts)] if cuts else whole
        begin = self._begin if self._begin is not None else 0
        if self._style.is_stripped:
            whole = whole.rstrip()
            begin = len(whole) - len(whole.lstrip())
        last = whole[max(self._shown, begin) :]
        self._begin, self._shown = begin, max(self._shown, len(whole))
        return last, whole[begin:]

    def tokens_of(self, characters: int) -> int:
        """Return how many tokens begin within the first characters of the answer."""
        end = (self._begin or 0) + characters if characters else 0
        return bisect_left(self._starts, end)

    def _first(self, added: str) -> str:
        """Return the first text of an answer without the template's space."""
        return added.removeprefix(self._processor.answer_space) if self._style.is_stripped else added

    def _shorten_window(self) -> None:
        """Drop all but a few tokens, at a token from which the text decodes as before.

        A character may consist of up to four byte tokens; SentencePiece decodes them differently from the middle on.
        """
        for count in range(KEPT, KEPT + 4):
            recent = self._decode(self._window[-count:])
            if self._window_text.endswith(recent):
                self._window, self._window_text = self._window[-count:], recent
                return

    def _stable_length(self) -> int:
        """Return the length of the text that can no longer change."""
        stable = len(self._text)
        for end in self._ends:
            index = self._text.find(end, max(0, self._shown - len(end)))
            begun = (len(self._text) - k for k in range(min(len(end), len(self._text)), 0, -1)
                     if self._text.endswith(end[:k]))  # fmt: skip
            stable = min(stable, index if index >= 0 else next(begun, stable))
        return len(self._text[:stable].rstrip()) if self._style.is_stripped else stable

    def _show(self, end: int) -> str:
        if self._begin is None:
            begin = len(self._text) - len(self._text.lstrip())
            if end <= begin:
                return ""
            self._begin = self._shown = begin
        piece = self._text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._processor.tokenizer.decode(tokens, skip_special_tokens=not self._style.keeps_special))
