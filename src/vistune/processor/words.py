"""Find where a text may be cut so that its parts, encoded one by one, give the ids of the whole text.

A cut is before a single space between two characters that are not whitespace. It is exact for a BPE tokenizer that

- splits texts there itself: none of the expressions below matches a space except as its first character or among
  whitespace only, none looks behind, and none looks further ahead than to the character after whitespace; or
- replaces spaces by "▁" and has no token with "▁" after another character, so that nothing merges across the cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

CUT = re.compile(r"(?<=[^\s▁]) (?=\S)")
MERGED = re.compile("[^▁]▁")  # in a token: text on both sides of a cut
CONSUMED = re.compile(r"[^\s▁][ ▁]")  # the same in an added token, which is matched before everything else

_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITTING = (  # Llama 3, Qwen 2 and 3, Qwen 3.5
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS,
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS,
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _ENDS,
)
# The built-in tokenizer's Korean particles: each ends before a space or at the end of the text, and contains no space.
PARTICLES = r"(?:입니다|에는|에서|보다|은|는|이|(?<!십자)가|을|를|의|와|과|에|개)(?=[\s.,?!]|$)"


def words_of(text: str) -> list[str]:
    """Split a text at every cut; the spaces at the cuts are removed."""
    if text.isprintable() and "  " not in text and "▁" not in text and text[-1] != " ":
        words = text.split(" ")  # without other whitespace this equals CUT.split, three times as fast
        return words if words[0] else [f" {words[1]}", *words[2:]]
    return CUT.split(text)


def is_exact_by_word(tokenizer: Tokenizer, *, prefixes: bool) -> bool:
    """Return whether each word has the same ids by itself as within a text.

    `prefixes`: whether the tokenizer puts a space before the beginning of a string.
    """
    model = tokenizer.model
    if not isinstance(model, BPE) or model.dropout:
        return False
    added = [token for token in tokenizer.get_added_tokens_decoder().values() if not token.special]
    if added and prefixes:  # the space may come after an added token too
        return False
    if any(token.lstrip or token.rstrip or token.single_word or CONSUMED.search(token.content) for token in added):
        return False
    return _splits_at_cuts(tokenizer) or _never_merges_across(tokenizer, model)


def _splits_at_cuts(tokenizer: Tokenizer) -> bool:
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


def _never_merges_across(tokenizer: Tokenizer, model: BPE) -> bool:
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


def _steps(component: Normalizer | PreTokenizer | None, name: str) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer in order, as tokenizer.json writes them."""
    if component is None:
        return []
    tree = json.loads(component.__getstate__())
    return list(tree[name]) if tree["type"] == "Sequence" else [tree]
