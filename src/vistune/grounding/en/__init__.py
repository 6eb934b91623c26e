"""English grammar for the checks: the words that name a class, and the claims of a clause about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vistune.grounding.language import CountClaim, NamedClass
from vistune.grounding.lexicon import EN_NUMBERS, word_lists

NEGATION = re.compile(r"\b(?:no|not|never|nobody|none|neither|nor|absent|missing|cannot)\b|n't\b|n’t\b")
HEDGE = re.compile(
    r"\b(?:might|may|could|would|perhaps|possibly|probably|likely|maybe|if|such as|like|imagine|usually|often|"
    r"typically|should|or|can(?! (?:be seen|see|be found|you see|we see))|for example|e\.g\.|in case|as though|"
    r"as if|suggests?|(?:by|in) contrast|unlike|compared (?:to|with)|in general|generally|"
    r"meant for|designed for|used (?:for|to)|whether)\b"
)
CLAUSE_BREAK = re.compile(r"(?<=[.!?;:])\s+|\n|,\s+(?:but|while|and|so|whereas)\b|\bbut\b|;|, ")
DENIED_PART = re.compile(
    r"\b(?:without|instead of|rather than|free of|lacks?|lacking|with no)\b.*$", re.IGNORECASE | re.DOTALL
)
WORD_START, WORD_END = r"(?<![\w-])", r"(?![\w-])"

_VALUES = {word: value for value, word in enumerate(EN_NUMBERS)} | {"eleven": 11, "twelve": 12}
_NUMBER = "|".join(word for word in _VALUES if word != "no")
FIRST_NUMBER = re.compile(rf"\b(?:\d{{1,3}}|no|{_NUMBER})\b")


def number(word: str) -> int:
    return int(word) if word.isdigit() else _VALUES[word]


def inflections(word: str) -> list[str]:
    if word.endswith("y") and word[-2] not in "aeiou":
        return [word, f"{word[:-1]}ies"]
    return [word, f"{word}es" if word.endswith(("ch", "sh", "s", "x")) else f"{word}s"]


_BEFORE_A_VERB = re.compile(
    r"\b(?:(?<!next )(?<!close )(?<!due )to|can|could|will|would|must|should|may|might|cannot|please|i|you|we|they|"
    r"he|she|let's|who)\s+(?:also |always |never |not )?$"
)
_AFTER_A_VERB = re.compile(r"\s+(?:an?|the|his|her|their|your|my|our|its|it|them|him|us|me)\b")
_ANIMAL = re.compile(
    r"\s+(?:birds?|cats?|dogs?|horses?|sheep|lambs?|cows?|elephants?|bears?|zebras?|giraffes?|goats?|ducks?)\b"
)


def is_noun(text: str, match: re.Match[str]) -> bool:
    if match.group() == "baby":  # a baby elephant is not a person
        return not _ANIMAL.match(text, match.end())
    if match.group() not in word_lists("en")["also_verbs"]:
        return True
    before = text[: match.start()]
    if _BEFORE_A_VERB.search(before):
        return False
    return bool(before.strip()) or not _AFTER_A_VERB.match(text, match.end())


LISTED_WORDS = 4  # a clause without a verb continues a list if it has at most this many words
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|can|there|\w+ing)\b|n't\b")


def continues_list(clause: str) -> bool:
    return len(clause.split()) <= LISTED_WORDS and not _VERB.search(clause)


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
_STATES_A_RULE = re.compile(r"\s(?:is|\w{2,}s)\s(?!(?:an?|one|two|three|some|several)\b)")
_KIND_AFTER = re.compile(
    r"\s+are\s+(?:\w+ly )?(?:common|known|able|popular|famous|said|good|bad|"
    r"(?:\w+ ){0,2}(?:animals|creatures|mammals))\b"
)
_DEPICTED = re.compile(
    r"\b(?:patterns?|prints?|drawings?|posters?|paintings?|statues?|sculptures?|logos?|shapes?|"
    r"stickers?) of (?:\w+ ){0,3}$"
)
_ANYBODY = re.compile(r"(?:person|people|child|children|kids?)$")


def is_generic(clause: str, named: NamedClass) -> bool:
    """Recognise "a path that a person can take", "Bears hibernate" and "a poster of a cat"."""
    before, word, end = clause[: named.start], clause[named.start : named.end], named.end
    if (_GERUND.match(before) and _STATES_A_RULE.search(clause, end)) or _DEPICTED.search(before):
        return True
    is_plural = word.endswith("s") or word in ("people", "children", "men", "women", "geese", "sheep", "cattle")
    is_kind = is_plural and bool(_BARE_SUBJECT.match(before))
    if _SCENE_AFTER.match(clause, end):
        return is_kind and bool(_KIND_AFTER.match(clause, end))
    if named.label == "person" and _ANYBODY.match(word) and _GENERAL_BEFORE.search(before):
        return True
    return is_kind and bool(re.match(r"\s+\w", clause[end:]))


def is_presupposed(question: str, named: NamedClass) -> bool:
    has_article = re.search(r"\bthe (?:\w+ ){0,2}$", question[: named.start])
    return has_article is not None and not re.search(r"\b(?:or|if)\b", question)


_ALL_ASKED = re.compile(
    r"^(?: are there| can you see| are| do you see| is there)?(?: visible)?"
    r"(?: in (?:the|this) (?:picture|image|photo|scene)| visible| in total| altogether)?\s*\??(?:\n.*)?$"
)


def asks_total(question: str, named: NamedClass) -> bool:
    return bool(re.search(r"\bhow many\s+$", question[: named.start]) and _ALL_ASKED.match(question[named.end :]))


_COUNT = re.compile(rf"\b({_NUMBER}|\d{{1,3}})\s+((?:[\w-]+\s+){{0,2}})$")
_ROUGHLY = re.compile(
    r"\b(?:least|about|around|than|over|nearly|almost|approximately|roughly|another|first|last|every|each|up to|to|"
    r"some|number)\s+(?:other\s+)?$"
)
_IN_THE_IMAGE = r"(?:in|on) (?:the|this) (?:picture|image|photo|photograph|scene)"
_CLAUSE_ENDS = re.compile(
    rf"^\s*(?:{_IN_THE_IMAGE}|visible|in total|altogether|in all|can be seen|are visible|to be seen)?\s*[.!]?\s*$"
)
_EXISTS = re.compile(
    r"\b(?:there (?:are|is)|(?:picture|photo|image|scene) (?:shows|contains|has)|see)\s+(?:only |just |exactly )?$"
)
_ONLY = re.compile(r"\b(?:only|just)\s+(?:the\s+)?$")
_AT = re.compile(r"^\s+(?:\w+ing )?(?:at|around|on) (?:the|this) (?:\w+ )?$")


def count_claim(clause: str, named: NamedClass, others: Sequence[NamedClass]) -> CountClaim | None:
    """Read "two dogs", "the two skiers … are the only people" and "only one person at the table"."""
    match = _COUNT.search(clause[: named.start])
    if not match or _ROUGHLY.search(clause[: match.start()]):
        return None
    count, ahead = number(match.group(1)), clause[: match.start()]
    is_only = bool(_ONLY.search(ahead))
    is_stated_alone = is_only or (count > 1 and bool(_EXISTS.search(ahead)))
    ends = bool(_CLAUSE_ENDS.match(clause[named.end :]))
    is_total = not match.group(2) and not named.narrow and ends and is_stated_alone
    later = [other for other in others if other.start > named.start]
    are_the_only = any(
        other.label == named.label and re.search(r"\bare the only\s+$", clause[: other.start]) for other in later
    )
    at = later[0].label if is_only and later and _AT.match(clause[named.end : later[0].start]) else ""
    return CountClaim(named.label, count, is_total or are_the_only, at)


_OPPOSITE = {"left": "right", "right": "left"}
_RELATION = re.compile(r"\b(?:(?:to|on) the (left|right) (?:side )?of|(left|right) of|(above|below))\b")
_NOUN_AHEAD = re.compile(r"^\s*(?:the|a|an|another)?\s*(?:\w+\s+){0,2}$")
_SIDE_FIRST = re.compile(
    r"(?:^|\band |\bwhile )\s*(?:(?:to|on) the )?(left|right) (?:side )?of (?:the |a |an )?(?:\w+ )?$"
)
_STANDS = re.compile(
    r"^\s*(?:,\s*)?(?:there |you can see |we see |one can see )?(?:is|are|\w+s)?"
    r"\s*(?:the|a|an|another)\s+(?:\w+\s+){0,2}$"
)
WORDS_BETWEEN = 9


def side_between(statement: str, first: NamedClass, second: NamedClass) -> str:
    between = statement[first.end : second.start]
    ahead = _SIDE_FIRST.search(statement[: first.start])
    if ahead and _STANDS.match(between):  # "to the left of the bus stands a bicycle"
        return _OPPOSITE[ahead.group(1)]
    matches = list(_RELATION.finditer(between))
    if len(matches) != 1 or len(between.split()) > WORDS_BETWEEN:
        return ""
    if not _NOUN_AHEAD.match(between[matches[0].end() :]):
        return ""
    return next(group for group in matches[0].groups() if group)


_PLACE = re.compile(
    r"\b(?:(?:on|at|to|in|towards?|near) the )?(?:(?:far|lower|upper) )?(?:(top|bottom|upper|lower)[ -])?"
    r"(left|right|top|bottom)\b"
)
_OF_AN_OBJECT = re.compile(
    r"(?:[- ](?:side|edge|corner|half|part|hand side))? of (?!the (?:picture|image|photo|photograph|scene|frame)\b)"
    r"| (?:hand|arm|foot|leg|turn|now|over|behind|eye|ear|shoulder|wing|lane|next|in front|away|paw|knee|wheel|sleeve)"
)
_MOVES = re.compile(
    r"\b(?:look|turn|fac|head|mov|point|lean|gaz|swing|swerv|run|walk|driv|go|step|tilt|bend|veer|glanc|star)(?:e?s|ing|ed|e)?\b"
)


def places(statement: str) -> list[str]:
    matches = list(_PLACE.finditer(statement))
    if len(matches) != 1 or _OF_AN_OBJECT.match(statement[matches[0].end() :]):
        return []
    words = matches[0].group()
    if words.startswith(("to", "toward")) and not words.startswith("top") and _MOVES.search(statement):
        return []
    is_placed = words.startswith(("on", "at", "in", "to the", "near", "toward"))
    return [side for side in matches[0].groups() if side] if is_placed else []


_WHAT_IS = re.compile(r"^what (?:is|are|stands|lies|sits|hangs) ((?:(?:to|on) the (?:left|right)|above|below)\b.*)$")


def with_brief_answer(question: str, answer: str) -> str:
    if re.search(r"\bwhere\b", question.lower()):
        return f"{question} {answer}"
    match = _WHAT_IS.match(question.lower())
    return f"{answer.rstrip('.')} is {match.group(1)}" if match else ""
