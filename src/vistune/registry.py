"""Look a name up in a room's table: exact, or `package.module:attribute`; a wrong name gets a guess."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from vistune.errors import RecipeError

T = TypeVar("T")


def guess(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, and all of them."""
    choices = sorted(known)
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{meant}known: {', '.join(choices) or 'none'}"


def lookup(name: str, table: Mapping[str, T], what: str) -> T:
    """The entry of `table` called `name`; `package.module:attribute` imports one from outside.

    Raises RecipeError for a name that is neither, listing the known ones.
    """
    if name in table:
        return table[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: an empty or relative name
            raise RecipeError(
                f"{what} {name!r} cannot be imported: {error}", "name an importable module:attribute"
            ) from error
    raise RecipeError(f"unknown {what} {name!r}", guess(name, table))
