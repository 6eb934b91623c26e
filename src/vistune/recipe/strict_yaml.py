"""Parse YAML strictly: YAML 1.2 scalars, no tags, no aliases, no repeated key.

text -> plain values (`1e-4` is a number, `no` is a string); anything else is a RecipeError that names the line.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from vistune.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: only true/false are booleans, `1e-4` is a number; a repeated key is an error."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag
        not in (
            "tag:yaml.org,2002:bool",
            "tag:yaml.org,2002:float",
            "tag:yaml.org,2002:int",
            "tag:yaml.org,2002:timestamp",
        )
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|nan)$"),
    list("-+.0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key_node.start_mark)
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
# PyYAML reads 010 as an octal number, YAML 1.2 as ten and 0o10 as eight.
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(node.value, {"0o": 8, "0x": 16}.get(node.value[:2], 10)),
)


def parse_yaml(text: str, place: str) -> Any:
    """Safe YAML: no tags, no aliases (a recipe needs none, and nested ones grow without bound)."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise RecipeError(f"{place}: YAML aliases (*name) are not read", "write the value out")
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{place}{line}: not YAML: {getattr(error, 'problem', error)}", "mend the line") from None
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML's own constructors, on a tag that does not fit its value, a number of thousands of digits, or brackets
        # without end.
        raise RecipeError(f"{place}: not YAML that a recipe holds: {str(error)[:80]}", "write plain values") from None
