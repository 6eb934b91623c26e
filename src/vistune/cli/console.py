"""Options that several commands share, and functions that print: results to stdout, messages and progress to stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer
from rich.text import Text

from vistune.cli.localized import OwnText, TranslatingConsole, in_users_language
from vistune.cli.log import print_message, stderr
from vistune.cli.progress import progress_bar

__all__ = ["OwnText", "in_users_language", "print_message", "progress_bar", "stderr"]

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


def count_of(number: int, noun: str) -> str:
    """Format a count with its noun: "1 row", "1,200 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_first_process() -> bool:
    """Return whether this is the only process or the first of torchrun's, which prints the results."""
    return os.environ.get("RANK", "0") == "0"
