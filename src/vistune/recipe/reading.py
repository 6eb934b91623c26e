"""Read a recipe: strict YAML, dotted overrides, and errors by key path.

recipe name or file + ["stages.tune.learn.language=1e-4", …] -> Recipe, complete and checked; `dump` writes it again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError

from vistune.errors import RecipeError
from vistune.files import JsonValue, parse_yaml, read_text
from vistune.recipe.schema import (
    DataSource,
    Lora,
    Model,
    Origin,
    Recipe,
    Shards,
    Stage,
    Strict,
    Take,
    Validation,
)
from vistune.registry import guess

SHIPPED = Path(__file__).parent / "shipped"
SECTIONS: dict[str, type[Strict]] = {
    "model": Model, "stages": Stage, "lora": Lora, "data": DataSource, "take": Take, "shards": Shards,
    "from": Origin, "validation": Validation,
}  # fmt: skip
# Keys of other tools, and ours for the same thing.
OTHER_NAMES = {
    "lr": "learn",
    "learning_rate": "learn",
    "batch_size": "samples_per_step",
    "max_length": "tokens_per_row",
}


def source_of(name: str, part: str) -> str:
    """Return the folder or hub name of a backbone; `builtin` is the package's own tiny one."""
    folder = resources.files("vistune.scenes") / "backbones" / ("language" if part == "language" else "vision")
    return str(folder) if name == "builtin" else name


def known_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its shipped name or from a file, apply `key.path=value` overrides, and check it.

    Raises RecipeError that names the key path, the value and what is allowed.
    """
    path = Path(name)
    source = str(path)
    if path.suffix not in (".yaml", ".yml"):
        if name not in known_recipes():
            raise RecipeError(f"unknown recipe {name!r}", f"{guess(name, known_recipes())}; or give a .yaml file")
        path = SHIPPED / f"{name}.yaml"
    tree = parse_yaml(read_text(path), source)
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{source}: a recipe is a mapping of keys, got {type(tree).__name__}", "start from a shipped recipe"
        )
    for override in overrides:
        set_key(tree, override)
    return validate(tree, source)


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a checked copy of a recipe with `key.path=value` overrides."""
    tree = parse_yaml(dump(recipe), recipe.name)
    assert isinstance(tree, dict)
    for override in overrides:
        set_key(tree, override)
    return validate(tree, recipe.name)


def validate(tree: JsonValue, source: str) -> Recipe:
    """Check a recipe's plain values. `source` names the recipe in errors."""
    refuse_secrets(tree, source)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, source) from None


def dump(recipe: Recipe) -> str:
    """Return the recipe as YAML that `load_recipe` reads back as an equal recipe."""
    tree = recipe.model_dump(mode="json", exclude_none=True, by_alias=True)
    if recipe.origin is not None:
        del tree["model"]  # `from` names it
    for stage in tree["stages"]:
        if "tokens_per_step" in stage:
            del stage["samples_per_step"]  # an unused default that excludes the other key
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def set_key(tree: dict[str, JsonValue], override: str) -> None:
    """Set `a.b.c` in `tree`; list items are found by their `name`."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"override {override!r} is not key=value", "write for example seed=3")
    parent: JsonValue = tree
    keys = path.split(".")
    for depth, key in enumerate(keys[:-1]):
        if isinstance(parent, list):
            named = {str(item.get("name", k)): item for k, item in enumerate(parent) if isinstance(item, dict)}
            if key not in named:
                raise RecipeError(f"{path}: no item has the name {key!r}", guess(key, named))
            parent = named[key]
        else:
            if not isinstance(parent.get(key), dict | list):
                parent[key] = {}
            parent = parent[key]
        if not isinstance(parent, dict | list):
            raise RecipeError(f"{path}: {'.'.join(keys[: depth + 1])} has no keys", "shorten the path")
    value = parse_yaml(text, f"override {path}")
    if isinstance(parent, list):
        raise RecipeError(f"{path}: names a complete list item", f"add one of its keys: {path}.KEY=…")
    parent[keys[-1]] = value


def refuse_secrets(tree: object, path: str) -> None:
    """Raise RecipeError if a recipe has a key or a value that looks like a secret."""
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


def explain(error: ValidationError, tree: JsonValue, name: str) -> RecipeError:
    """Turn pydantic's errors into one RecipeError, each with its key path, the value, and the most similar key."""
    lines, hints = [], []
    for problem in error.errors():
        where = ".".join(_name_items(problem["loc"], tree)).removesuffix(".[key]")
        if problem["type"] == "too_short" and problem["input"]:
            continue  # pydantic counts an item that has an error as absent
        if problem["type"] == "extra_forbidden" or problem["loc"][-1:] == ("[key]",):
            lines.append(f"{name}: unknown key {where!r}")
            *above, key = [part for part in problem["loc"] if part != "[key]"]
            hints.append(_hint(str(key), _fields_at(above)))
        else:
            got = problem.get("input")
            shown = "" if problem["type"] in ("missing", "value_error") or isinstance(got, dict) else f" (got {got!r})"
            lines.append(f"{name}: {where or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}{shown}")
    return RecipeError("; ".join(lines), "; ".join(hints) or "edit the recipe")


def _hint(key: str, known: Sequence[str]) -> str:
    """Return a hint for an unknown key: the key that means the same, else the most similar one."""
    same = OTHER_NAMES.get(key)
    if same in known:
        return f"did you mean {same!r}? known: {', '.join(sorted(known))}"
    return guess(key, known)


def _name_items(loc: Sequence[int | str], tree: JsonValue) -> list[str]:
    """Replace list indices by the items' names, as overrides address them."""
    path: list[str] = []
    for key in loc:
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            tree = None
        is_named = isinstance(key, int) and isinstance(tree, dict) and "name" in tree
        path.append(str(tree["name"] if is_named else key))
    return path


def _fields_at(loc: Sequence[int | str]) -> list[str]:
    """Return the keys that a recipe may have at a location."""
    if "learn" in loc:
        return ["vision", "projector", "language", "adapters"]
    sections = [SECTIONS[key] for key in loc if isinstance(key, str) and key in SECTIONS]
    return list((sections[-1] if sections else Recipe).model_fields)
