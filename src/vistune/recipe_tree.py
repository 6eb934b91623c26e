"""A recipe as plain values, before it is checked: keys set from the command line, secrets kept out.

mapping of a YAML file + `key.path=value` -> the same mapping with that value in it
"""

from __future__ import annotations

import re
from typing import Any

from vistune.errors import RecipeError
from vistune.registry import guess
from vistune.strict_yaml import parse_yaml


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
