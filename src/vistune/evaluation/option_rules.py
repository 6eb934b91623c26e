"""Published rules of one benchmark or harness each that find an option's letter, or yes or no, in a reply.

Each rule names its source. Some official scorers choose a random option if they find none. Here, such a reply counts as
unparsed and wrong, so that the same replies always give the same figure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vistune.evaluation.parsing import without_punctuation

# The openings that MMStar's scorer accepts before the letter, and those of lmms-eval's Korean form of it.
MMSTAR_OPENINGS = ("(", "option ", "the answer is ")
MMSTAR_KO_OPENINGS = ("(", "옵션 ", "정답은 ")
_OUTER = (",", ".", "!", "?", ";", ":", "'")
_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is",
    "the correct option is", "correct option is", "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
_LONE_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")


def opening_letter(reply: str, letters: str, openings: Sequence[str] = MMSTAR_OPENINGS) -> str | None:
    """Return the letter with which a reply begins, directly or after one of the openings.

    Source: MMStar's eval/vlmeval/evaluate/mmstar.py. "A cat" is an A there, and "Because" a B.
    """
    text = reply.lower().strip().replace("\n", " ")
    for opening in ("", *openings):
        letter = text.removeprefix(opening)[:1].upper()
        if letter and letter in letters and text.startswith(opening):
            return letter
    return None


def ranked_letter(reply: str, letters: str) -> str | None:
    """Return the letter in the form of the highest rank, the last one in this form.

    Source: lmms-eval 0.7.3, tasks/_task_utils/mcq_extract.py.
    """
    text = reply.strip()
    for sign in (*_OUTER, '"'):
        text = text.strip(sign)
    bare, text = text.strip(), f" {text} "
    found: list[tuple[int, int, str]] = []  # rank, position, letter
    for rank, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
        found += [(rank, text.rfind(form.format(a)), a) for a in letters if form.format(a) in text]
    lowered = text.lower()
    for phrase in _PHRASES:
        if (index := lowered.find(phrase)) >= 0:
            positions = [(text.find(a, index + len(phrase)), a) for a in letters]
            found += [(7, position, a) for position, a in positions if position >= 0]
    for a in letters:
        if bare.startswith(a) and (len(bare) == 1 or not bare[1].isalpha()):
            found.append((10, 0, a))
        if bare.endswith(a) and (len(bare) == 1 or not bare[-2].isalpha()):
            found.append((9, len(text) - 1, a))
    if not found:
        found = [(0, text.rfind(a), a) for a in letters if a in text]
    return max(found, key=lambda item: item[:2])[2] if found else None


def mmmu_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the last letter "(A)"; else "A ", "A." or, in more than five words, an option's text.

    Source: lmms-eval 0.7.3, tasks/_task_utils/mmmu_mcq_utils.py, which guesses if there is none. MMMU's own function
    (mmmu/utils/eval_utils.py) is stricter: it needs a space before the letter too, and does not read "A.".
    """
    text = reply
    for sign in _OUTER:
        text = text.strip(sign)
    text = f" {text} "
    # The form that names a letter, and the form by which the last of several letters is found.
    for form, last in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if named := [letter for letter in options if form.format(letter) in text]:
            return _last({letter: text.rfind(last.format(letter)) for letter in named})
    if len(text.split()) > 5:
        lowered = text.lower()
        if named := [letter for letter, option in options.items() if option.lower() in lowered]:
            return _last({letter: lowered.rfind(options[letter].lower()) for letter in named})
    return None


def _last(positions: Mapping[str, int]) -> str:
    """Return the letter with the largest position, the first of equals."""
    return max(positions, key=lambda letter: positions[letter])


def kreta_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the only letter after the last "Answer:", else that of the rule for MMMU.

    Source: KRETA's eval/evaluate.py, which is MMMU-Pro's function.
    """
    begin = reply.rfind("Answer:")
    if begin >= 0:
        rest = reply[begin + len("Answer:") :]
        named = [letter for letter in options if letter in rest]
        if len(named) == 1:
            return named[0]
    return mmmu_letter(reply, options)


def natural_bench_answer(reply: str, first: str, second: str) -> str | None:
    """Return the one of two words that occurs first in a reply as a whole word, in any case.

    Source: lmms-eval 0.7.3, tasks/naturalbench/utils.py, which is NaturalBench's own.
    """
    found = [(match.start(), word) for word in (first, second) if (match := _whole(word).search(reply))]
    return min(found)[1] if found else None


def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"\b{word}\b", re.IGNORECASE)


def only_yes_or_no(reply: str) -> str | None:
    """Return "Yes" or "No" if exactly one of them is among a reply's words, without punctuation.

    Source: VLMEvalKit, dataset/utils/yorn.py (YOrN_Extraction).
    """
    named = {"yes", "no"}.intersection(without_punctuation(reply.lower(), _LONE_PERIOD).split())
    return named.pop().capitalize() if len(named) == 1 else None
