"""Recipes: one frozen, validated description of a run, read from YAML with dotted overrides."""

from vistune.recipe.reading import dump, known_recipes, load_recipe, source_of, validate, with_overrides
from vistune.recipe.schema import (
    TOWERS,
    DataSource,
    Lora,
    Model,
    Origin,
    Preference,
    Recipe,
    Shards,
    Stage,
    Take,
    Validation,
)

__all__ = [
    "TOWERS",
    "DataSource",
    "Lora",
    "Model",
    "Origin",
    "Preference",
    "Recipe",
    "Shards",
    "Stage",
    "Take",
    "Validation",
    "dump",
    "known_recipes",
    "load_recipe",
    "source_of",
    "validate",
    "with_overrides",
]
