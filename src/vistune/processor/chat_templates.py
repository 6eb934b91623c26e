"""Our templates as Jinja chat templates with `{% generation %}`: what an export writes into chat_template.jinja.

name, tokenization -> Jinja source that renders what `Template.render` renders
Each style's source lies in chat_templates/; parts.jinja, which all share, renders content given as a string or as
parts, a picture as `<image>`. The rendered string is meant to be tokenised whole and without further special tokens,
as transformers does, where `<image>` is a special token. It then has the ids that our renderer gives; the one
difference is that text which spells a special token becomes that token there, as with any chat template.
A tokenizer's own template may know strings only, as a language model's does: strings.jinja is put before it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib import resources
from typing import Any

from vistune.processor.templates import templates
from vistune.registry import lookup

SOURCES = {
    "plain": "plain",
    "v0": "v0",
    "v1": "v1",
    "llama_2": "llama_2",
    "llava_llama_2": "llama_2",
    "mistral": "llama_2",
    "chatml": "chatml",
    "llama_3": "llama_3",
}


def chat_template(name: str, *, tokenization: str, begin: str = "<s>", spaced: bool = True, hides: bool = True) -> str:
    """The Jinja source of the template called `name`; `Processor.chat_template` fits it to its own tokenizer.

    `begin`: the tokens that the tokenizer puts before a text by itself. `spaced`: it also puts a space before it, as
    SentencePiece does; the space is then written out where our renderer begins a string and a whole string goes on:
    behind `begin`, and in the tokenization "chunks" behind each picture. `hides`: it takes a space that begins a string
    for its own; in the tokenization "chunks" one more is then written. The defaults are the Llama tokenizer's.
    Raises RecipeError for an unknown name.
    """
    body = lookup(name, SOURCES, "chat template")
    values = {
        "begin": begin,
        "lead": " " if begin and spaced else "",
        "picture": "<image>",
        "gap": " " if spaced and tokenization == "chunks" else "",
        "again": " " if hides and tokenization == "chunks" else "",
        "system": templates()[name].system,
    }
    return _with_values(values, "parts", body)


def taking_parts(source: str, strings: Collection[str]) -> str:
    """A chat template that takes strings of these roles, for whoever gives content in parts: text and pictures."""
    return _with_values({"picture": "<image>", "strings": sorted(strings)}, "strings") + source


def _with_values(values: Mapping[str, Any], *parts: str) -> str:
    header = "".join(
        f"{{%- set {key} = {json.dumps(value, ensure_ascii=False)} -%}}\n" for key, value in values.items()
    )
    folder = resources.files("vistune.processor") / "chat_templates"
    return header + "".join((folder / f"{part}.jinja").read_text(encoding="utf-8") for part in parts)
