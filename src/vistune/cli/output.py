"""What verbs print on: results on stdout, for a person or as one JSON document."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

stdout = Console(highlight=False, emoji=False, markup=False)  # ids, paths and answers may hold brackets

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]


def count_of(number: int, noun: str) -> str:
    """ "1 row", "1,200 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
