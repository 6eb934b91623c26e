"""An answer's text while its tokens come: nothing that was shown is taken back.

token -> the piece of text that is safe to show · all tokens -> the text itself
"""

from __future__ import annotations

from collections.abc import Sequence

from vistune.processor import Processor

WINDOW = 24  # tokens decoded at a time, so that the work of a token does not grow with the answer
KEPT = 8  # of them as context of the next


class Text:
    """Held back are an unfinished character, outer whitespace, and what may turn out to be an end or a stop."""

    def __init__(self, processor: Processor, stop: Sequence[str] = ()) -> None:
        self._processor = processor
        self._stop = tuple(stop)
        self._ends = tuple(filter(None, (*stop, processor.stop_text)))
        self._window: list[int] = []
        self._seen = ""  # of the window's text
        self._raw = ""
        self._shown = 0
        self.stopped = False  # a stop string was said

    def add(self, token: int) -> str:
        """What can be shown now."""
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        before = len(self._raw)
        self._raw += text[len(self._seen) :]
        self._seen = text
        if len(self._window) >= WINDOW:
            self._shorten()
        if not self._shown:
            self._raw = self._raw.lstrip()
        longest = max(map(len, self._ends), default=0)
        self.stopped = any(self._raw.find(stop, max(0, before - longest)) >= 0 for stop in self._stop)
        return "" if self.stopped else self._show(self._safe())

    def finish(self, tokens: Sequence[int]) -> tuple[str, str]:
        """(last piece, whole text) of an answer that has ended."""
        whole = self._processor.answer(tokens)
        if not whole.startswith(self._raw[: self._shown]):
            # SentencePiece spells out a whole run of byte tokens if the last character of it is cut off: keep the rest.
            whole = self._raw.rstrip()
        cuts = [place for end in self._ends if (place := whole.find(end)) >= 0]
        whole = whole[: min(cuts)].rstrip() if cuts else whole
        return whole[self._shown :], whole

    def _shorten(self) -> None:
        """Forget all but a few tokens, from where they read as they did.

        A character may be as many as four byte tokens, and SentencePiece spells out all that begins amid one.
        """
        for count in range(KEPT, KEPT + 4):
            kept = self._decode(self._window[-count:])
            if self._seen.endswith(kept):
                self._window, self._seen = self._window[-count:], kept
                return

    def _safe(self) -> int:
        """How much of the text can no longer change."""
        safe = len(self._raw)
        for end in self._ends:
            place = self._raw.find(end, max(0, self._shown - len(end)))
            begun = (len(self._raw) - k for k in range(min(len(end), len(self._raw)), 0, -1)
                     if self._raw.endswith(end[:k]))  # fmt: skip
            safe = min(safe, place if place >= 0 else next(begun, safe))
        return len(self._raw[:safe].rstrip())

    def _show(self, upto: int) -> str:
        piece = self._raw[self._shown : upto]
        self._shown = max(self._shown, upto)
        return piece

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._processor.tokenizer.decode(tokens, skip_special_tokens=True))
