"""Edit and check a recipe as plain values: overrides, secrets, and validation errors by key path.

mapping of a YAML file + `key.path=value` -> the same mapping with that value
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
    """Set `a.b.c` in `tree`; list items are found by their `name`."""
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
            raise RecipeError(f"{path}: {'.'.join(keys[: depth + 1])} has no keys", "shorten the path")
    value = parse_yaml(text, f"override {path}")
    if isinstance(here, list):
        raise RecipeError(f"{path}: names a complete list item", f"add one of its keys: {path}.KEY=…")
    here[keys[-1]] = value


def _item(items: list[Any], key: str, path: str) -> Any:
    named = {str(item.get("name", number)): item for number, item in enumerate(items) if isinstance(item, dict)}
    if key not in named:
        raise RecipeError(f"{path}: no item has the name {key!r}", guess(key, named))
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
    error: ValidationError, tree: Any, name: str, fields_at: Callable[[tuple[int | str, ...]], list[str]]
) -> RecipeError:
    """Turn pydantic's errors into one RecipeError, each with its key path, the value, and the most similar key."""
    lines, hints = [], []
    for problem in error.errors():
        where = ".".join(_name_items(problem["loc"], tree)).removesuffix(".[key]")
        if problem["type"] == "too_short" and problem["input"]:
            continue  # pydantic counts an item that has an error as absent
        if problem["type"] == "extra_forbidden" or problem["loc"][-1:] == ("[key]",):
            lines.append(f"{name}: unknown key {where!r}")
            *above, key = [part for part in problem["loc"] if part != "[key]"]
            hints.append(guess(str(key), fields_at(tuple(above))))
        else:
            got = problem.get("input")
            shown = "" if problem["type"] in ("missing", "value_error") or isinstance(got, dict) else f" (got {got!r})"
            lines.append(f"{name}: {where or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}{shown}")
    return RecipeError("; ".join(lines), "; ".join(hints) or "edit the recipe")


def _name_items(loc: tuple[int | str, ...], tree: Any) -> list[str]:
    """Replace list indices by the items' names, as overrides address them."""
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
