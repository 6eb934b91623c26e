"""A recipe as plain values: keys set from the command line, secrets kept out, complaints told by key path.

mapping of a YAML file + `key.path=value` -> the same mapping with that value in it
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from vistune.errors import RecipeError
from vistune.recipe.strict_yaml import parse_yaml
from vistune.registry import guess


def set_key(tree: dict[str, Any], override: str) -> None:
    """Set `a.b.c` in `tree`; a part that names a list item finds it by its `name`."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"override {override!r} is not key=value", "write for example seed=3")
    here: Any = tree
    keys = path.split(".")
    for depth, key in enumerate(keys[:-1]):
        if isinstance(here, list):
            here = _item(here, key, path)
        else:
            if not isinstance(here.get(key), dict | list):
                here[key] = {}
            here = here[key]
        if not isinstance(here, dict | list):
            raise RecipeError(f"{path}: {'.'.join(keys[: depth + 1])} holds no keys", "shorten the path")
    value = parse_yaml(text, f"override {path}")
    if isinstance(here, list):
        raise RecipeError(f"{path}: names a whole list item", f"go on with one of its keys, {path}.KEY=…")
    here[keys[-1]] = value


def _item(items: list[Any], key: str, path: str) -> Any:
    named = {str(item.get("name", number)): item for number, item in enumerate(items) if isinstance(item, dict)}
    if key not in named:
        raise RecipeError(f"{path}: no item is called {key!r}", guess(key, named))
    return named[key]


def refuse_secrets(tree: Any, path: str) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if re.search(r"api[_-]?key|secret|token$|password", str(key), re.IGNORECASE):
                raise RecipeError(
                    f"{path}.{key}: a secret does not belong in a recipe", "put it in the environment or a key file"
                )
            refuse_secrets(value, f"{path}.{key}")
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            refuse_secrets(value, f"{path}.{number}")
    elif isinstance(tree, str) and re.match(r"(?:sk-|hf_|ghp_)[\w-]{16,}$", tree):
        raise RecipeError(f"{path}: looks like a secret key", "put it in the environment or a key file")


def explain(
    error: ValidationError, tree: Any, place: str, fields_at: Callable[[tuple[int | str, ...]], list[str]]
) -> RecipeError:
    """All complaints of pydantic, each with its key path, what was got and the nearest of the keys known there."""
    lines, hints = [], []
    for complaint in error.errors():
        where = ".".join(_name_items(complaint["loc"], tree)).removesuffix(".[key]")
        if complaint["type"] == "too_short" and complaint["input"]:
            continue  # pydantic counts an item with a complaint of its own as absent
        if complaint["type"] == "extra_forbidden" or complaint["loc"][-1:] == ("[key]",):
            lines.append(f"{place}: unknown key {where!r}")
            *above, key = [part for part in complaint["loc"] if part != "[key]"]
            hints.append(guess(str(key), fields_at(tuple(above))))
        else:
            got = complaint.get("input")
            shown = (
                "" if complaint["type"] in ("missing", "value_error") or isinstance(got, dict) else f" (got {got!r})"
            )
            lines.append(f"{place}: {where or 'recipe'}: {complaint['msg'].removeprefix('Value error, ')}{shown}")
    return RecipeError("; ".join(lines), "; ".join(hints) or "edit the recipe")


def _name_items(loc: tuple[int | str, ...], tree: Any) -> list[str]:
    """List indices as the items' names, as overrides address them."""
    path: list[str] = []
    for key in loc:
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            tree = None
        path.append(
            str(tree["name"]) if isinstance(key, int) and isinstance(tree, dict) and "name" in tree else str(key)
        )
    return path
