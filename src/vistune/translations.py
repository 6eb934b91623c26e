"""Texts in the user's language, from one catalogue per package and language: `PACKAGE/NAME.LANGUAGE.json`.

A catalogue maps keys to texts. If its keys are the English texts themselves, there is no file for English.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError
from vistune.files import read_json
from vistune.registry import guess

LANGUAGES = {"en": "English", "ko": "한국어"}
FIELD = re.compile(r"\{(\w+)\}")


@cache
def catalogue(name: str, language: str) -> Mapping[str, Any]:
    """Return the texts of a catalogue, such as `report/labels`, in a language.

    Raises RecipeError if vistune does not have the language.
    """
    if language not in LANGUAGES:
        raise RecipeError(f"unknown language {language!r}", guess(language, LANGUAGES))
    file = Path(__file__).parent / f"{name}.{language}.json"
    texts: Mapping[str, Any] = read_json(file) if file.is_file() else {}
    return texts


def translate_message(message: str, name: str, language: str) -> str | None:
    """Translate a message by the template of a catalogue that has the most text in common with it; None if none fits.

    In a template `{name}` stands for any text, which the translation repeats at its own `{name}`.
    """
    for pattern, translation in _templates(name, language):
        if match := pattern.fullmatch(message):
            return FIELD.sub(lambda field: match[field[1]], translation)
    return None


@cache
def _templates(name: str, language: str) -> list[tuple[re.Pattern[str], str]]:
    texts = catalogue(name, language).items()
    return [
        (re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.*?)", re.escape(template)), re.DOTALL), translation)
        for template, translation in sorted(texts, key=lambda pair: len(FIELD.sub("", pair[0])), reverse=True)
    ]
