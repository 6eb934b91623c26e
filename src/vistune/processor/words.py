"""Where a text may be cut so that its parts, encoded one by one, give the ids of the whole.

A tokenizer -> whether its words are encoded one by one: proven, or else not

The cut is before a single space between two characters that are no whitespace. It is proven of a BPE tokenizer
- that splits a text there itself: of the expressions below no match holds a space but as its first character or among
  nothing but whitespace; none looks behind, or ahead farther than to what follows whitespace;
- or that makes of spaces "▁" and has no token with one behind another character, so that nothing merges across.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

CUT = re.compile(r"(?<=[^\s▁]) (?=\S)")
MERGED = re.compile("[^▁]▁")  # in a token: what is before the cut and what is behind it
TAKEN = re.compile(r"[^\s▁][ ▁]")  # the same in an added token, which is looked for before all else

_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITTING = (  # Llama 3, Qwen 2 and 3, Qwen 3.5
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS,
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS,
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _ENDS,
)
# The built-in tokenizer's: a particle ends where a space follows, as where the text ends, and no space is in one.
PARTICLES = r"(?:입니다|에는|에서|보다|은|는|이|(?<!십자)가|을|를|의|와|과|에|개)(?=[\s.,?!]|$)"


def words_of(text: str) -> list[str]:
    """The text cut wherever it may be, without the spaces at the cuts."""
    if text.isprintable() and "  " not in text and "▁" not in text and text[-1] != " ":
        words = text.split(" ")  # no other whitespace: what CUT gives, in a third of the time
        return words if words[0] else [f" {words[1]}", *words[2:]]
    return CUT.split(text)


def goes_by_words(tokenizer: Tokenizer, *, prefixes: bool) -> bool:
    """Whether a word alone has the ids that it has in a text; `prefixes`: a space is put before what begins a text."""
    model = tokenizer.model
    if not isinstance(model, BPE) or model.dropout:
        return False
    found = [token for token in tokenizer.get_added_tokens_decoder().values() if not token.special]
    if found and prefixes:  # it may be put behind such a token too
        return False
    if any(token.lstrip or token.rstrip or token.single_word or TAKEN.search(token.content) for token in found):
        return False
    return _splits(tokenizer) or _never_merges(tokenizer, model)


def _splits(tokenizer: Tokenizer) -> bool:
    if any(step != {"type": "NFC"} for step in _steps(tokenizer.normalizer, "normalizers")):
        return False
    splits = False
    for step in _steps(tokenizer.pre_tokenizer, "pretokenizers"):
        kind, pattern = step["type"], step.get("pattern", {}).get("Regex")
        isolates = kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]
        if kind == "ByteLevel" and not step["add_prefix_space"]:
            splits = splits or step["use_regex"]
        elif isolates and pattern in SPLITTING:
            splits = True
        elif kind != "Digits" and not (isolates and pattern == PARTICLES):
            return False
    return splits


def _never_merges(tokenizer: Tokenizer, model: BPE) -> bool:
    if model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    replaces = False
    for step in [*_steps(tokenizer.normalizer, "normalizers"), *_steps(tokenizer.pre_tokenizer, "pretokenizers")]:
        metaspace = step["type"] == "Metaspace" and step["replacement"] == "▁"
        if metaspace or step == {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
            replaces = True
        elif step != {"type": "Prepend", "prepend": "▁"}:
            return False
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    return replaces and "▁" in vocabulary and not any(map(MERGED.search, vocabulary))


def _steps(whole: Any, name: str) -> list[Mapping[str, Any]]:
    """The parts of a normaliser or pre-tokenizer, one after another, as tokenizer.json writes them."""
    if whole is None:
        return []
    written = json.loads(whole.__getstate__())
    return list(written[name]) if written["type"] == "Sequence" else [written]
