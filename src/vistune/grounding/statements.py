"""What a text asserts: its clauses without those denied, asked, guessed at or meant in general, English and Korean.

text -> clauses that claim something of the picture
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vistune.grounding.mentions import Mention, words_of

_KO_CLOSED_BY_L = "".join(chr(code) for code in range(ord("가"), ord("힣") + 1) if (code - ord("가")) % 28 == 8)
_NEGATED = {
    "en": re.compile(r"\b(?:no|not|never|nobody|none|neither|nor|absent|missing|cannot)\b|n't\b|n’t\b"),
    "ko": re.compile(r"없|않|아니|못 |못하"),
}
# these deny what stands next to them and leave the clause: "a bird flies without haste", "개 대신 고양이가"
_EN_WITHOUT = re.compile(
    r"\b(?:without|instead of|rather than|free of|lacks?|lacking|with no)\b.*$", re.IGNORECASE | re.DOTALL
)
_KO_WITHOUT = re.compile(r"\S+ (?:없이|말고|대신)(?: |$)")
_PUT_IN = re.compile(
    r",\s+((?:by|in) contrast|however|of course|in general|for example|on the other hand|in turn),", re.IGNORECASE
)
_HEDGED = {
    "en": re.compile(
        r"\b(?:might|may|could|would|perhaps|possibly|probably|likely|maybe|if|such as|like|imagine|usually|often|"
        r"typically|should|or|can(?! (?:be seen|see|be found|you see|we see))|for example|e\.g\.|in case|as though|"
        r"as if|suggests?|(?:by|in) contrast|unlike|compared (?:to|with)|in general|generally|"
        r"meant for|designed for|used (?:for|to)|whether)\b"
    ),
    "ko": re.compile(
        r"수 있|수도|아마|처럼|것 같|라면|다면|보통|흔히|만약|대개|려고|려면|위해|위한|듯|모양|"
        rf"[{_KO_CLOSED_BY_L}] (?:때|것(?:이|입))|"
        rf"[가-힣]야 (?:하|할|합|해|한)|"
        r"일지|거나|기도 하|기도 합|는 (?:편이|것이) (?:좋|편|낫|안전)"
    ),
}
_CLAUSE = {
    "en": re.compile(r"(?<=[.!?;:])\s+|\n|,\s+(?:but|while|and|so|whereas)\b|\bbut\b|;|, "),
    "ko": re.compile(
        r"(?<=[.!?])\s+|\n|,\s*|(?<=지만)\s|(?<=으나)\s|(?<=는데)\s|(?<=[고며])\s|(?<=있어)\s|(?<=[아어해여]서)\s"
    ),
}
_EN_VERB = re.compile(r"\b(?:is|are|was|were|has|have|can|there|\w+ing)\b|n't\b")
LISTED_WORDS = 4  # as few words without a verb after a comma go on with a list


def clauses(text: str, language: str) -> list[str]:
    return [part for part in _CLAUSE[words_of(language)].split(text) if part and part.strip()]


def is_negated(clause: str, language: str) -> bool:
    return bool(_NEGATED[words_of(language)].search(clause.lower()))


def is_hedged(clause: str, language: str) -> bool:
    return bool(_HEDGED[words_of(language)].search(clause.lower()))


def is_asserted(clause: str, language: str) -> bool:
    return not (clause.rstrip().endswith("?") or is_negated(clause, language) or is_hedged(clause, language))


def asserted(text: str, language: str) -> Iterator[str]:
    """The clauses that claim something. In "no cars, trucks or buses" the trucks are denied with the cars."""
    without = _KO_WITHOUT if language == "ko" else _EN_WITHOUT
    for sentence in re.split(r"(?<=[.!?])\s+|\n", _PUT_IN.sub(r" \1 ", text)):
        claimed = True
        for clause in clauses(sentence, language):
            goes_on = language != "ko" and len(clause.split()) <= LISTED_WORDS and not _EN_VERB.search(clause.lower())
            rest = without.sub("", clause)
            claimed = (claimed or not goes_on) and is_asserted(rest, language)
            if claimed:
                yield rest
            claimed = claimed and (language == "ko" or rest == clause)


_GENERAL_BEFORE = re.compile(
    r"\b(?:where|that|which|when|how|than|as|(?:for|helps?|lets?|allows?|protects?|protecting|invites?|reminds?|encourages?|"
    r"encouraging|enables?|gives?|attracts?|prevents?|tells?|warns?|makes?|keeps?|brings?))\s+(?:\w+[- ]){0,3}$"
)
_SCENE_AFTER = re.compile(
    r"\s+(?:is|are|was|were|can be seen|visible|in|on|at|near|by|next|behind|beside|stands?|sits?|lies?|walks?|"
    r"waits?|hangs?|lines?|fills?|surrounds?|rests?|watch|watches|gathers?|holds?|rides?|flies|fly|grazes?|floats?|wears?|\w+ing|"
    r"and|,|with|along|above|under|below|around)\b"
)
_BARE_SUBJECT = re.compile(r"^\s*(?:and|so|since|because|as|in general|generally)?,?\s*$")
_GERUND = re.compile(
    r"^\s*(?:\w+ly,? |on [^,]{1,40}, |so )?(?!(?:stand|sitt|ly|hang|lean|rest|wait|walk)ing\b)\w+ing\b"
)
_TELLS = re.compile(r"\s(?:is|\w{2,}s)\s(?!(?:an?|one|two|three|some|several)\b)")
_KO_WHOEVER = re.compile(rf"(?:려는|[{_KO_CLOSED_BY_L}]) $")  # "앉으려는 사람", "앉을 사람"
_KIND_AFTER = re.compile(
    r"\s+are\s+(?:\w+ly )?(?:common|known|able|popular|famous|said|good|bad|"
    r"(?:\w+ ){0,2}(?:animals|creatures|mammals))\b"
)
_DEPICTED = re.compile(
    r"\b(?:patterns?|prints?|drawings?|posters?|paintings?|statues?|sculptures?|logos?|shapes?|"
    r"stickers?) of (?:\w+ ){0,3}$"
)
_KO_SUCH_AS = re.compile(  # "버스나 택시 같은 교통편", "배 무늬"
    r"이?나\s|(?:과|와)?\s?같은\s|\s?(?:무늬|그림|모양|로고|동상|조각상|스티커)"
)
_ANYBODY = re.compile(r"(?:person|people|child|children|kids?)$")


def is_general(clause: str, mention: Mention, language: str) -> bool:
    """Whether a kind is spoken of, or what is only drawn: "a path that a person can take", "Bears hibernate"."""
    lowered = clause.lower()
    if language == "ko":
        whoever = mention.label == "person" and _KO_WHOEVER.search(lowered[: mention.start])
        return bool(whoever or _KO_SUCH_AS.match(lowered, mention.end))
    before, word = lowered[: mention.start], lowered[mention.start : mention.end]
    if _GERUND.match(before) and _TELLS.search(lowered, mention.end):
        return True
    if _DEPICTED.search(before):
        return True
    is_plural = word.endswith("s") or word in ("people", "children", "men", "women", "geese", "sheep", "cattle")
    is_kind = is_plural and bool(_BARE_SUBJECT.match(before))
    if _SCENE_AFTER.match(lowered, mention.end):
        return is_kind and bool(_KIND_AFTER.match(lowered, mention.end))
    if mention.label == "person" and _ANYBODY.match(word) and _GENERAL_BEFORE.search(before):
        return True
    return is_kind and bool(re.match(r"\s+\w", lowered[mention.end :]))
