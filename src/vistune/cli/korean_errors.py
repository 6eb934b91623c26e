"""What the user's own mistakes are told in Korean; the rare ones stay English.

VistuneError -> the first template of korean_errors.json that its message fits, and one for its hint -> a line
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from vistune.errors import VistuneError
from vistune.files import read_json


def in_korean(error: VistuneError) -> str:
    """Message and hint, each in Korean where it is known; the English line where the message is not."""
    message, hint = (_translated(text) for text in (error.message, error.hint))
    if message is None:
        return str(error)
    return f"{message}. 고치는 법: {hint or error.hint}" if error.hint else message


def _translated(text: str) -> str | None:
    for pattern, korean in _templates():
        if found := pattern.fullmatch(text):
            return korean.format(**found.groupdict())
    return None


@cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    """English templates as patterns, with the Korean ones; `{name}` stands for any words."""
    told: dict[str, str] = read_json(Path(__file__).with_name("korean_errors.json"))
    return [
        (re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.*?)", re.escape(english)), re.DOTALL), korean)
        for english, korean in told.items()
    ]
