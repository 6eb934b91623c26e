"""A console that shows texts and tables in the user's language."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vistune.cli.settings import current_language
from vistune.translations import in_language


class OwnText(Text):
    """A text of the user's, such as a sample or the name of a model. It is printed as it is."""


class TranslatingConsole(Console):
    """A console that shows texts, and the texts of tables, in the user's language."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(localized, objects), **options)


def localized(shown: Any) -> Any:
    """Return a text or a table in the user's language; a text of the user's and other objects are unchanged."""
    if current_language() == "en" or isinstance(shown, OwnText):
        return shown
    if isinstance(shown, str):
        return in_users_language(shown)
    if isinstance(shown, Text):
        text = in_users_language(shown.plain)
        return shown if text == shown.plain else Text(text)
    if isinstance(shown, Table):
        shown.title = localized(shown.title)
        for column in shown.columns:
            column.header = localized(column.header)
            column._cells = [localized(cell) for cell in column._cells]
    return shown


def in_users_language(text: str) -> str:
    """Translate a text; its lines that have no translation stay English."""
    return in_language(text, current_language())
