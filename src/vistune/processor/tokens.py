"""Encode the pieces of a rendered conversation as token ids and labels.

A conversation is rendered once and tokenized once; labels are masked by character spans. An image becomes one IMAGE_ID
per slot. Text is encoded with the tokenizer's special tokens switched off, so no user text becomes a special token. If
the tokenizer still gives a special id for a text (Unigram models contain `</s>` as a word), the text is split. The ids
of words are cached if the tokenizer gives each word the same ids by itself as within a text (words.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

from tokenizers import AddedToken, Tokenizer

from vistune.errors import DataError, RecipeError
from vistune.processor.templates import BOS, EOS, Control, Piece, TextPiece
from vistune.processor.tokenizer_files import TokenizerLike
from vistune.processor.words import CUT, is_exact_by_word, words_of
from vistune.types import IGNORE, IMAGE_ID, ImageRef

SPACES = (" ", "▁")  # SentencePiece treats them as the same character
CACHED_TEXTS = 8192  # encoded texts that are kept: system sentences and questions repeat
CACHED_LENGTH = 256  # characters of the longest text that is kept
CACHED_WORDS = 50_000  # words whose ids are kept
CACHED_WORD_LENGTH = 64  # characters of the longest word that is kept

Offsets = list[tuple[int, int]]


@dataclass(slots=True)
class Encoded:
    """Ids and labels of the same length, the images in order, and the number of slots of each image."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    images: list[ImageRef] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    @property
    def supervised(self) -> int:
        """The number of supervised tokens, without the first token, which no token before it predicts."""
        return len(self.labels) - 1 - self.labels[1:].count(IGNORE)

    def add(self, ids: Sequence[int], supervised: bool) -> None:
        self.ids += ids
        self.labels += ids if supervised else [IGNORE] * len(ids)


class _WordIds(dict[str, tuple[int, ...]]):
    """Ids of words that follow a space. Each word is encoded once; the cache is emptied when it is full."""

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        super().__init__()
        self.encode = encode

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self.encode(word))
        if len(word) <= CACHED_WORD_LENGTH:
            if len(self) >= CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids


