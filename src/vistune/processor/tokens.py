"""Pieces as token ids and labels: rendered once, tokenised once, masked by character span.

pieces -> segments of text between controls and pictures -> (input_ids, labels, pictures in order)
A picture is as many IMAGE_ID as it has slots. Text is encoded with the tokenizer's special tokens switched off, so no
user text becomes one of them; a special id that a vocabulary would still give (Unigram holds `</s>` as a word) is
taken apart. Words come again and again: where it is proven that each keeps its ids (words.py), they are remembered.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

from tokenizers import AddedToken, Tokenizer

from vistune.errors import DataError, RecipeError
from vistune.processor.templates import BOS, EOS, Control, Piece, Text
from vistune.processor.words import CUT, goes_by_words, words_of
from vistune.types import IGNORE, IMAGE_ID, ImageRef

SPACES = (" ", "▁")  # to SentencePiece these are one
REMEMBERED = 50_000  # words whose ids are kept,
SHORT = 64  # of so many characters
REPEATED = 256  # characters of a text that is kept: turns repeat, such as system sentences and questions


@dataclass(slots=True)
class Encoded:
    """Ids and labels of the same length, and the pictures in the order of their slots."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    images: list[ImageRef] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)  # of each picture

    def add(self, ids: Sequence[int], learnt: bool) -> None:
        self.ids += ids
        self.labels += ids if learnt else [IGNORE] * len(ids)


class _Words(dict[str, tuple[int, ...]]):
    """The ids of a word behind a space, each encoded once; all are forgotten when they are too many."""

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        super().__init__()
        self.encode = encode

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self.encode(word))
        if len(word) <= SHORT:
            if len(self) >= REMEMBERED:
                self.clear()
            self[word] = ids
        return ids


