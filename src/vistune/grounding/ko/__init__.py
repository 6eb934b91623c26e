"""Korean grammar for the checks: the words that name a class, and the claims of a clause about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vistune.grounding.language import CountClaim, NamedClass
from vistune.grounding.lexicon import KO_NUMBERS

PARTICLES = (
    "이|가|은|는|을|를|와|과|의|에|도|만|로|으로|에서|에게|까지|부터|보다|처럼|이나|나|랑|이랑|하고|들|들이|들은|들을|들과|들의|들도|들에|"
    "들에게|이다|입니다|이고|이며|예요|이에요|이라|라고|이라고|인데|에는|에도|에서는|까지도|뿐"
)
_CLOSED_BY_L = "".join(chr(code) for code in range(ord("가"), ord("힣") + 1) if (code - ord("가")) % 28 == 8)

NEGATION = re.compile(r"없|않|아니|못 |못하")
HEDGE = re.compile(
    r"수 있|수도|아마|처럼|것 같|라면|다면|보통|흔히|만약|대개|려고|려면|위해|위한|듯|모양|"
    rf"[{_CLOSED_BY_L}] (?:때|것(?:이|입))|"
    rf"[가-힣]야 (?:하|할|합|해|한)|"
    r"일지|거나|기도 하|기도 합|는 (?:편이|것이) (?:좋|편|낫|안전)"
)
CLAUSE_BREAK = re.compile(
    r"(?<=[.!?])\s+|\n|,\s*|(?<=지만)\s|(?<=으나)\s|(?<=는데)\s|(?<=[고며])\s|(?<=있어)\s|(?<=[아어해여]서)\s"
)
DENIED_PART = re.compile(r"\S+ (?:없이|말고|대신)(?: |$)")
WORD_START, WORD_END = "(?<![가-힣])", rf"(?=(?:{PARTICLES})?(?![가-힣]))"

_VALUES = {word: value for value, word in enumerate(KO_NUMBERS) if word} | {"하나": 1, "둘": 2, "셋": 3, "넷": 4}
_NUMBER = "|".join(word for word in KO_NUMBERS if word)
FIRST_NUMBER = re.compile(
    rf"\d{{1,3}}|(?<![가-힣])(?:{_NUMBER})(?=\s)|(?<![가-힣])(?:하나|둘|셋|넷|다섯|여섯)(?=[입이예. ])"
)


def number(word: str) -> int:
    return int(word) if word.isdigit() else _VALUES[word]


def inflections(word: str) -> list[str]:
    return [word]


_COUNT = "(?:한|두|세|네|다섯|여섯|일곱|여덟|아홉|열|여러|몇|\\d+)"
_NOUN_AFTER = re.compile(rf"(?:{PARTICLES})(?![가-힣])|\s?{_COUNT}\s?(?:마리|대|개|척|병|명|권|자루)|\s*[.,!?)]|\s*$")
_VERY = r"\s?(?:(?:꽤|아주|매우|너무|제법|상당히|훨씬|조금|그리|별로|더|덜|무척|참|정말|많이)\s)*"
_IDIOMS = re.compile(
    rf"말(?:을|이|은|도){_VERY}(?:하|걸|건|나누|듣|통|없|됩|맞|많)|배(?:가|는|도){_VERY}(?:고프|고픈|고파|고플|부르|부른|불러|불룩|아프|아파)|"
    rf"양(?:이|은|을|도){_VERY}(?:많|적|늘|줄|넉넉|충분|부족|모자라|남|조절|조정|재)|병(?:에|이)\s?(?:걸|나|들)|"
    r"새(?:로|롭)|소(?:를|가) 이루|공(?:을|이) (?:들|세)|사과(?:하|를 (?:하|드리|받)|드리)|연(?:을|이) (?:끊|닿)"
)
_QUOTING = re.compile(r"(?:다는|라는|이런|그런)\s$")  # before 말 ("words"), not 말 ("horse")


def is_noun(text: str, match: re.Match[str]) -> bool:
    if _IDIOMS.match(text, match.start()):
        return False
    if len(match.group()) > 1:
        return True
    before = text[: match.start()]
    if match.group() in "개대배병양" and re.search(rf"{_COUNT}\s?$", before):
        return False
    if match.group() == "말" and _QUOTING.search(before):
        return False
    return bool(_NOUN_AFTER.match(text, match.end()))


def continues_list(clause: str) -> bool:
    return False


_WHOEVER = re.compile(rf"(?:려는|[{_CLOSED_BY_L}]) $")  # "앉으려는 사람", "앉을 사람"
_SUCH_AS = re.compile(  # "버스나 택시 같은 교통편", "배 무늬"
    r"이?나\s|(?:과|와)?\s?같은\s|\s?(?:무늬|그림|모양|로고|동상|조각상|스티커)"
)


def is_generic(clause: str, named: NamedClass) -> bool:
    is_anyone = named.label == "person" and _WHOEVER.search(clause[: named.start])
    return bool(is_anyone or _SUCH_AS.match(clause, named.end))


def is_presupposed(question: str, named: NamedClass) -> bool:
    if HEDGE.search(question):  # in "지나가는 사람은 무엇을 조심해야 할까요?" the topic may be anyone
        return False
    return bool(re.match(r"(?:은|는|의)\s+(?!있|보이|몇|없)", question[named.end :]))


_PART_ASKED = re.compile(
    r"없애|없으면|남|제외|빼|왼|오른|앞|뒤|위|아래|가운데|옆|입|들고|쓰|타고|앉|서 있|누워|자는|자고|먹|걷"
)


def asks_total(question: str, named: NamedClass) -> bool:
    return "몇" in question[named.end :] and not _PART_ASKED.search(question)


_COUNTERS = "마리|대|명|개|척|병|권|자루|잔|송이|벌|사람|분|쌍|그루|채"
_COUNTERS_OF_PEOPLE = ("명", "사람", "분", "쌍")
_COUNT_AFTER = re.compile(
    rf"^(?:{PARTICLES})?\s*(모두 |총 |전부 )?({_NUMBER}|\d{{1,3}})\s?({_COUNTERS})(만)?(?!의|\s?(?:이상|정도|쯤))"
)
_COUNT_BEFORE = re.compile(rf"(?<![가-힣])({_NUMBER}|\d{{1,3}})\s?({_COUNTERS})의\s+$")
_COUNT_OF_PEOPLE = re.compile(rf"(?<![가-힣])({_NUMBER})\s$")  # "두 사람", "세 남자"
_IN_THE_IMAGE = re.compile(r"^\s*(?:이 |그 )?(?:사진|그림|이미지|장면|화면)?(?:에는|에|에서|속에는|속에)?\s*$")
_CLAUSE_ENDS = re.compile(r"^[가-힣]*\s?(?:있습니다|있다|있어요|보입니다|보인다|보여요|입니다|이다)?\s*[.!]?\s*$")


def count_claim(clause: str, named: NamedClass, others: Sequence[NamedClass]) -> CountClaim | None:
    """Read "개 두 마리", "두 마리의 개" and "두 사람"; a total if the clause only says that they are there."""
    before, after = clause[: named.start], clause[named.end :]
    is_total = False
    if match := _COUNT_AFTER.search(after):
        every, word, counter, only = match.groups()
        is_whole_clause = bool(_IN_THE_IMAGE.match(before) and _CLAUSE_ENDS.match(after[match.end() :]))
        is_total = is_whole_clause and (bool(every or only) or number(word) > 1) and not named.narrow
    elif match := _COUNT_BEFORE.search(before):
        word, counter = match.groups()
    elif named.label == "person" and (match := _COUNT_OF_PEOPLE.search(before)):
        word, counter = match.group(1), "명"
    else:
        return None
    if (counter in _COUNTERS_OF_PEOPLE) != (named.label == "person"):
        return None  # "병은 두 사람 사이에" counts people, not bottles
    return CountClaim(named.label, number(word), is_total)


_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above", "on": "under", "under": "on"}
_RELATION = re.compile(r"(?:의|보다)?\s*(왼쪽|오른쪽|위쪽|위|아래쪽|아래)에")
_SIDES = {"왼쪽": "left", "오른쪽": "right", "위쪽": "above", "아래쪽": "below", "위": "on", "아래": "under"}


def side_between(statement: str, first: NamedClass, second: NamedClass) -> str:
    """Read "개는 고양이의 왼쪽에 있다" and "고양이 왼쪽에는 개가 있다"."""
    topic = re.match(r"(?:은|는|이|가)\s", statement[first.end :])
    if topic and (match := _RELATION.match(statement, second.end)):
        return _SIDES[match.group(1)]
    match = _RELATION.match(statement, first.end)
    follows = match and re.match(r"(?:는|도)?\s(?:[가-힣]+[은는한인운]\s)?$", statement[match.end() : second.start])
    return _OPPOSITE[_SIDES[match.group(1)]] if match and follows else ""


_PLACE = re.compile(r"(왼|오른)쪽(?: (위|아래))?쪽?(?:에|$)")
_OF_AN_OBJECT = re.compile(r"(?<!사진)(?<!그림)(?<!이미지)(?<!화면)의\s*$|더\s*$")
_PLACES = {"왼": "left", "오른": "right", "위": "top", "아래": "bottom"}


def places(statement: str) -> list[str]:
    of_image = [match for match in _PLACE.finditer(statement) if not _OF_AN_OBJECT.search(statement[: match.start()])]
    return [_PLACES[side] for side in of_image[0].groups() if side] if len(of_image) == 1 else []


def with_brief_answer(question: str, answer: str) -> str:
    if "어디" in question:
        return f"{question} {answer}"
    return f"{question.split('무엇')[0]}{answer}" if "무엇" in question else ""
