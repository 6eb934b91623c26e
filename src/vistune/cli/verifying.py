"""The command verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vistune import api
from vistune.cli.console import Device, Json, in_users_language, print_json, print_lines, say, stdout

if TYPE_CHECKING:
    from vistune.interop.verify import VerifyResult


def verify(
    model: Annotated[Path, typer.Argument(help="Folder that export wrote, with its certificate.json.")],
    program: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="transformers, llama.cpp, or the URL of an OpenAI-compatible server. Default: this vistune.",
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check that an export computes the same in another program.

    Runs the certificate that export wrote, and names the first stage that differs: template, tokenizer, resize, tower,
    projector, language model or sampler. Without --with, checks an older export with the libraries of today.
    """
    result = api.verify(model, program, device=device)
    if as_json:
        print_json(result.to_dict())
    else:
        print_result(result)
    result.require_equal()


def print_result(result: VerifyResult) -> None:
    """Print the stages as a table, then weights and versions."""
    title = say("{model}: certificate compared with {program}", model=result.model, program=result.program)
    table = Table(say("stage"), say("result"), say("detail"), title=title)
    for stage in result.stages:
        table.add_row(say(stage.stage), say(stage.status), in_users_language(stage.detail))
    stdout.print(table)
    if (weights := result.weights) is not None:
        counts = say(
            "Weights: {renamed} renamed, {missing} missing and newly initialised, {unused} not used, {mismatched} of "
            "another shape",
            renamed=weights.renamed, missing=len(weights.missing), unused=len(weights.unexpected),
            mismatched=len(weights.mismatched),
        )  # fmt: skip
        print_lines(counts)
        for name in (*weights.missing, *weights.unexpected, *weights.mismatched):
            print_lines(f"  {name}")
    for name, (then, now) in result.versions.items():
        print_lines(say("{name}: {then} when exported, {now} now", name=name, then=then, now=say(now)))