class Encoder:
    """A tokenizer seen as: text segments in, ids with labels out.

    `chunks`: text after a picture is tokenised as if it began a string, as the original LLaVA does (`-200` splits
    its prompt); otherwise only the very first text is, as transformers does with `<image>` in the string.
    `restarts`, found out: text behind every special token begins a string too.
    `lead`, found out: with `chunks`, what to write before a text that begins a string with a space. SentencePiece, by
    which the original encodes, puts its own space before that one too; transformers' Llama tokenizer does not.
    `controls`: the template's tokens, which text must not become even where the tokenizer does not call them special.
    """

    def __init__(
        self, tokenizer: Any, *, slots: Callable[[ImageRef], int], chunks: bool, controls: Collection[str] = ()
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise RecipeError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets",
                "use a fast tokenizer (a folder with tokenizer.json)",
            )
        self.tokenizer = tokenizer
        self.slots = slots
        self.chunks = chunks
        # A copy of its own: switching special tokens off must not change what the caller's tokenizer does.
        self.text = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.text.encode_special_tokens = True
        self.text.no_truncation()
        self.text.no_padding()
        known = [name for name in controls if self.text.token_to_id(name) is not None]
        self.text.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in known])
        added = self.text.get_added_tokens_decoder().items()
        # An unknown character is the unknown token, which is no control.
        self.special = {key for key, token in added if token.special} - {tokenizer.unk_token_id}
        self.begin = [int(token) for token in tokenizer("", add_special_tokens=True)["input_ids"]]
        if self.begin and self.begin[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id != tokenizer.bos_token_id:
            self.begin = self.begin[:-1]
        self.bos, self.eos = (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
        )  # looked up once: transformers is slow at it
        self.guard = self._find_guard()
        self.restarts = bool(self.guard) and self._starts_anew()
        self.lead = " " if self.chunks and self.guard and self._hides_a_space() else ""
        self.by_words = goes_by_words(self.text, prefixes=bool(self.guard))
        self.guard_tokens = len(self.text.encode(self.guard, add_special_tokens=False).ids)
        self.words = _Words(self._word)
        self._known = lru_cache(maxsize=8192)(self._as_text)

    def _find_guard(self) -> str:
        """SentencePiece puts a space before what begins a string; behind this character text does not begin one."""
        plain = self.text.encode("a", add_special_tokens=False).ids
        guarded = self.text.encode("\na", add_special_tokens=False)
        tail = [token for token, (start, _) in zip(guarded.ids, guarded.offsets, strict=True) if start >= 1]
        return "" if tail == plain else "\n"

    def _starts_anew(self) -> bool:
        """Whether that space also stands behind special tokens: a tokenizer with `legacy`, as Vicuna 1.3's is."""
        whole = self.tokenizer.backend_tokenizer.encode(f"{self.tokenizer.eos_token}a", add_special_tokens=False).ids
        return bool(whole[1:] == self.text.encode("a", add_special_tokens=False).ids)

    def _hides_a_space(self) -> bool:
        """Whether a space that begins a string is taken for the one that SentencePiece puts there."""
        first, second = (self.text.encode(text, add_special_tokens=False).ids for text in ("a", " a"))
        return bool(first == second)

    def control(self, name: str) -> int:
        """The id of a template's control token. Raises RecipeError where the tokenizer has none."""
        if name == BOS:
            token, wanted = self.bos, "a beginning-of-text token"
        elif name == EOS:
            token, wanted = self.eos, "an end-of-text token"
        else:
            token, wanted = self.text.token_to_id(name), f"the token {name!r}"
        if token is None:
            raise RecipeError(
                f"the template needs {wanted}, which this tokenizer lacks", "choose a template that fits the model"
            )
        return int(token)

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Ids and labels of a rendered conversation. Raises DataError where a token straddles an answer's edge."""
        result = Encoded()
        opening = pieces[0] if pieces else None
        if not isinstance(opening, Control) or [self.control(opening.token)] != self.begin:
            result.add(self.begin, False)
        pending: list[Text] = []
        first = True

        def flush() -> None:
            nonlocal pending, first
            if any(piece.text for piece in pending):
                self._encode_text(pending, first, result)
                first = False
            pending = []

        for piece in pieces:
            if isinstance(piece, Text):
                pending.append(piece)
                continue
            flush()
            if isinstance(piece, Control):
                result.add([self.control(piece.token)], piece.learnt)
                first = self.restarts
            else:
                slots = self.slots(piece)
                result.add([IMAGE_ID] * slots, False)
                result.images.append(piece)
                result.slots.append(slots)
                first = self.chunks or self.restarts
        flush()
        return result

    def _encode_text(self, pieces: Sequence[Text], first: bool, result: Encoded) -> None:
        text = "".join(piece.text for piece in pieces)
        ids: list[int] = []
        at = done = 0  # characters that are encoded, tokens that are added
        for end, learnt in _spans(pieces):
            if end > at:  # up to the end of the word in which the span ends
                stop = self._next_cut(text, end)
                last, *words = words_of(text[at:stop]) if self.by_words else [text[at:stop]]
                known, offsets, shift = self._placed(last, first)
                if words:
                    ids += known
                    last = f" {words.pop()}"
                    ids += chain.from_iterable(map(self.words.__getitem__, words))
                    known, offsets, shift = self._placed(last, False)
                shift -= stop - len(last)  # of the offsets against the characters of `text`
                before = len(ids)
                ids += known
                at, first = stop, False
            upto = len(ids) if end == at else before + bisect_left(offsets, (end + shift,))
            if end < at and upto > before and offsets[upto - before - 1][1] > end + shift:
                start, over = (place - shift for place in offsets[upto - before - 1])
                raise DataError(
                    f"the token {text[max(0, start) : over]!r} straddles an answer's edge in "
                    f"{text[max(0, start - 20) : over + 20]!r}",
                    "choose a template whose answers begin where this tokenizer begins a token",
                )
            result.add(ids[done:upto], learnt)
            done = upto

    def _next_cut(self, text: str, place: int) -> int:
        found = CUT.search(text, place) if self.by_words else None
        return found.start() if found else len(text)

    def _word(self, word: str) -> list[int]:
        """Ids of a word behind a space and other text, with which nothing of it merges."""
        ids = self.text.encode(f"{self.guard} {word}", add_special_tokens=False).ids
        return ids[self.guard_tokens :] if self.special.isdisjoint(ids) else self._as_text(f" {word}", False)[0]

    def _placed(self, text: str, first: bool) -> tuple[list[int], list[tuple[int, int]], int]:
        return self._known(text, first) if len(text) <= REPEATED else self._as_text(text, first)

    def _as_text(self, text: str, first: bool) -> tuple[list[int], list[tuple[int, int]], int]:
        """Ids and offsets, and what these are shifted by, of a text's `first` part or of another."""
        before = self.guard if not first else self.lead if text.startswith(SPACES) else ""
        ids, offsets = self._apart(before + text)
        if before and not first:
            unseen = next((k for k, (_, stop) in enumerate(offsets) if stop > len(before)), len(ids))
            ids, offsets = ids[unseen:], offsets[unseen:]
        return ids, offsets, len(before)

    def _apart(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character offsets; where the vocabulary has a special token for a text, that is cut in two."""
        encoding = self.text.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        if self.special.isdisjoint(ids):
            return ids, offsets
        start, stop = offsets[next(k for k, token in enumerate(ids) if token in self.special)]
        if stop - start < 2:
            raise DataError(f"the text {text[start:stop]!r} is a special token of this tokenizer", "leave it out")
        cut, guard = start + 1, len(self.guard)
        ids, offsets = self._apart(text[:cut])
        more, places = self._apart(self.guard + text[cut:])
        behind = [(token, place) for token, place in zip(more, places, strict=True) if place[1] > guard]
        shift = cut - guard
        return (
            ids + [token for token, _ in behind],
            offsets + [(max(begin + shift, cut), end + shift) for _, (begin, end) in behind],
        )


def _spans(pieces: Sequence[Text]) -> list[tuple[int, bool]]:
    """(end, learnt) of each stretch of text of one kind, in characters."""
    spans: list[tuple[int, bool]] = []
    begin = 0
    for piece in pieces:
        begin += len(piece.text)
        if spans and (spans[-1][1] == piece.learnt or not piece.text):
            spans[-1] = (begin, spans[-1][1])
        elif piece.text:
            spans.append((begin, piece.learnt))
    return spans


def collapse(encoded: Encoded) -> tuple[list[int], list[int]]:
    """(ids, labels) with one IMAGE_ID for each picture, as LLaVA's own code shows them."""
    ids: list[int] = []
    labels: list[int] = []
    slots = iter(encoded.slots)
    k = 0
    while k < len(encoded.ids):
        ids.append(encoded.ids[k])
        labels.append(encoded.labels[k])
        k += next(slots) if encoded.ids[k] == IMAGE_ID else 1
    return ids, labels
