"""Find the noun phrases of captions, by word lists and endings (no download) or by spaCy.

A finder takes captions and yields one list of phrases per caption, in order. The words are in `noun_phrases.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
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


@cache
def _lists() -> Mapping[str, Mapping[str, str]]:
    """Return the words by language and list:

    - en: `determiners` make the next word a part of the phrase: a *stuffed* bear, the *stop*. The lists `words_in_…`
      are nouns and adjectives that end like a verb or an adverb. `singular` has pairs PLURAL:SINGULAR.
    - ko: `function` includes adnominal forms. `nouns` seem to end in a particle or like a verb: 고양이, 바다.
    """
    text = (resources.files("vistune.datagen") / "noun_phrases.json").read_text(encoding="utf-8")
    lists: Mapping[str, Mapping[str, str]] = json.loads(text)
    return lists


@cache
def _words(language: str, *lists: str) -> frozenset[str]:
    return frozenset(word for name in lists for word in _lists()[language][name].split())


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
    if token in _words("en", "determiners") or token in ("'s", "’s"):
        return "determiner"
    if not token[0].isalpha() or any(c.isdigit() for c in token) or token in _words("en", "function"):
        return "break"
    if token in _words("en", "words_in_ing", "words_in_ed", "words_in_ly"):
        return "noun"
    if token in _words("en", "verbs") or token.endswith(("ing", "ed")):
        return "verb"
    return "adverb" if token.endswith("ly") else "noun"


def _phrase(run: list[str]) -> str:
    return " ".join([*run[:-1], singular(run[-1])])


@cache
def _irregular() -> Mapping[str, str]:
    return dict(pair.split(":") for pair in _words("en", "singular"))


@lru_cache(1 << 16)
def singular(noun: str) -> str:
    """Return an English noun in the singular and without its 's, by list and ending."""
    noun = _OWNER.sub("", noun)
    if noun in _irregular():
        return _irregular()[noun]
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
        noun = _korean_noun(token)
        # A word without a particle before 있다 belongs to the verb: 앉아 있다, 서 있는.
        breaks = noun is None or (noun == token and following.startswith("있"))
        if noun is not None and not breaks:
            run.append(noun)
        if run and (breaks or noun != token):
            phrases.append(" ".join(run))
            run = []
    return [*phrases, " ".join(run)] if run else phrases


@lru_cache(1 << 16)
def _korean_noun(token: str) -> str | None:
    """Return a Korean noun without its particle, or None for another word."""
    if token in _words("ko", "nouns"):
        return token
    if not _HANGUL.search(token) or token in _words("ko", "function"):
        return None
    adnominal_ends = tuple(_words("ko", "adnominal_ends"))
    match = _PARTICLE.search(token)
    if match:
        particle, final = match.group(), (ord(token[match.start() - 1]) - ord("가")) % 28
        if particle == "는" and (final or token.endswith(adnominal_ends)):
            return None  # 굽는, 서핑하는: an adnominal verb
        if particle in _AFTER_CONSONANT and not (final and (particle != "으로" or final != _RIEUL)):
            match = None  # 나이, 사과: part of the noun
        elif particle in _AFTER_VOWEL and final and not (particle == "로" and final == _RIEUL):
            match = None
    noun = token[: match.start()] if match else token
    if noun in _words("ko", "function"):
        return None
    if match is None and len(token) > 1 and token.endswith(tuple(_words("ko", "predicate_ends"))):
        return None
    return None if match is None and len(token) > 2 and token.endswith(adnominal_ends) else noun


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
            "pip install 'vistune[spacy]' && python -m spacy download en_core_web_sm, or remove --finder",
        ) from None
    for document in model.pipe(captions, batch_size=512):
        chunks = ([token.lower_ for token in chunk if token.pos_ != "DET"] for chunk in document.noun_chunks)
        yield [" ".join(words) for words in chunks if words]


FINDERS: Mapping[str, Finder] = {"rules": _by_rules, "spacy": _by_spacy}
