"""The commands about recipes: recipes and init."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from vistune import __version__
from vistune.cli.console import Json, print_json, print_lines, stdout
from vistune.cli.help import MAX_WIDTH, table
from vistune.cli.log import phrase
from vistune.cli.settings import current_language
from vistune.errors import RecipeError
from vistune.files import write_atomic
from vistune.recipe import known_recipes
from vistune.recipe.starting import StartingValues, about_recipe, shipped_text, start_recipe
from vistune.translations import in_language

Shipped = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a built-in recipe.", autocompletion=known_recipes)
]


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Print this recipe as YAML.", autocompletion=known_recipes, show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the built-in recipes, or print one."""
    if name is not None:
        text = shipped_text(name)
        print_json({"name": name, "about": about_recipe(name), "yaml": text}) if as_json else print_lines(text.rstrip())
        return
    listed = {each: about_recipe(each) for each in known_recipes()}
    if as_json:
        print_json([{"name": each, "about": about} for each, about in listed.items()])
        return
    rows = [(each, in_language(about, current_language())) for each, about in listed.items()]
    print_lines(*table(rows, max(min(stdout.width, MAX_WIDTH), 40)))


def init(
    recipe: Shipped = "smol",
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("recipe.yaml"),
    data: Annotated[
        list[Path] | None, typer.Option(help="Data file, or folder written by generate. Can be repeated.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder of the data.")] = None,
    vision: Annotated[str | None, typer.Option(help="Folder or hub name of the vision tower.")] = None,
    language_model: Annotated[str | None, typer.Option(help="Folder or hub name of the language model.")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Model to start from, for recipes that train a model further.")
    ] = None,
) -> None:
    """Write a copy of a built-in recipe to edit. Each key has a comment, and your data and models are filled in."""
    if out.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"--out {out}: a recipe is a YAML file", "give it a name with the ending .yaml")
    if out.exists():
        raise RecipeError(f"{out}: already exists", "give another file with --out")
    values = StartingValues(
        data=tuple(data or ()), images=images, vision=vision, language=language_model, start_from=start_from
    )
    text = start_recipe(recipe, values)
    language = current_language()
    head = phrase("Copied from the recipe {name} of vistune {version}.", language, name=recipe, version=__version__)
    keys = phrase("All keys: docs/reference/recipe.md", language)
    write_atomic(out, f"# {head}\n# {keys}\n{text}")
    own_data = "" if re.search(r"^ *(- )?data:", text, flags=re.MULTILINE) else " data=FILE"
    print_lines(
        phrase("{out}: a copy of the recipe {name}. Next:", language, out=out, name=recipe),
        f"  vistune plan {out}{own_data}",
        f"  vistune train {out}{own_data} --out runs/{out.stem}",
    )