class Encoder:
    """Encode text segments with a tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        slots: Returns the number of slots of an image.
        chunks: Tokenize text after an image as if it began a string, as the original LLaVA does (it splits the prompt
            at `-200`). Otherwise only the first text begins a string, as in transformers, where `<image>` is part of
            the string.
        controls: The template's tokens. User text must not become one of them, even if the tokenizer does not mark
            them as special.
        begins: Put the tokenizer's own beginning before a conversation, unless the template writes it. False for a
            template that the tokenizer itself applies, because `apply_chat_template` adds nothing.

    Attributes:
        begin: Ids that are put before every conversation.
        restarts: Whether text after a special token is also tokenized as if it began a string.
        lead: With `chunks`, a prefix for a text that is at the start of a string and begins with a space. The
            original's SentencePiece puts its own space before that space; transformers' Llama tokenizer does not.
    """

    def __init__(
        self,
        tokenizer: TokenizerLike,
        *,
        slots: Callable[[ImageRef], int],
        chunks: bool,
        controls: Collection[str] = (),
        begins: bool = True,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise RecipeError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets",
                "use a fast tokenizer (a folder with tokenizer.json)",
            )
        self.tokenizer = tokenizer
        self.slots = slots
        self.chunks = chunks
        # A copy: switching special tokens off must not change the caller's tokenizer.
        self.text = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.text.encode_special_tokens = True
        self.text.no_truncation()
        self.text.no_padding()
        known = [name for name in controls if self.text.token_to_id(name) is not None]
        self.text.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in known])
        added = self.text.get_added_tokens_decoder().items()
        # The unknown token stands for unknown characters, so it may appear in text.
        self.special = {key for key, token in added if token.special} - {tokenizer.unk_token_id}
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id  # transformers looks them up slowly
        self.begin = [int(token) for token in tokenizer("", add_special_tokens=begins)["input_ids"]]
        if self.begin and self.begin[-1] == self.eos and self.eos != self.bos:
            self.begin = self.begin[:-1]
        self.guard = self._find_guard()
        self.restarts = bool(self.guard) and self._restarts_after_special()
        self.lead = " " if self.chunks and self.guard and self._swallows_first_space() else ""
        self.by_word = is_exact_by_word(self.text, prefixes=bool(self.guard))
        self.guard_tokens = len(self.text.encode(self.guard, add_special_tokens=False).ids)
        self.word_ids = _WordIds(self._encode_word)
        self._cached = lru_cache(maxsize=CACHED_TEXTS)(self._encode_segment)

    def _find_guard(self) -> str:
        """Return a character to put before a text that does not begin a string, or "" if none is needed.

        SentencePiece puts a space before the beginning of a string. Text after this character gets no such space.
        """
        plain = self.text.encode("a", add_special_tokens=False).ids
        guarded = self.text.encode("\na", add_special_tokens=False)
        after = [token for token, (start, _) in zip(guarded.ids, guarded.offsets, strict=True) if start >= 1]
        return "" if after == plain else "\n"

    def _restarts_after_special(self) -> bool:
        """Return whether SentencePiece's space also comes after special tokens (`legacy`, such as Vicuna 1.3's)."""
        whole = self.tokenizer.backend_tokenizer.encode(f"{self.tokenizer.eos_token}a", add_special_tokens=False).ids
        return bool(whole[1:] == self.text.encode("a", add_special_tokens=False).ids)

    def _swallows_first_space(self) -> bool:
        """Return whether a space at the beginning of a string is taken for SentencePiece's own space."""
        first, second = (self.text.encode(text, add_special_tokens=False).ids for text in ("a", " a"))
        return bool(first == second)

    def control(self, name: str) -> int:
        """Return the id of a template's control token. Raises RecipeError if the tokenizer does not have it."""
        if name == BOS:
            token, what = self.bos, "a beginning-of-text token"
        elif name == EOS:
            token, what = self.eos, "an end-of-text token"
        else:
            token, what = self.text.token_to_id(name), f"the token {name!r}"
        if token is None:
            raise RecipeError(
                f"the template needs {what}, which this tokenizer lacks", "choose a template that fits the model"
            )
        return int(token)

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode a rendered conversation.

        Raises:
            DataError: If a token contains both the end of an answer and text next to it.
        """
        result = Encoded()
        opening = pieces[0] if pieces else None
        if not isinstance(opening, Control) or [self.control(opening.token)] != self.begin:
            result.add(self.begin, False)
        pending: list[TextPiece] = []
        first = True

        def flush() -> None:
            nonlocal pending, first
            if any(piece.text for piece in pending):
                self._encode_text(pending, first, result)
                first = False
            pending = []

        for piece in pieces:
            if isinstance(piece, TextPiece):
                pending.append(piece)
                continue
            flush()
            if isinstance(piece, Control):
                result.add([self.control(piece.token)], piece.supervised)
                first = self.restarts
            else:
                slots = self.slots(piece)
                result.add([IMAGE_ID] * slots, False)
                result.images.append(piece)
                result.slots.append(slots)
                first = self.chunks or self.restarts
        flush()
        return result

    def _encode_text(self, pieces: Sequence[TextPiece], first: bool, result: Encoded) -> None:
        text = "".join(piece.text for piece in pieces)
        ids: list[int] = []
        encoded = done = 0  # characters that are encoded, tokens that are added to the result
        for end, supervised in _spans(pieces):
            if end > encoded:  # encode up to the end of the word that contains the span's end
                stop = self._next_cut(text, end)
                last, *words = words_of(text[encoded:stop]) if self.by_word else [text[encoded:stop]]
                last_ids, offsets, shift = self._encode_part(last, first)
                if words:
                    ids += last_ids
                    last = f" {words.pop()}"
                    ids += chain.from_iterable(map(self.word_ids.__getitem__, words))
                    last_ids, offsets, shift = self._encode_part(last, False)
                shift -= stop - len(last)  # from the positions in `text` to the offsets
                before = len(ids)
                ids += last_ids
                encoded, first = stop, False
            count = len(ids) if end == encoded else before + bisect_left(offsets, (end + shift,))
            if end < encoded and count > before and offsets[count - before - 1][1] > end + shift:
                start, over = (offset - shift for offset in offsets[count - before - 1])
                raise DataError(
                    f"the token {text[max(0, start) : over]!r} is partly inside and partly outside an answer, in "
                    f"{text[max(0, start - 20) : over + 20]!r}",
                    "choose a template whose answers begin where this tokenizer begins a token",
                )
            result.add(ids[done:count], supervised)
            done = count

    def _next_cut(self, text: str, position: int) -> int:
        cut = CUT.search(text, position) if self.by_word else None
        return cut.start() if cut else len(text)

    def _encode_word(self, word: str) -> list[int]:
        """Return the ids of a word that follows a space and other text."""
        ids = self.text.encode(f"{self.guard} {word}", add_special_tokens=False).ids
        return ids[self.guard_tokens :] if self.special.isdisjoint(ids) else self._encode_segment(f" {word}", False)[0]

    def _encode_part(self, text: str, first: bool) -> tuple[list[int], Offsets, int]:
        return self._cached(text, first) if len(text) <= CACHED_LENGTH else self._encode_segment(text, first)

    def _encode_segment(self, text: str, first: bool) -> tuple[list[int], Offsets, int]:
        """Return ids, offsets, and the shift of the offsets; `first`: the text begins a string."""
        before = self.guard if not first else self.lead if text.startswith(SPACES) else ""
        ids, offsets = self._encode_without_special(before + text)
        if before and not first:
            skipped = next((k for k, (_, stop) in enumerate(offsets) if stop > len(before)), len(ids))
            ids, offsets = ids[skipped:], offsets[skipped:]
        return ids, offsets, len(before)

    def _encode_without_special(self, text: str) -> tuple[list[int], Offsets]:
        """Return ids and character offsets; a text for which the vocabulary has a special token is split."""
        encoding = self.text.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        if self.special.isdisjoint(ids):
            return ids, offsets
        start, stop = offsets[next(k for k, token in enumerate(ids) if token in self.special)]
        if stop - start < 2:
            raise DataError(
                f"the text contains {text[start:stop]!r}, which is a special token of this tokenizer", "remove it"
            )
        cut, guard = start + 1, len(self.guard)
        ids, offsets = self._encode_without_special(text[:cut])
        more_ids, more_offsets = self._encode_without_special(self.guard + text[cut:])
        shift = cut - guard
        for token, (begin, end) in zip(more_ids, more_offsets, strict=True):
            if end > guard:
                ids.append(token)
                offsets.append((max(begin + shift, cut), end + shift))
        return ids, offsets


def _spans(pieces: Sequence[TextPiece]) -> list[tuple[int, bool]]:
    """Return (end, supervised) of each stretch of text that is supervised or not as a whole, in characters."""
    spans: list[tuple[int, bool]] = []
    end = 0
    for piece in pieces:
        end += len(piece.text)
        if spans and (spans[-1][1] == piece.supervised or not piece.text):
            spans[-1] = (end, spans[-1][1])
        elif piece.text:
            spans.append((end, piece.supervised))
    return spans


def collapse_slots(encoded: Encoded) -> tuple[list[int], list[int]]:
    """Return (ids, labels) with one IMAGE_ID for each image, as LLaVA's own code shows them."""
    ids: list[int] = []
    labels: list[int] = []
    slots = iter(encoded.slots)
    k = 0
    while k < len(encoded.ids):
        ids.append(encoded.ids[k])
        labels.append(encoded.labels[k])
        k += next(slots) if encoded.ids[k] == IMAGE_ID else 1
    return ids, labels
