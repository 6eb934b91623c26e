"""Write docs/reference/recipe.md from the recipe's own classes; a test compares, so the page cannot drift.

python scripts/write_recipe_docs.py
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "recipe.md"
NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}
INTRO = """\
# Recipe

A recipe is one YAML file that describes a whole training run: the backbones, the data, and a list of stages. The
commands `train`, `plan`, `selftest`, `check --recipe` and `draw` take a recipe. Name a shipped recipe, or your own file
with the ending `.yaml`. This page is generated from the code by `python scripts/write_recipe_docs.py`.

```yaml
seed: 42
model: {vision: clip-folder, language: llm-folder, template: v1, image_mode: pad}
stages:
  - name: align                       # stage 1: train the projector on captions
    template: plain
    data: [{file: captions.json, images: images}]
    learn: {projector: 1e-3}
    epochs: 1
    samples_per_step: 256
  - name: tune                        # stage 2: train projector and adapters on instructions
    data:
      - {file: instructions.json, images: coco/train2017}
      - {file: own.jsonl, weight: 2, take: random 5000}
    lora: {rank: 128, alpha: 256}
    learn: {projector: 2e-5, adapters: 2e-4}
    epochs: 1
```

**Overrides.** `key.path=value` after the recipe's name changes one key. Items of a list are addressed by their `name`:

```bash
vistune train quickstart data=data stages.tune.steps=100 stages.tune.learn.language=1e-4 --out run
```

Values are read as YAML 1.2: `1e-4` is a number. An unknown key is an error that names the nearest known one. The run
folder keeps the resolved recipe as `recipe.yaml`; training with that file repeats the run.
"""


def page() -> str:
    """The page: an introduction, a table for each section of a recipe, and the shipped recipes."""
    from vistune.recipe import Recipe

    parts = [INTRO]
    listed = sections(Recipe)
    for model, key in listed.items():
        title = f"`{key}`" if key else "Top level"
        parts += [f"## {title}\n", one_line(model.__doc__ or "") + "\n", table(model, listed)]
    parts += ["## Shipped recipes\n", shipped()]
    return "\n".join(parts)


def sections(top: type[BaseModel]) -> dict[type[BaseModel], str]:
    """The recipe and every section inside it, each with the key that holds it."""
    found, waiting = {top: ""}, [top]
    for model in waiting:  # grows while it is read
        for name, field in model.model_fields.items():
            for inner in models_in(field.annotation):
                if inner not in found:
                    found[inner] = field.alias or name
                    waiting.append(inner)
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def table(model: type[BaseModel], listed: Mapping[type[BaseModel], str]) -> str:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no description"
        kind = type_of(field.annotation, listed)
        bounds = ", ".join(bounds_of(field.metadata))
        cells = [f"`{field.alias or name}`", kind + (f" {bounds}" if bounds else ""), default_of(field)]
        lines.append("| " + " | ".join([*cells, field.description]) + " |")
    return "\n".join(lines) + "\n"


def type_of(annotation: Any, listed: Mapping[type[BaseModel], str]) -> str:
    """The type in a reader's words; a section links to its table."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = ", ".join(bounds_of(inner[1:]))
        return type_of(inner[0], listed) + (f" {bounds}" if bounds else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(type_of(part, listed) for part in inner if part is not type(None))
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list of {type_of(inner[0], listed)}"
        return f"{len(inner)} values: {type_of(inner[0], listed)}"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping: {type_of(inner[0], listed)} to {type_of(inner[1], listed)}"
    return NAMES.get(annotation) or f"[{listed[annotation]}](#{listed[annotation]})"


def bounds_of(metadata: Any) -> list[str]:
    """`≥ 1` and the like, from the constraints of a field or of an annotated type."""
    found = []
    for constraint in metadata:
        if isinstance(constraint, FieldInfo):
            found += bounds_of(constraint.metadata)
        for name, text in BOUNDS.items():
            if (value := getattr(constraint, name, None)) is not None:
                found.append(text.format(value))
    return found


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None or field.default == {} or isinstance(field.default, BaseModel):
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def shipped() -> str:
    """A line for each recipe of the package: its name and the comment at the top of its file."""
    from vistune.recipe import known_recipes
    from vistune.recipe.starting import about_recipe

    lines = ["| recipe | what it is |", "| --- | --- |"]
    lines += [f"| `{name}` | {about_recipe(name)} |" for name in known_recipes()]
    return "\n".join(lines) + "\n"


def one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
