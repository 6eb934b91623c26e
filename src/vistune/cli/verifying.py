"""The command verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vistune import api
from vistune.cli.console import Device, Json, print_json, print_lines, stdout

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
    table = Table("stage", "result", "detail", title=f"{result.model}: certificate compared with {result.program}")
    for stage in result.stages:
        table.add_row(stage.stage, stage.status, stage.detail)
    stdout.print(table)
    if (weights := result.weights) is not None:
        print_lines(
            f"Weights: {weights.renamed} renamed, {len(weights.missing)} missing and newly initialised, "
            f"{len(weights.unexpected)} not used, {len(weights.mismatched)} of another shape"
        )
        for name in (*weights.missing, *weights.unexpected, *weights.mismatched):
            print_lines(f"  {name}")
    for name, (then, now) in result.versions.items():
        print_lines(f"{name}: {then} when exported, {now} now")
