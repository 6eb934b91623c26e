"""Find the option that a reply means, exactly by the published rules.

reply + options -> a letter, "Z" if the model declined, None if the rule finds nothing
The rules are VLMEvalKit's matcher (MMBench's official one, as of August 2025) and the first character (lmms-eval).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

DECLINED = "Z"
LETTERS = "ABCD"
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
    words = reply.translate(_SEPARATORS).split()
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return named[0]
    if not named and DECLINED in words:
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
