"""Find what a free reply means, above all in Korean: which option ("정답은 B입니다", "②"), yes or no ("예", "아니요").

reply -> normalised letters and marks -> the answer that it states, else the only option that it names, else None

This is the lenient rule of the tasks that have one, and the only rule of our own Korean tasks. English and Chinese are
read too. A reply that names several options or denies one gives None instead of a guess. Patterns are applied to lines
with single spaces and contain no repetition, so the time is linear in the reply's length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping

from vistune.evaluation.parsing.choices import matched, option_in, texts_of

# Circled numbers are options; other numbers are only as "2번", because "2개" counts things.
_CIRCLED = {ord(sign): letter for signs in ("①②③④⑤", "❶❷❸❹❺") for sign, letter in zip(signs, "ABCDE", strict=True)}
_MARKS = str.maketrans(dict.fromkeys("*_`\"'“”‘’()[]{}<>「」『』#$\\", " "))
# "A" before an English word is its article, not an option.
_LETTER = r"(?P<letter>(?<![A-Za-z])(?:A(?! [a-z])|[B-E])(?![A-Za-z])|(?<![0-9])[1-5](?= ?번))"
_SAYS = re.compile(
    r"(?:정답|답변|답|선택|[Aa]nswer(?: is)?|答案|选择|选)(?:은|는|이|으로는|是|为)? ?[:=]? ?"
    rf"(?:바로 )?(?:선택지|옵션|보기|[Oo]ption|选项)? ?{_LETTER}"
    r"(?! ?번?(?: ?[,/、]| 또는| 혹은|[와과나或和]| or| and) ?[A-E1-5](?![A-Za-z0-9]))"
)
_ANY = re.compile(_LETTER)
_DENIED = re.compile(rf"{_LETTER} ?번?[이가은는] 아(?:니라|니고|니며|닙니다|니다)")
_HEADED = re.compile(r"([A-E1-5]) ?[.:]")
_BARE = re.compile(
    r"(?:정답 ?[:=]? ?)?(?P<letter>[A-E1-5])(?: ?번)?(?: ?[.:] ?(?P<more>.*))?(?: ?(?:입니다|이다|다|임))?[.。]?"
)

_END = r"(?=$|[ .,!?~:;…。]|입니다|이에요|예요|요(?![가-힣])|라고|로 )"
_YES = re.compile(rf"(?:예|네|넵|응|그래|맞아|맞습니다|그렇습니다|있습니다|yes){_END}")
_NO = re.compile(rf"(?:아니오|아니요|아뇨|아니|아닙니다|없습니다|그렇지 않습니다|no|not){_END}")
_OPENING = re.compile(r"(?:정답|답변|답)(?:은|는)? ?[:=]? ?")
_DENIES = re.compile(r"(?:없|않|아닙|아니|안 보|못 |\bnot\b|n't |不|没)")
_AFFIRMS = re.compile(r"(?:있습니다|있어요|있다|보입니다|보여요|보인다|존재합니다|존재한다|맞습니다|그렇습니다)")


def choice_of(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the option that a reply states, consists of, or names alone; else what the published rule finds."""
    lines = [_DENIED.sub(" ", line).strip() for line in plain_lines(reply)]
    named = _named(lines, options)
    for letter in (_stated(lines, options), _alone_on_a_line(lines, options)):
        if letter is not None:
            return letter
    if len(named) == 1 and not any(_DENIES.search(line) for line in lines):
        return named.pop()
    # The published rule knows letters as whole words only, so in "A와 B" it sees only B.
    return matched(reply, options) if len(named) < 2 else option_in(reply, texts_of(options))


def plain_lines(reply: str) -> list[str]:
    """Return the non-empty lines, with plain signs for full-width and circled ones, without quotes and emphasis."""
    text = unicodedata.normalize("NFKC", reply.translate(_CIRCLED)).translate(_MARKS)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line]


def _as_letter(sign: str, letters: Collection[str]) -> str | None:
    letter = "ABCDE"[int(sign) - 1] if sign.isdigit() else sign
    return letter if letter in letters else None


def _stated(lines: list[str], letters: Collection[str]) -> str | None:
    """Return the option of the last "the answer is X"."""
    stated = [match["letter"] for line in lines for match in _SAYS.finditer(line)]
    return _as_letter(stated[-1], letters) if stated else None


def _alone_on_a_line(lines: list[str], letters: Collection[str]) -> str | None:
    """Return the option of the last or first line that is only an option: "B", "2번", or the single "B. 친구"."""
    headed = {match[1] for line in lines if (match := _HEADED.match(line))}
    for line in (lines[-1:] + lines[:1])[:2]:
        if (match := _BARE.fullmatch(line)) and not (match["more"] and len(headed) > 1):
            return _as_letter(match["letter"], letters)
    return None


def _named(lines: list[str], letters: Collection[str]) -> set[str]:
    named = (_as_letter(match["letter"], letters) for line in lines for match in _ANY.finditer(line))
    return {letter for letter in named if letter is not None}


def yes_or_no(reply: str) -> str | None:
    """Return "yes" or "no" by a reply's first word, else by what it affirms or denies; None if it does both."""
    lines = plain_lines(reply.lower())
    if not lines:
        return None
    opening = _OPENING.match(lines[0])
    first = lines[0][opening.end() :] if opening else lines[0]
    if _NO.match(first):
        return "no"
    if _YES.match(first):
        return "yes"
    denies, affirms = (any(form.search(line) for line in lines) for form in (_DENIES, _AFFIRMS))
    if denies == affirms:
        return None
    return "no" if denies else "yes"
