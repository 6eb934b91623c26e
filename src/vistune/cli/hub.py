"""The command that uploads a model to a hub: push."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from vistune import api
from vistune.cli.console import Json, OwnText, print_json, print_lines, say, stdout
from vistune.cli.model import AnyModel


def push(
    model: AnyModel,
    repo: Annotated[str, typer.Argument(help="Repository on the hub: OWNER/NAME.")],
    layout: Annotated[
        str | None,
        typer.Option(
            help="Layout in which a run is exported before the upload: llava-hf or llava-original. Default: llava-hf."
        ),
    ] = None,
    merge: Annotated[bool, typer.Option(help="Merge LoRA adapters into the weights.")] = False,
    license_name: Annotated[
        str | None, typer.Option("--license", help="Licence of the model by its name on the hub, such as apache-2.0.")
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option(
            "--result",
            help="Evaluation of the run for the hub's leaderboards: EVALUATION=OWNER/DATASET[:TASK][@METRIC]. Can be "
            "given several times.",
        ),
    ] = None,
    private: Annotated[bool, typer.Option(help="Create the repository as private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to upload to.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files, and upload nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a model to the Hugging Face Hub.

    A run is exported first. The model card is made from its recipe, data and evaluations. Pickles are refused.
    """
    result = api.push(
        model, repo, layout=layout, merge=merge, license_name=license_name, results=tuple(results or ()),
        private=private, revision=revision, dry_run=dry_run,
    )  # fmt: skip
    if as_json:
        print_json(result.to_dict())
        return
    title = say("{repo}: files to upload", repo=repo) if dry_run else say("{repo}: uploaded files", repo=repo)
    table = Table(say("file"), say("bytes"), title=title)
    for name, size in result.files.items():
        table.add_row(OwnText(name), f"{size:,}")
    stdout.print(table)
    if result.skipped:
        print_lines(say("Not uploaded: {names}", names=", ".join(result.skipped)))
    print_lines(OwnText(result.card) if result.url is None else say("Uploaded: {url}", url=result.url))
