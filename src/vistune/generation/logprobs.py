"""Log probabilities of generated tokens, and the text and bytes of single tokens."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from vistune.processor import Processor

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's token of one byte
SPACE = "▁"  # SentencePiece's space


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log probability of a generated token, and the likeliest tokens at its position, likeliest first.

    They are the model's own log softmax: before a temperature, a penalty or a grammar.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: Tensor, token: int, count: int) -> TokenLogprobs:
    """Return the log probabilities of one position's logits (vocabulary,) with the `count` likeliest tokens."""
    logprobs = logits.float().log_softmax(dim=-1)
    top = logprobs.topk(min(count, len(logprobs)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return TokenLogprobs(token, float(logprobs[token]), tuple(pairs))


class TokenTexts:
    """The bytes of a tokenizer's tokens, each by itself."""

    def __init__(self, processor: Processor) -> None:
        self.tokenizer = processor.tokenizer
        self._known: dict[int, bytes] = {}  # asking the tokenizer takes longer than the rest of an entry

    @cached_property
    def _bytes_of_characters(self) -> dict[str, int] | None:
        """The byte for which each character of a token stands, if the tokenizer is byte-level."""
        decoder = json.loads(self.tokenizer.backend_tokenizer.to_str())["decoder"] or {}
        kinds = {decoder.get("type"), *(inner["type"] for inner in decoder.get("decoders", ()))}
        if "ByteLevel" not in kinds:
            return None
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        return {character: byte for byte, character in bytes_to_unicode().items()}

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self.tokenizer.added_tokens_decoder)

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text, or the name of a token without text."""
        known = self._known.get(token)
        return self._known.setdefault(token, self._read(token)) if known is None else known

    def _read(self, token: int) -> bytes:
        piece = self.tokenizer.convert_ids_to_tokens([token])[0]
        if piece is None:  # logits beyond the vocabulary
            return b""
        if token in self._added:
            return str(piece).encode()
        table = self._bytes_of_characters
        if table is not None and all(character in table for character in piece):
            return bytes(table[character] for character in piece)
        if byte := BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return str(piece).replace(SPACE, " ").encode()

    def text_of(self, token: int) -> str:
        """Return the token's text; bytes that are not UTF-8 are written as OpenAI does, `bytes:\\xea\\xb0`."""
        data = self.bytes_of(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
