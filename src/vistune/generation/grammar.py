"""Constrain an answer to a JSON schema: llguidance gives the tokens that are allowed at each step.

A compiler belongs to one model and is shared by its requests; a grammar belongs to one answer. Answers without a
grammar are sampled as before.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistune.errors import DataError
from vistune.processor import Processor

WHITESPACE = r"( ?|\n {0,40})"  # between JSON's tokens; with a bound, so that no model repeats it for ever
MOST_CHARACTERS = 200_000  # of a schema; larger ones take seconds to compile
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
KEYWORDS = re.compile(r"[A-Za-z$]{1,32}")
REASONS = (  # how llguidance's error begins -> what is wrong with the schema
    ("Invalid type", "a `type` is not one of JSON Schema", "write string, number, integer, boolean, object or array"),
    ("Unknown format", "a `format` is not known", "remove it, or use date-time, date, time, email, uuid, ipv4 or uri"),
    ("regex parse error", "a `pattern` is not supported", "use a regular expression without look-around"),
    ("Pointer", "a `$ref` points to nothing", "define it in `$defs`"),
    ("Resource", "a `$ref` is a link, and links are not fetched", "define it in `$defs`"),
    ("Unsatisfiable", "no JSON value satisfies it", "remove the contradiction"),
    ("schema must be", "it is not a schema", "send an object such as {\"type\": \"object\", \"properties\": {...}}"),
    ("failed to parse", "it is nested too deeply", "use at most 100 levels"),
)  # fmt: skip
COMPILE = re.compile(r"failed to compile JSON schema: ")
UNKNOWN_KEYS = re.compile(r"Unimplemented keys: (\[.*?\])", re.DOTALL)


class GrammarError(DataError):
    """A schema that cannot be enforced, or that became too complex while an answer was generated."""


class Grammar:
    """The state of one answer: which tokens may come next.

    Attributes:
        error: Why the grammar cannot continue; "" while it can.
    """

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self.error = ""

    def copy(self) -> Grammar:
        """Return a grammar in the same state, for another answer."""
        return Grammar(self._matcher.deep_copy(), self._vocabulary)

    @property
    def ended(self) -> bool:
        """Whether no token may follow except the end of the answer."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> Tensor | None:
        """Return a boolean mask (vocabulary,) of the tokens that may come next, or None after an error."""
        bits = self._matcher.compute_bitmask() if not self.error else b""
        if self.error or self._matcher.is_error():
            self.error = self.error or "the answer no longer follows the grammar, or the grammar is too complex"
            return None
        mask = np.zeros(self._vocabulary, dtype=bool)
        flags = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little")[: self._vocabulary]
        mask[: len(flags)] = flags
        return torch.from_numpy(mask)

    def advance(self, token: int) -> None:
        """Take the token that was generated."""
        if not self.error and not self._matcher.consume_token(token):
            self.error = "the answer no longer follows the grammar, or the grammar is too complex"


class GrammarCompiler:
    """Compile grammars for the vocabulary of one model. It may be used from several threads.

    Args:
        vocabulary: The number of the model's logits, which may be larger than the tokenizer's vocabulary.
    """

    def __init__(self, processor: Processor, vocabulary: int) -> None:
        self._processor = processor
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._tokens: Any = None

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """Return the grammar of JSON values that satisfy the schema. Raises GrammarError if it cannot be enforced."""
        return self.lark(f"start: {json_rule(schema)}\n")

    def lark(self, rules: str) -> Grammar:
        """Return the grammar of rules in llguidance's Lark syntax. An answer may begin with one space."""
        from llguidance import LLMatcher

        if len(rules) > MOST_CHARACTERS:
            raise GrammarError(f"it has more than {MOST_CHARACTERS} characters as JSON", "use a smaller schema")
        source = LLMatcher.grammar_from_lark(rules.replace("start: ", 'start: " "? ', 1))
        tokens = self._vocabulary_of_tokens()
        is_wrong, messages = LLMatcher.validate_grammar_with_warnings(source, tokens)
        if is_wrong:
            raise schema_error(messages[0])
        grammar = Grammar(LLMatcher(tokens, source, log_level=0), self._vocabulary)
        if grammar.allowed() is None:  # also: the slow first mask is computed here, not between the engine's steps
            raise GrammarError("it is too complex", "use fewer properties and alternatives")
        return grammar

    def _vocabulary_of_tokens(self) -> Any:
        """Return llguidance's form of the tokenizer. It takes about a second for a large vocabulary."""
        from llguidance.hf import from_tokenizer

        with self._lock:
            if self._tokens is None:
                tokenizer = self._processor.tokenizer
                size = max(self._vocabulary, len(tokenizer))
                try:
                    self._tokens = from_tokenizer(tokenizer, size, sorted(self._processor.stop_ids))
                except ValueError as error:
                    raise GrammarError(
                        f"this model's tokenizer cannot be constrained: {type(error).__name__}", "remove the schema"
                    ) from None
            return self._tokens


def json_rule(schema: Mapping[str, Any]) -> str:
    """Return the schema as a term of a Lark rule."""
    options = {"whitespace_pattern": WHITESPACE}
    return "%json " + json.dumps({**schema, "x-guidance": options})


def schema_error(message: str) -> GrammarError:
    """Return the error for a message of llguidance. It repeats no text of the schema except JSON Schema's keywords."""
    text = COMPILE.split(message, maxsplit=1)[-1]
    unknown = UNKNOWN_KEYS.match(text)
    if unknown is not None:
        names = [name for name in json.loads(unknown[1]) if KEYWORDS.fullmatch(name)]
        return GrammarError(f"JSON Schema's {', '.join(names) or 'keywords'} cannot be enforced", "remove it")
    for begin, what, hint in REASONS:
        if text.startswith(begin) or f": {begin}" in text[:40]:
            return GrammarError(what, hint)
    return GrammarError("it cannot be enforced", "use a simpler schema")
