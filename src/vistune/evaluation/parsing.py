"""Parse replies: find the option, or the yes or no, that a reply means; bring answers into the form that VQA compares.

reply + options -> a letter, "Z" if the model declined, None if the rule finds nothing
answer -> VQA's form -> points among the answers of ten people

A rule is either published or lenient. Published rules keep their quirks, because published figures depend on them. The
lenient rules `lenient_letter` and `yes_or_no` read replies above all in Korean ("정답은 B입니다", "②", "아니요"), and
in English and Chinese too. vistune's own Korean tasks have only lenient rules. A reply that names several options or
denies one gives None instead of a guess. The patterns of lenient rules are applied to lines with single spaces and
contain no repetition, so the time is linear in the reply's length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

# Multiple choice by published rules: VLMEvalKit's matcher (MMBench's official one, as of August 2025), and the first
# character (lmms-eval).
DECLINED = "Z"
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_NO_REPLY = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_BOLD_ANSWER = re.compile(r"answer is \*\*([A-Z])\*\*")


def is_missing(option: object) -> bool:
    """Return whether an option or a hint is absent: None, NaN, or the strings that exports write for them."""
    return option is None or option != option or str(option).strip().lower() in ("", "nan", "none")


def letter_in(reply: str, letters: Collection[str]) -> str | None:
    """Return the only option letter among a reply's words, if it first occurs among the last four words."""
    if _NO_REPLY in reply:
        return None
    if any(refusal in reply for refusal in _REFUSALS):
        return DECLINED
    tokens = reply.translate(_SEPARATORS).split()
    named = [letter for letter in letters if letter in tokens]
    if len(named) == 1 and tokens.index(named[0]) > len(tokens) - 5:
        return named[0]
    if not named and DECLINED in tokens:
        return DECLINED
    bold = _BOLD_ANSWER.search(reply)
    return bold.group(1) if bold and bold.group(1) in letters else None


def option_in(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the only option whose text is in the reply, if the reply is at most twice as long as all options."""
    lowered = reply.lower()
    if len(lowered) > 2 * sum(map(len, options.values())):
        return None
    named = [letter for letter, text in options.items() if text.lower() in lowered]
    return named[0] if len(named) == 1 else None


def matched(reply: str, options: Mapping[str, str]) -> str | None:
    """Apply VLMEvalKit's `can_infer`: the letter rule, then the text rule. Options without text match by letter."""
    return letter_in(reply, options) or option_in(reply, texts_of(options))


def texts_of(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options that have a text."""
    return {letter: text for letter, text in options.items() if text}


def first_character(reply: str) -> str | None:
    """Apply lmms-eval's rule: the reply's first character, whatever follows; "Because A" is a B."""
    character = reply.strip()[:1].upper()
    return character if len(character) == 1 and "A" <= character <= "Z" else None


# The lenient rule.
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


def lenient_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the option that a reply states, consists of, or names alone; else that of the published rule."""
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


# VQA's text processors: `vqa_form` is that of VQA's own evaluation (vqaEval.py, Goyal et al., arXiv:1612.00837).
# `evalai_form` is that of the evaluation server and of TextVQA (m4c_evaluators.py), which treats commas, question marks
# and 's differently.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
# Each is also known without any one of its apostrophes. The official table's entries that start with "I", such as
# "I'm", are absent: they contain a capital, so they never match the lower-cased words.
CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've "
    "you'll you're you've"
)
# The last entry is reversed in the official table.
SPELLED = {
    whole[:k] + whole[k + 1 :]: whole for whole in CONTRACTIONS.split() for k in range(len(whole)) if whole[k] == "'"
} | {"somebody'd": "somebodyd"}

_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The official pattern is meant to keep "3." too, but its look-behind is written as a look-ahead and does nothing.
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # the official call passes re.UNICODE in place of the count


def without_punctuation(text: str, periods: re.Pattern[str] = _PERIOD) -> str:
    """Remove signs that are next to a space somewhere in the text; replace the others by a space.

    Args:
        periods: The full stops to remove.
    """
    joined = _DIGIT_COMMA_DIGIT.search(text) is not None
    result = text
    for sign in PUNCTUATION:
        if sign in text:
            remove = joined or f"{sign} " in text or f" {sign}" in text
            result = result.replace(sign, "" if remove else " ")
    return periods.sub("", result, count=_PERIODS)


def _plain_words(text: str) -> str:
    """Normalise words: lower case, numbers as digits, no articles, contractions with their apostrophes."""
    numbered = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(SPELLED.get(word, word) for word in numbered if word not in ARTICLES)


def one_line(text: str) -> str:
    """Apply the normalisation that VQA's evaluation uses for every answer, even if all people agree."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 17)
def vqa_form(text: str) -> str:
    """Return VQA's form of an answer that `one_line` returned."""
    return _plain_words(without_punctuation(text))


@lru_cache(maxsize=1 << 17)
def evalai_form(text: str) -> str:
    """Return the server's form of any answer."""
    bare = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return _plain_words(without_punctuation(one_line(bare.strip())))


def soft_points(answer: str, people: Sequence[str]) -> float:
    """Return the mean over people of min(1, number of the others who gave `answer` / 3).

    If n of ten people gave it, that is 0, 0.3, 0.6, 0.9 and 1 for n = 0, 1, 2, 3 and more (arXiv:1612.00837).
    """
    same, total = people.count(answer), len(people)
    if not same:
        return 0.0
    return (same * min(1, (same - 1) / 3) + (total - same) * min(1, same / 3)) / total
