"""Start a recipe from a shipped one: list them, and copy one with comments and filled-in values.

shipped YAML + data and models -> YAML with a comment at each key, which reads back as the same recipe
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from vistune.errors import DataError, RecipeError
from vistune.files import parse_yaml, read_text
from vistune.recipe.reading import SHIPPED, known_recipes, validate
from vistune.recipe.schema import Model, Recipe, Stage, Strict
from vistune.registry import guess

KEY = re.compile(r"(?P<indent> *)(?P<item>- )?(?P<key>\w+):(?P<value> .*)?$")
SECTIONS: Mapping[str, type[Strict]] = {"model": Model, "stages": Stage}
WIDTH = 100  # of a line


@dataclass(frozen=True, slots=True)
class StartingValues:
    """The values to fill into a copy of a recipe.

    Attributes:
        data: Data files, in place of those of the stages.
        images: Image folder of the data.
        vision: Folder or hub name of the vision tower.
        language: Folder or hub name of the language model.
        start_from: Model to start from, for a recipe with `from`.
    """

    data: Sequence[Path] = ()
    images: Path | None = None
    vision: str | None = None
    language: str | None = None
    start_from: str | None = None


def shipped_text(name: str) -> str:
    """Return the YAML of a shipped recipe. Raises RecipeError for another name."""
    if name not in known_recipes():
        raise RecipeError(f"unknown recipe {name!r}", guess(name, known_recipes()))
    return read_text(SHIPPED / f"{name}.yaml")


def about_recipe(name: str) -> str:
    """Return the first sentence of the comment at the top of a shipped recipe."""
    comment = []
    for line in shipped_text(name).splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return re.split(r"(?<=\.) |(?<=\.)$", " ".join(comment))[0]


def start_recipe(name: str, values: StartingValues) -> str:
    """Return the YAML of a shipped recipe with the values filled in, and a comment at the first use of each key.

    Raises RecipeError for a value that the recipe cannot have, and DataError for a file that is not there.
    """
    text = shipped_text(name)
    tree = parse_yaml(text, name)
    assert isinstance(tree, dict)
    _refuse(name, tree, values)
    for key, value in (("vision", values.vision), ("language", values.language)):
        if value is not None:
            text = _with_value(text, "model", key, value)
            tree["model"][key] = value
    if values.start_from is not None:
        text = _with_value(text, "from", "model", values.start_from)
        tree["from"]["model"] = values.start_from
    if values.data:
        images = {} if values.images is None else {"images": str(values.images)}
        tree["data"] = [{"file": str(path), **images} for path in values.data]
        text = _with_data(text, tree["data"])
        for stage in tree["stages"]:
            stage.pop("data", None)
    filled = "\n".join(_commented(text.splitlines())) + "\n"
    if validate(parse_yaml(filled, name), name) != validate(tree, name):
        raise RecipeError(f"{name}: cannot be filled in", f"copy it: vistune recipes {name}")
    return filled


def _refuse(name: str, tree: Mapping[str, object], values: StartingValues) -> None:
    if values.images is not None and not values.data:
        raise RecipeError("--images needs --data", "add --data FILE, or remove --images")
    for path in (*values.data, *([values.images] if values.images is not None else [])):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder", "check the path")
    if "from" in tree and (values.vision or values.language):
        raise RecipeError(f"{name} starts from a model with its own backbones", "use --from to name another model")
    if "from" not in tree and values.start_from:
        raise RecipeError(
            f"{name} starts from backbones, not from a model", "use --vision and --language-model, or another recipe"
        )


def _with_value(text: str, section: str, key: str, value: str) -> str:
    """Replace the first `key` behind the line of a section, and drop the comment, which is about the old value."""
    start = re.search(rf"^{section}:", text, flags=re.MULTILINE)
    assert start is not None
    quoted = _flow(value)
    pattern = re.compile(rf"(\b{key}: )(\[[^\]]*\]|[^\s,}}#]+)([^#\n]*?)( *#[^\n]*)?$", re.MULTILINE)
    before, section_text = text[: start.start()], text[start.start() :]
    return before + pattern.sub(lambda match: match[1] + quoted + match[3], section_text, count=1)


def _with_data(text: str, data: Sequence[Mapping[str, str]]) -> str:
    """Remove the stages' `data`, and list the files once, for all stages."""
    text = re.sub(r"^ +data: \[.*\]\n", "", text, flags=re.MULTILINE)
    lines = "".join(f"  - {_flow(dict(source))}\n" for source in data)
    return re.sub(r"^stages:", lambda match: f"data:\n{lines}{match[0]}", text, count=1, flags=re.MULTILINE)


def _flow(value: object) -> str:
    """Return a value as YAML on one line."""
    listed = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, sort_keys=False, width=10_000)
    return listed.strip()[1:-1]


def _commented(lines: Sequence[str]) -> Iterator[str]:
    """Put the first sentence of a key's description above its first use."""
    section: type[Strict] = Recipe
    explained: set[tuple[type[Strict], str]] = set()
    for line in lines:
        match = KEY.match(line)
        if match is None:
            yield line
            continue
        if not match["indent"] and not match["item"]:
            section = SECTIONS.get(match["key"], Recipe)
        owner = section if match["indent"] else Recipe
        if (about := _about(owner, match["key"])) and (owner, match["key"]) not in explained:
            explained.add((owner, match["key"]))
            yield from _comment(about, match["indent"])
        yield line


def _about(owner: type[Strict], key: str) -> str:
    fields = {field.alias or name: field for name, field in owner.model_fields.items()}
    description = (fields[key].description or "") if key in fields else ""
    description = re.sub(r" ?\(\[[^\]]+\]\([^)]*\)\)", "", description)  # links of the reference page
    description = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", description)
    return re.split(r"(?<=\.)\s", description)[0]


def _comment(text: str, indent: str) -> Iterator[str]:
    line = f"{indent}#"
    for word in text.split():
        if len(line) + 1 + len(word) > WIDTH and line.strip() != "#":
            yield line
            line = f"{indent}#"
        line += f" {word}"
    yield line
