"""Which of the 80 COCO classes a text names, English and Korean; the words are data (grounding.json).

text + language -> mentions (class, span), left to right
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

KO_PARTICLES = (
    "이|가|은|는|을|를|와|과|의|에|도|만|로|으로|에서|에게|까지|부터|보다|처럼|이나|나|랑|이랑|하고|들|들이|들은|들을|들과|들의|들도|들에|"
    "들에게|이다|입니다|이고|이며|예요|이에요|이라|라고|이라고|인데|에는|에도|에서는|까지도|뿐"
)


@dataclass(frozen=True, slots=True)
class Mention:
    label: str
    start: int
    end: int
    narrow: bool = False  # names a sort within the class ("puppy"), of which there may be fewer


@dataclass(frozen=True, slots=True)
class Terms:
    """One pattern of all class words and of what only looks like them, and what each word names ("": no class)."""

    pattern: re.Pattern[str]
    labels: Mapping[str, str]
    narrower: frozenset[str]


@cache
def class_words() -> Mapping[str, Any]:
    """The tree of grounding.json."""
    return json.loads((resources.files("vistune.grounding") / "claims.json").read_text(encoding="utf-8"))


def words_of(language: str) -> str:
    """The language whose words and patterns are used: Korean, else English."""
    return "ko" if language == "ko" else "en"


def mentions(text: str, language: str) -> list[Mention]:
    """Every class that the text names, left to right; what only looks like a class is passed over."""
    return list(_find(text.lower(), words_of(language), _terms))


def loose_mentions(text: str, language: str) -> list[Mention]:
    """`mentions`, and looser names too ("skier", "ball"): they count and place what boxes show, no more."""
    return list(_find(text.lower(), words_of(language), _loose_terms))


def _forms(word: str, language: str) -> list[str]:
    """The word and its regular plural."""
    if language != "en":
        return [word]
    if word.endswith("y") and word[-2] not in "aeiou":
        return [word, f"{word[:-1]}ies"]
    return [word, f"{word}es" if word.endswith(("ch", "sh", "s", "x")) else f"{word}s"]


@cache
def _terms(language: str) -> Terms:
    classes = class_words()["classes"]
    named = {form: label for label, entry in classes.items() for word in entry[language]
             for form in _forms(word, language)}  # fmt: skip
    narrower = [form for word in class_words()["narrower"][language] for form in _forms(word, language)]
    return _with_lookalikes(named, frozenset(narrower), language)


@cache
def _loose_terms(language: str) -> Terms:
    also = {form: label for label, entry in class_words()["classes"].items()
            for word in entry.get("also", {}).get(language, ()) for form in _forms(word, language)}  # fmt: skip
    strict = _terms(language)
    return _with_lookalikes({**also, **strict.labels}, strict.narrower | frozenset(also), language)


def _with_lookalikes(named: Mapping[str, str], narrower: frozenset[str], language: str) -> Terms:
    """The longest words first, so that "hot dog" and "bus stop" are met before "dog" and "bus"."""
    lookalikes = {form: "" for word in class_words()["not_the_class"][language] for form in _forms(word, language)}
    labels = {**lookalikes, **named}
    letters: dict[str, list[str]] = {}
    for word in sorted(labels, key=len, reverse=True):
        letters.setdefault(word[0], []).append(re.escape(word[1:]))
    # Told apart by their first letter, hundreds of words cost one look at most places of a text.
    first = f"(?=[{re.escape(''.join(letters))}])"
    listed = "|".join(f"{re.escape(letter)}(?:{'|'.join(rests)})" for letter, rests in letters.items())
    ends = r"(?![\w-])" if language == "en" else rf"(?=(?:{KO_PARTICLES})?(?![가-힣]))"
    starts = r"(?<![\w-])" if language == "en" else "(?<![가-힣])"
    return Terms(re.compile(f"{first}{starts}(?:{listed}){ends}"), labels, narrower)


@lru_cache(1 << 12)  # the captions of a picture are read for each reply about it, and by several checks
def _find(text: str, language: str, known: Callable[[str], Terms]) -> tuple[Mention, ...]:
    terms = known(language)
    stands = _is_ko_noun if language == "ko" else _is_en_noun
    return tuple(Mention(terms.labels[match.group()], match.start(), match.end(), match.group() in terms.narrower)
            for match in terms.pattern.finditer(text)
            if terms.labels[match.group()] and stands(text, match))  # fmt: skip


_BEFORE_A_VERB = re.compile(
    r"\b(?:(?<!next )(?<!close )(?<!due )to|can|could|will|would|must|should|may|might|cannot|please|i|you|we|they|"
    r"he|she|let's|who)\s+(?:also |always |never |not )?$"
)
_AFTER_A_VERB = re.compile(r"\s+(?:an?|the|his|her|their|your|my|our|its|it|them|him|us|me)\b")


_YOUNG = re.compile(
    r"\s+(?:birds?|cats?|dogs?|horses?|sheep|lambs?|cows?|elephants?|bears?|zebras?|giraffes?|goats?|ducks?)\b"
)


def _is_en_noun(text: str, match: re.Match[str]) -> bool:
    """Whether a word that is a verb too ("train", "book") stands as a noun; a baby elephant is no baby."""
    if match.group() == "baby":
        return not _YOUNG.match(text, match.end())
    if match.group() not in class_words()["also_verbs"]:
        return True
    before = text[: match.start()]
    if _BEFORE_A_VERB.search(before):
        return False
    return bool(before.strip()) or not _AFTER_A_VERB.match(text, match.end())


_KO_COUNT = "(?:한|두|세|네|다섯|여섯|일곱|여덟|아홉|열|여러|몇|\\d+)"
_KO_NOUN_AFTER = re.compile(
    rf"(?:{KO_PARTICLES})(?![가-힣])|\s?{_KO_COUNT}\s?(?:마리|대|개|척|병|명|권|자루)|\s*[.,!?)]|\s*$"
)
_KO_VERY = r"\s?(?:(?:꽤|아주|매우|너무|제법|상당히|훨씬|조금|그리|별로|더|덜|무척|참|정말|많이)\s)*"
_KO_IDIOMS = re.compile(
    rf"말(?:을|이|은|도){_KO_VERY}(?:하|걸|건|나누|듣|통|없|됩|맞|많)|배(?:가|는|도){_KO_VERY}(?:고프|고픈|고파|고플|부르|부른|불러|불룩|아프|아파)|"
    rf"양(?:이|은|을|도){_KO_VERY}(?:많|적|늘|줄|넉넉|충분|부족|모자라|남|조절|조정|재)|병(?:에|이)\s?(?:걸|나|들)|"
    r"새(?:로|롭)|소(?:를|가) 이루|공(?:을|이) (?:들|세)|사과(?:하|를 (?:하|드리|받)|드리)|연(?:을|이) (?:끊|닿)"
)
_KO_SAYING = re.compile(r"(?:다는|라는|이런|그런)\s$")


def _is_ko_noun(text: str, match: re.Match[str]) -> bool:
    """Whether a word stands as a noun, not as a counter, an adjective or part of an idiom."""
    if _KO_IDIOMS.match(text, match.start()):
        return False
    if len(match.group()) > 1:
        return True
    before = text[: match.start()]
    if match.group() in "개대배병양" and re.search(rf"{_KO_COUNT}\s?$", before):
        return False
    if match.group() == "말" and _KO_SAYING.search(before):
        return False
    return bool(_KO_NOUN_AFTER.match(text, match.end()))
