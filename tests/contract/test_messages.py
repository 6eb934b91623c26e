"""Every Korean translation belongs to a text of the program, and every page that a message names exists."""

from __future__ import annotations

import re
from pathlib import Path

from source_messages import source_messages

from vistune.recipe import known_recipes
from vistune.recipe.starting import about_recipe
from vistune.translations import PAGES, PLACEHOLDER, catalogue, korean_texts

ROOT = Path(__file__).parents[2]
BY_LIBRARIES = ("Input should be", "Field required", "Show ", "Install ")  # beginnings of texts of typer and pydantic
RUN = 2  # consecutive words of a text that must be in the source


def page_texts(tree: object) -> set[str]:
    """Return the texts of a catalogue by key."""
    if isinstance(tree, str):
        return {tree}
    values = tree.values() if isinstance(tree, dict) else tree
    assert isinstance(values, list) or isinstance(tree, dict)
    return set().union(*map(page_texts, values))


def is_in_source(text: str, source: str) -> bool:
    """Return whether some neighbouring words of a text are in the source; most texts are put together of several."""
    pieces = [piece.split() for piece in PLACEHOLDER.split(text)[::2]]
    longest = max(pieces, key=len)
    runs = [" ".join(longest[k : k + RUN]) for k in range(max(1, len(longest) - RUN + 1))]
    return any(run in source for run in runs) or all(word.strip("`:") in source for word in longest)


def test_every_korean_text_translates_a_text_of_the_program() -> None:
    source = "\n".join(" ".join(text.split()) for text in source_messages())
    others = set().union(*(page_texts(catalogue(name, "en")) for name in PAGES), map(about_recipe, known_recipes()))
    unused = [
        text
        for text in korean_texts()
        if text not in others and not text.startswith(BY_LIBRARIES) and not is_in_source(text, source)
    ]
    assert not unused, f"remove from src/vistune/ko.json: {unused}"


def test_every_page_that_a_message_names_exists() -> None:
    pages = {page for text in source_messages() for page in re.findall(r"(?<![/\w])docs/[\w./-]+\.md", text)}
    assert sorted(page for page in pages if not (ROOT / page).is_file()) == []
