"""Find the noun phrases of captions, by word lists and endings (no download) or by spaCy.

A finder takes captions and yields one list of phrases per caption, in order. The words are in `noun_phrases.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

from vistune.errors import RecipeError
from vistune.grounding.ko import PARTICLES

Finder = Callable[[Iterable[str]], Iterator[list[str]]]

_HANGUL = re.compile("[가-힣]")
_EN_TOKEN = re.compile(r"(?:[a-z]\.){2,}|['’]s\b|\w*\d\w*|[^\W_]+(?:[-'’][^\W_]+)*|[^\w\s]|_")
_OWNER = re.compile(r"['’]s?$")
_KO_TOKEN = re.compile(r"[가-힣A-Za-z0-9]+|[^\s가-힣A-Za-z0-9]+")
_PARTICLE = re.compile(rf"(?<=[가-힣])(?:{PARTICLES})$")
_AFTER_CONSONANT = frozenset(["이", "은", "을", "과", "이나", "이랑", "으로"])
_AFTER_VOWEL = frozenset(["가", "는", "를", "와", "나", "랑", "로"])
_RIEUL = 8  # the final consonant that 로 may follow


@dataclass(frozen=True, slots=True)
class _English:
    function: frozenset[str]
    determiners: frozenset[str]  # the word after one is part of the phrase: a *stuffed* bear, the *stop*
    verbs: frozenset[str]
    nominal: frozenset[str]  # words in -ing, -ed and -ly that are nouns or adjectives
    singular: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Korean:
    function: frozenset[str]  # and adnominal forms
    nouns: frozenset[str]  # nouns that seem to end in a particle or like a verb: 고양이, 바다
    adnominal_ends: tuple[str, ...]
    predicate_ends: tuple[str, ...]


@cache
def _lexicon() -> tuple[_English, _Korean]:
    text = (resources.files("vistune.datagen.caption_filter") / "noun_phrases.json").read_text(encoding="utf-8")
    en, ko = ({name: words.split() for name, words in lists.items()} for lists in json.loads(text).values())
    english = _English(
        frozenset(en["function"]),
        frozenset(en["determiners"]),
        frozenset(en["verbs"]),
        frozenset(en["words_in_ing"] + en["words_in_ed"] + en["words_in_ly"]),
        {plural: one for plural, _, one in (pair.partition(":") for pair in en["singular"])},
    )
    korean = _Korean(
        frozenset(ko["function"]), frozenset(ko["nouns"]), tuple(ko["adnominal_ends"]), tuple(ko["predicate_ends"])
    )
    return english, korean


def noun_phrases(caption: str) -> list[str]:
    """Return runs of words that are not function words, verbs or participles: fast, and good enough to count concepts.

    English phrases are in lower case, with the last word in the singular; Korean nouns are without particles. A caption
    with Hangul is read as Korean. A phrase that occurs twice is listed twice.
    """
    return _korean_phrases(caption) if _HANGUL.search(caption) else _english_phrases(caption)


def _english_phrases(caption: str) -> list[str]:
    phrases: list[str] = []
    run: list[str] = []
    determined = False  # whether the token before is a determiner
    for token in _EN_TOKEN.findall(caption.lower()):
        kind = _english_kind(token)
        if kind == "adverb" and determined:  # a heavily loaded truck
            continue
        if kind == "noun" or (kind == "verb" and determined):
            run.append(token)
            determined = False
            if not token.endswith(("'s", "’s")):
                continue
        if run:
            phrases.append(_phrase(run))
            run = []
        determined = kind in ("determiner", "noun")  # a noun gets here only with 's: the dog's …
    return [*phrases, _phrase(run)] if run else phrases


@lru_cache(1 << 16)
def _english_kind(token: str) -> str:
    english, _ = _lexicon()
    if token in english.determiners or token in ("'s", "’s"):
        return "determiner"
    if not token[0].isalpha() or any(c.isdigit() for c in token) or token in english.function:
        return "break"
    if token in english.nominal:
        return "noun"
    if token in english.verbs or token.endswith(("ing", "ed")):
        return "verb"
    return "adverb" if token.endswith("ly") else "noun"


def _phrase(run: list[str]) -> str:
    return " ".join([*run[:-1], singular(run[-1])])


@lru_cache(1 << 16)
def singular(noun: str) -> str:
    """Return an English noun in the singular and without its 's, by list and ending."""
    noun = _OWNER.sub("", noun)
    known = _lexicon()[0].singular
    if noun in known:
        return known[noun]
    if len(noun) < 4 or not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y" if len(noun) > 4 else noun[:-1]
    return noun[:-2] if noun.endswith(("sses", "xes", "zzes", "ches", "shes", "oes")) else noun[:-1]


def _korean_phrases(caption: str) -> list[str]:
    phrases: list[str] = []
    run: list[str] = []
    tokens = _KO_TOKEN.findall(caption)
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        stem = _korean_noun(token)
        # A word without a particle before 있다 belongs to the verb: 앉아 있다, 서 있는.
        breaks = stem is None or (stem == token and following.startswith("있"))
        if stem is not None and not breaks:
            run.append(stem)
        if run and (breaks or stem != token):
            phrases.append(" ".join(run))
            run = []
    return [*phrases, " ".join(run)] if run else phrases


@lru_cache(1 << 16)
def _korean_noun(token: str) -> str | None:
    """Return a Korean noun without its particle, or None for another word."""
    _, korean = _lexicon()
    if token in korean.nouns:
        return token
    if not _HANGUL.search(token) or token in korean.function:
        return None
    match = _PARTICLE.search(token)
    if match:
        particle, final = match.group(), (ord(token[match.start() - 1]) - ord("가")) % 28
        if particle == "는" and (final or token.endswith(korean.adnominal_ends)):
            return None  # 굽는, 서핑하는: an adnominal verb
        if particle in _AFTER_CONSONANT and not (final and (particle != "으로" or final != _RIEUL)):
            match = None  # 나이, 사과: part of the noun
        elif particle in _AFTER_VOWEL and final and not (particle == "로" and final == _RIEUL):
            match = None
    stem = token[: match.start()] if match else token
    if stem in korean.function:
        return None
    if match is None and len(token) > 1 and token.endswith(korean.predicate_ends):
        return None
    return None if match is None and len(token) > 2 and token.endswith(korean.adnominal_ends) else stem


def _by_rules(captions: Iterable[str]) -> Iterator[list[str]]:
    return map(noun_phrases, captions)


def _by_spacy(captions: Iterable[str]) -> Iterator[list[str]]:
    """Return spaCy's noun chunks without determiners, in lower case (the paper names spaCy, but not the model)."""
    try:
        import spacy

        model = spacy.load("en_core_web_sm", disable=["ner", "lemmatizer"])
    except (ImportError, OSError):
        raise RecipeError(
            "--finder spacy: spaCy or its model en_core_web_sm is not installed",
            "pip install 'vistune[spacy]' && python -m spacy download en_core_web_sm, or leave --finder out",
        ) from None
    for document in model.pipe(captions, batch_size=512):
        chunks = ([token.lower_ for token in chunk if token.pos_ != "DET"] for chunk in document.noun_chunks)
        yield [" ".join(words) for words in chunks if words]


FINDERS: Mapping[str, Finder] = {"rules": _by_rules, "spacy": _by_spacy}
