"""Options that several verbs share, and the refusal of options that have no effect."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import typer

from vistune.errors import RecipeError

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe: key.path=value, for example data=FILE.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda. auto = a GPU if there is one.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16. auto = bf16 on a GPU, fp32 on a CPU.")]
Quantize = Annotated[int | None, typer.Option(help="Quantize the weights of the language model to 4 or 8 bits.")]

_GIVEN: ContextVar[Mapping[str, str]] = ContextVar("given", default={})  # noqa: B039 - never changed


@contextmanager
def remember_given(context: Any) -> Iterator[None]:
    """Make known to `refuse_given`, inside the block, which options were written on the command line."""
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name).name == "COMMANDLINE"
    }
    token = _GIVEN.set(given)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def refuse_given(names: Collection[str], why: str, hint: str) -> None:
    """Raise RecipeError if any of these parameters was written on the command line.

    Args:
        names: Parameters of the command's function, such as `api_key_file`.
        why: Why they have no effect here, such as "for a judge, and none is asked".
    """
    if options := [option for name, option in _GIVEN.get().items() if name in names]:
        verb = "is" if len(options) == 1 else "are"
        raise RecipeError(f"{', '.join(options)} {verb} {why}", hint)
