"""Texts in the user's language. `ko.json` is the only catalogue: it maps English texts to Korean ones.

A key may be a template such as "no image {name} in {folder}": `{name}` stands for any text, which the translation
repeats. Errors, help, tables, progress bars and the chat are written in English and translated when they are shown.
Pages look texts up by key; their English texts are in `PACKAGE/NAME.en.json`, and the Korean ones come from `ko.json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError
from vistune.files import read_json
from vistune.registry import guess

LANGUAGES = {"en": "English", "ko": "한국어"}
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
FOLDER = Path(__file__).parent
PAGES = ("report/labels", "report/diagrams", "serving/page/words")  # catalogues by key
FIX = ". Fix: "  # between an error's message and its hint
STRONG, BEGINNING = 7, 3  # letters of a template whose values may be several words: in all, or at its beginning
NUMBERS = {"count": r"[\d.,]+", "time": r"[\d.,]+ ?\w+"}  # placeholders that stand for nothing else
DEPTH = 5  # a text may contain a text that contains a text …


@cache
def korean_texts() -> Mapping[str, str]:
    """Return the catalogue: Korean texts by their English texts."""
    texts: Mapping[str, str] = read_json(FOLDER / "ko.json")
    return texts


@cache
def catalogue(name: str, language: str) -> Mapping[str, Any]:
    """Return the texts of a page by key, such as those of `report/labels`, in a language.

    Raises RecipeError if vistune does not have the language.
    """
    require_language(language)
    texts: Mapping[str, Any] = read_json(FOLDER / f"{name}.en.json")
    return texts if language == "en" else _translated_tree(texts)


def require_language(language: str) -> None:
    """Raise RecipeError if vistune does not have the language."""
    if language not in LANGUAGES:
        raise RecipeError(f"unknown language {language!r}", guess(language, LANGUAGES))


def _translated_tree(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _translated_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_translated_tree(value) for value in tree]
    return korean_texts()[tree]


def in_language(text: str, language: str) -> str:
    """Return a text in a language, with each of its lines translated; a line without translation stays English."""
    if language == "en":
        return text
    if (whole := translate(text)) is not None:
        return whole
    return "\n".join(translate(line) or line for line in text.split("\n"))


@lru_cache(maxsize=4096)  # the parts of a long text come again and again
def translate(text: str, depth: int = DEPTH) -> str | None:
    """Translate a text into Korean; None if neither the text nor its parts are in the catalogue.

    Tried in this order: the exact text; an error's message and hint; the template with the most fixed letters;
    the text after a location ("FILE:3: …"); the parts of a list ("…; …" or "…, …").
    """
    if exact := korean_texts().get(text):
        return exact
    if (bare := text.strip()) != text:
        return None if (inner := translate(bare, depth)) is None else text.replace(bare, inner)
    if not depth or not re.search("[A-Za-z]{2}", text):
        return None
    message, fix, hint = text.partition(FIX)
    if fix and (known := translate(message, depth - 1)):
        return f"{known}{korean_texts()[FIX]}{translate(hint, depth - 1) or hint}"
    for template in _templates():
        if (values := template.match(text)) is not None:
            return template.fill({name: _part(value, depth - 1) for name, value in values.items()})
    for colon in re.finditer(r": ", text):
        if rest := translate(text[colon.end() :], depth - 1):
            return text[: colon.end()] + rest
    for separator in ("; ", ", "):
        if separator in text:
            listed = [translate(part, depth - 1) for part in text.split(separator)]
            if all(listed):
                return separator.join(part or "" for part in listed)
    return None


def _part(value: str, depth: int) -> str:
    """Translate a value of a template. One word is a name of the user's: it stays."""
    return (translate(value, depth) if " " in value.strip() else None) or value


@dataclass(frozen=True, slots=True)
class _Template:
    """A text with placeholders. `pieces`: its own parts, which a text must contain in this order to match."""

    pieces: tuple[str, ...]
    pattern: re.Pattern[str]
    translation: str

    def match(self, text: str) -> dict[str, str] | None:
        if not text.startswith(self.pieces[0]) or not text.endswith(self.pieces[-1]):
            return None
        position = 0
        for piece in self.pieces:  # fast, so that few texts meet the pattern
            if (position := text.find(piece, position)) < 0:
                return None
            position += len(piece)
        values = self.pattern.fullmatch(text)
        return values.groupdict() if values else None

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the translation with these values."""
        return PLACEHOLDER.sub(lambda found: values[found[1]], self.translation)


def _value_pattern(own: Sequence[str], name: str, number: int) -> str:
    """Return what a placeholder stands for. If a template has few fixed letters, its values are single words."""
    if name in NUMBERS:
        return NUMBERS[name]
    letters = [sum(map(str.isalpha, piece)) for piece in own]
    if sum(letters) < STRONG and letters[0] < BEGINNING:
        return r"\S*?"
    return r"(?:(?!: ).)*?" if number == 0 and not own[0] else ".*?"  # a location before the text is not a value


@cache
def _templates() -> tuple[_Template, ...]:
    """Return the templates, those with the most fixed letters first."""
    templates = []
    for key, translation in korean_texts().items():
        names = PLACEHOLDER.findall(key)
        if names:
            own = PLACEHOLDER.split(key)[::2]
            pattern = re.escape(own[0])
            for number, (name, part) in enumerate(zip(names, own[1:], strict=True)):
                value = f"(?P={name})" if name in names[:number] else f"(?P<{name}>{_value_pattern(own, name, number)})"
                pattern += value + re.escape(part)
            templates.append(_Template(tuple(own), re.compile(pattern, re.DOTALL), translation))
    return tuple(sorted(templates, key=lambda template: -sum(map(len, template.pieces))))
