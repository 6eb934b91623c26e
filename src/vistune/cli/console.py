"""Options that several commands share, and functions that print: results to stdout, messages and progress to stderr."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.text import Text

from vistune.cli.localized import OwnText, TranslatingConsole, in_users_language
from vistune.cli.log import phrase, print_message
from vistune.cli.progress import progress_bar
from vistune.cli.settings import current_language, is_first_process

__all__ = ["OwnText", "in_users_language", "is_first_process", "print_message", "progress_bar"]

stdout = TranslatingConsole(highlight=False, emoji=False, markup=False)  # ids, paths and answers may contain brackets

RecipeName = Annotated[str, typer.Argument(help="Name of a built-in recipe, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe: key.path=value, for example data=FILE.")
]
# For commands that make their own data, or none.
Changes = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe: key.path=value, for example stages.tune.learn.projector=1e-4."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda. auto = a GPU if there is one.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16. auto = bf16 on a GPU, fp32 on a CPU.")]
Quantize = Annotated[int | None, typer.Option(help="Quantize the weights of the language model to 4 or 8 bits.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]


def print_json(value: object) -> None:
    """Print a value as one indented JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def print_lines(*lines: str | Text) -> None:
    """Print lines on stdout without breaking long ones."""
    for line in lines:
        stdout.print(line, soft_wrap=True)


def say(template: str, **fields: object) -> str:
    """Fill a template of this package in the user's language."""
    return phrase(template, current_language(), **fields)


def count_of(number: int, noun: str) -> str:
    """Format a count with its noun in the user's language: "1 sample", "1,200 samples", "샘플 1,200개"."""
    return say(f"{{count}} {noun}{'' if number == 1 else 's'}", count=f"{number:,}")
