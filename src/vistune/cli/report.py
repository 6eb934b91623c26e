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
            help="A run or several, the --out of a comparison, a folder that generate wrote, or any file of samples."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Data, or several runs: the page's file; else beside the first of them.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Data: the folder its pictures lie in.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Data: an evaluation set (a folder of pictures, or its files) whose pictures are looked for."
        ),
    ] = None,
    language: Annotated[str | None, typer.Option("--lang", help="en or ko; else the locale's.")] = None,
) -> None:
    """Write a page that opens offline: what a run learnt, how runs or models compare, or what a data set holds."""
    language = language or spoken()
    page = api.write_report(
        *paths, out=out, images=images, against=against or (), language=language, progress=progress_bar
    )
    stdout.print(str(page), soft_wrap=True)
    from vistune.report.plots import missing_font

    if "<svg" in page.read_text(encoding="utf-8") and (missing := missing_font(language)) is not None:
        print_message(missing)
