"""Find things by name: entries of a table, `package.module:attribute`, and a package's lazily imported names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from vistune.errors import RecipeError

T = TypeVar("T")


def guess(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the most similar known one, and all of them."""
    choices = sorted(known)
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{meant}known: {', '.join(choices) or 'none'}"


def lookup(name: str, table: Mapping[str, T], what: str) -> T:
    """Return the entry of `table` with this name, or import `package.module:attribute`.

    Raises RecipeError that lists the known names.
    """
    if name in table:
        return table[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            entry: T = getattr(importlib.import_module(module), attribute)
        # TypeError and ValueError: an empty or relative name
        except (ImportError, SyntaxError, AttributeError, TypeError, ValueError) as error:
            raise RecipeError(
                f"{what} {name!r} cannot be imported: {error}",
                "name it as module:attribute, and put the module's folder on PYTHONPATH",
            ) from error
        return entry
    raise RecipeError(f"unknown {what} {name!r}", guess(name, table))


def lazy_names(package: str, modules: Mapping[str, Iterable[str]]) -> Callable[[str], object]:
    """Return a package's `__getattr__` that imports each public name from its module when it is first used.

    Args:
        package: The package's `__name__`.
        modules: Public names by the module (relative to the package) that defines them.
    """
    where = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{package}.{where[name]}"), name)
        return value

    return __getattr__
