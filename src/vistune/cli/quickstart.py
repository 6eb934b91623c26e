"""The command quickstart: all steps in a row, and their results as tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vistune.cli.commands import current_language, refuse_given
from vistune.cli.console import Changes, print_lines, progress_bar, say, stdout
from vistune.cli.progress import duration
from vistune.files import read_jsonl
from vistune.records import folders_next_to

if TYPE_CHECKING:
    from vistune._quickstart import QuickstartSummary

PHOTOGRAPH_OPTIONS = ("split", "recipe", "vision", "language", "languages", "labels")  # parameters of `quickstart`


def quickstart(
    overrides: Changes = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/quickstart"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder or table of your annotated photographs, in any form that generate reads. Default: built-in "
            "scenes."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="With --data: split of the source, for example train.")] = None,
    recipe: Annotated[str, typer.Option(help="With --data: a recipe such as smol-ko, or a YAML file.")] = "smol",
    vision: Annotated[str | None, typer.Option(help="With --data: folder or hub name of the vision tower.")] = None,
    language: Annotated[
        str | None,
        typer.Option("--language-model", "--language", help="With --data: folder or hub name of the language model."),
    ] = None,
    languages: Annotated[
        str, typer.Option(help="With --data: languages of the generated data, separated by commas.")
    ] = "en,ko",
    labels: Annotated[
        Path | None, typer.Option(help="With --data: file with words for labels that are not in the lexicon.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Run all steps on built-in scenes (offline) or your photographs.

    Draws the scenes or reads the photographs. Then generates and checks data, trains, evaluates and writes a report.
    """
    from vistune._quickstart import Photographs, quickstart

    photographs = None
    if data is None:
        refuse_given(PHOTOGRAPH_OPTIONS, "only used with --data", "add --data FOLDER, or remove the option")
    else:
        named = tuple(name.strip() for name in languages.split(","))
        photographs = Photographs(data, split, recipe, vision, language, languages=named, labels=labels)
    summary = quickstart(
        out,
        photographs=photographs,
        overrides=[f"seed={seed}", *(overrides or [])],
        language=current_language(),
        progress=progress_bar,
    )
    stdout.print(summary_table(summary))
    stdout.print(type_table(summary))
    gap = summary.gap
    gain = (
        "Accuracy gain from seeing the image: {points} points, measured only on the questions that were asked both "
        "with and without the image ({interval})."
    )
    stdout.print(say(gain, points=f"{100 * gap.difference.value:.1f}", interval=gap.words))
    durations = [f"{step} {duration(seconds, current_language())}" for step, seconds in summary.seconds.items()]
    stdout.print(" · ".join([*durations, say("peak memory {size} MB", size=summary.peak_memory_mb)]))
    print_lines(say("Report: {page}", page=out / "report.html"))
    print_lines(f"{say('Chat with it:')} vistune chat {out} --image {_held_out_image(out)}")
    if photographs is None:
        print_lines(say("This model only knows drawn scenes. For your photographs:"))
        print_lines("  vistune quickstart --data FOLDER --out runs/photographs")


def _held_out_image(run: Path) -> Path:
    """Return an image that a quickstart did not train on."""
    questions = run / "data" / "questions.jsonl"
    if questions.is_file():
        [(_, first), *_] = read_jsonl(questions)
        named = (folder / first["image"] for folder in folders_next_to(questions))
        return next(Path(os.path.normpath(path)) for path in named if path.is_file())
    return next(iter(sorted((run / "world" / "heldout").glob("*.jpg"))))


def summary_table(summary: QuickstartSummary) -> Table:
    """Return the accuracies of a quickstart as a table."""
    rows = {
        "majority": say("always the most frequent answer"),
        "align": say("after stage 1 (projector aligned)"),
        "tune": say("after stage 2 (tuned on instructions)"),
        "without_image": say("stage 2, without the image"),
        "wrong_image": say("stage 2, with a wrong image"),
        "heldout_combinations": say("stage 2, unseen colour-shape pairs"),
    }
    drawn = summary.descriptions is not None
    head = say("held-out scenes, exact match") if drawn else say("held-out photographs, exact match")
    table = Table(head, say("accuracy"), say("95 % interval"), title=say("Accuracy"))
    for key, label in rows.items():
        if key in summary.accuracy:
            interval = summary.intervals.get(key)
            shown = f"{100 * interval.low:.1f} – {100 * interval.high:.1f}" if interval else ""
            table.add_row(label, f"{100 * summary.accuracy[key]:.1f} %", shown)
    if summary.descriptions is not None:
        objects = f"{summary.descriptions.recall:.2f} / {summary.descriptions.precision:.2f}"
        table.add_row(say("objects in descriptions (recall / precision)"), objects, "")
    return table


def type_table(summary: QuickstartSummary) -> Table:
    """Return the accuracies in per cent by question type and by language."""
    table = Table(say("question"), say("with image"), say("without"), say("wrong image"), say("majority"))
    for group, entry in {**summary.by_type, **summary.by_language}.items():
        cells = [f"{100 * entry[key]:.1f}" for key in ("tune", "without_image", "wrong_image", "majority")]
        table.add_row(group, *cells)
    return table
