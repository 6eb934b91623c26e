"""The verb `report`: a page of a run, of several, or of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistune import api
from vistune.cli.console import print_message, progress_bar
from vistune.cli.help import spoken
from vistune.cli.output import stdout


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="One or more run folders, the --out folder of a comparison, a folder written by generate, or a "
            "data file."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Data or several runs: file to write. Default: next to the data, or in the first run."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Data: image folder.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Data: evaluation set (image folder or files) to search for the same images. Can be repeated."
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option("--lang", help="Language of the page: en or ko. Default: from the locale.")
    ] = None,
) -> None:
    """Write an offline HTML page about a run, a comparison of runs or models, or a data set."""
    language = language or spoken()
    page = api.write_report(
        *paths, out=out, images=images, against=against or (), language=language, progress=progress_bar
    )
    stdout.print(str(page), soft_wrap=True)
    from vistune.report.plots import missing_font

    if "<svg" in page.read_text(encoding="utf-8") and (missing := missing_font(language)) is not None:
        print_message(missing)
