"""The commands before training: scenes, filter, check, show and plan."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vistune import api
from vistune.cli.commands import refuse_given
from vistune.cli.console import (
    Json,
    Overrides,
    OwnText,
    RecipeName,
    count_of,
    in_users_language,
    print_json,
    print_lines,
    print_message,
    progress_bar,
    say,
    stdout,
)
from vistune.cli.plan_tables import print_details, print_plan
from vistune.errors import RecipeError
from vistune.planner.plan import PROCESSES
from vistune.recipe import DataSource, Recipe, load_recipe, source_of
from vistune.records import lines_of, refuse_unread

if TYPE_CHECKING:
    from vistune.data import CheckReport
    from vistune.data.show import ShownSample
    from vistune.processor.tokenizer_files import TokenizerLike


def scenes(
    out: Annotated[Path, typer.Argument(help="Output folder.")],
    count: Annotated[int, typer.Option(help="Number of training scenes.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Draw synthetic scenes. Writes a COCO folder with exact captions and boxes, and question files."""
    drawn = api.draw_scenes(out, count=count, seed=seed, progress=progress_bar)
    print_lines(f"{drawn.path}: " + ", ".join(f"{n} {split}" for split, n in drawn.counts.items()))


def filter_(
    captions: Annotated[
        Path,
        typer.Argument(help="Caption file: .jsonl, .json (LLaVA format), .tsv (CC3M format) or .csv, optionally .gz."),
    ],
    out: Annotated[Path, typer.Option(help="Output file, in the format of the input.")],
    column: Annotated[
        str | None, typer.Option(help="Field with the caption. Default: caption, blip_caption or text.")
    ] = None,
    least: Annotated[int, typer.Option(help="Ignore noun phrases that are in fewer captions than this.", min=1)] = 3,
    most: Annotated[int, typer.Option(help="Maximum number of captions per noun phrase.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    finder: Annotated[str, typer.Option(help="How noun phrases are found: rules (no download) or spacy.")] = "rules",
    as_json: Json = False,
) -> None:
    """Select stage-1 captions balanced by concept. LLaVA selected its 595K captions from CC3M in this way."""
    from vistune.datagen import FilterOptions

    options = FilterOptions(column=column, least=least, most=most, seed=seed, finder=finder)
    chosen = api.filter_captions(captions, out, options, progress=progress_bar)
    if as_json:
        print_json(asdict(chosen))
        return
    rejected = ", ".join(f"{count} {reason}" for reason, count in chosen.rejects.items())
    print_lines(
        f"{out}: {chosen.chosen:,} of {chosen.captions:,} captions; {chosen.frequent_enough:,} of {chosen.phrases:,} "
        f"noun phrases are in {least} captions or more; {chosen.without_phrase:,} captions have no noun phrase"
        + (f"; rejected: {rejected} ({out.name}.rejects.jsonl)" if rejected else "")
    )


def check(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Data files, or folders written by generate. Default: the data of --recipe."),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Image folder: one for all data files, or one for each.")
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Do not look for images or open them.")] = False,
    recipe: Annotated[str | None, typer.Option(help="Also encode the samples for the model of this recipe.")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write an HTML page with the faults and some samples.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Treat fields that vistune does not read as errors.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every sample before training. Faults are reported with file, line and field."""
    loaded = load_recipe(recipe) if recipe else None
    if no_images:
        refuse_given(("images",), "not used with --no-images", "remove one of them")
    if data:
        if given := next((path for path in data if path.suffix in {".yaml", ".yml"}), None):
            raise RecipeError(f"check: {given} is a recipe, not data", f"write --recipe {given}")
        sources = _sources(data, images, loaded)
    else:
        sources = _recipe_sources(loaded, images)
    report = api.check_data(sources, recipe=loaded, images=not no_images, page=page, progress=progress_bar)
    if as_json:
        print_json(report.to_dict())
    else:
        print_lines(*check_lines(report, tokens=loaded is not None))
        if page is not None:
            print_lines(say("page: {page}", page=page))
    if strict:
        refuse_unread(report.unread_fields)
    if report.faults:
        raise typer.Exit(2)


def check_lines(report: CheckReport, *, tokens: bool) -> list[str]:
    """Describe the result of a check: the first faults and notes, then the counts."""
    from vistune.grounding.guessing import guessing_lines

    lines = [in_users_language(fault.detail) for fault in report.faults[:50]]
    lines += [say("note: {note}", note=in_users_language(note.detail)) for note in report.notes[:20]]
    names = {kind: say("without kind") if kind == "none" else kind for kind in report.kinds}
    kinds = ", ".join(f"{count} {names[kind]}" for kind, count in report.kinds.items()) or say("none")
    lines.append(
        f"{count_of(report.rows, 'record')}, {count_of(report.images, 'image')} ({kinds}); "
        f"{count_of(len(report.faults), 'fault')}"
    )
    if tokens:
        low, middle, high = (report.tokens[key] for key in ("min", "median", "max"))
        supervised = f"{report.learnt_tokens:,}"
        lines.append(
            say(
                "tokens per sample: {low} to {high}, median {middle}; {supervised} supervised in total",
                low=low,
                high=high,
                middle=middle,
                supervised=supervised,
            )
        )
    lines += [say("warning: {count} × {warning}", count=n, warning=warning) for warning, n in report.warnings.items()]
    lines += map(in_users_language, guessing_lines(report.guessing))
    lines += map(in_users_language, lines_of(report.unread_fields))
    if report.missing:
        folders = ", ".join(f"{folder} ({count})" for folder, count in report.missing.items())
        lines.append(say("missing images by folder: {folders}", folders=folders))
    return lines


def _sources(data: list[Path], images: list[Path] | None, recipe: Recipe | None) -> list[DataSource]:
    """Pair the files with image folders: those given (one for all, or one for each), else those of the recipe."""
    if images and len(images) not in (1, len(data)):
        raise RecipeError(
            f"{len(images)} --images for {len(data)} data files", "give one image folder for all files, or one for each"
        )
    if images:
        folders = images if len(images) == len(data) else images * len(data)
        return [DataSource(file=path, images=folder) for path, folder in zip(data, folders, strict=True)]
    listed = _listed(recipe) if recipe is not None else []
    sources = []
    for path in data:
        same_file = [source for source in listed if source.file.absolute() == path.absolute()]
        sources += same_file or [DataSource(file=path)]
    return sources


def _recipe_sources(recipe: Recipe | None, images: list[Path] | None) -> list[DataSource]:
    if recipe is None or images:
        raise RecipeError("check needs data", "name data files or folders, or a --recipe that names them")
    if not (listed := _listed(recipe)):
        raise RecipeError(f"check: the recipe {recipe.name} names no data files", "name data files before --recipe")
    return listed


def _listed(recipe: Recipe) -> list[DataSource]:
    """Return every file that a recipe trains on or validates with, once, with its image folder."""
    validation = recipe.validation.data if recipe.validation is not None else None
    training = [recipe.data if stage.data is None else stage.data for stage in recipe.stages if stage.shards is None]
    all_sources = [source for sources in (*training, validation or ()) for source in sources]
    return list(dict.fromkeys(DataSource(file=source.file, images=source.images) for source in all_sources))


def show(
    data: Annotated[Path, typer.Argument(help="Data file.")],
    index: Annotated[int | None, typer.Option(help="Show only the sample at this index.", min=0)] = None,
    template: Annotated[
        str | None, typer.Option(help="Chat template; default: the tokenizer's own if it has one, else v1.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="Tokenizer folder, or builtin.")] = "builtin",
    as_json: Json = False,
) -> None:
    """Show samples as the model reads them. Supervised tokens are marked."""
    source = DataSource(file=data)
    samples = api.show(source, template=template, tokenizer=tokenizer, index=index, on_message=print_message)
    if as_json:
        print_json([sample.to_dict() for sample in samples])
        return
    from vistune.processor import load_tokenizer

    loaded = load_tokenizer(source_of(tokenizer, "language"))
    colour = bool(stdout.color_system)
    marking = "green" if colour else "between ⟦ and ⟧"
    for sample in samples:
        print_lines(
            Text.assemble((sample.id, "bold"), f"  {len(sample.input_ids)} tokens; supervised tokens are {marking}")
        )
        print_lines(marked(sample, loaded, colour=colour))


def marked(sample: ShownSample, tokenizer: TokenizerLike, *, colour: bool) -> Text:
    """Return a sample's text; supervised tokens are green, or in ⟦brackets⟧ without `colour`."""
    from vistune.data.show import label_runs

    text = OwnText()
    for supervised, piece in label_runs(sample, tokenizer):
        bare = colour or not supervised
        text.append(piece if bare else f"⟦{piece}⟧", style="green" if supervised else "")
    return text


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    samples: Annotated[
        int | None, typer.Option(help="Number of samples, for stages whose data are not on this machine.", min=1)
    ] = None,
    processes: Annotated[int, typer.Option(help="Number of GPUs that FSDP2 shards the model over.", min=2)] = PROCESSES,
    flops: Annotated[
        float | None,
        typer.Option(help="FLOP/s that the device reaches. Default: measured, or assumed from the device type."),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(help="YAML file with dollars per GPU hour, for example gpus: {H100: 2.5}, and model prices."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Also estimate the cost of generating the data with this teacher model.")
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Show each stage: where the memory goes, and other ways to train it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether a recipe fits into memory and how long it takes, on this CPU and on GPUs. No weights are read."""
    planned = api.plan(
        load_recipe(recipe, overrides or []),
        samples=samples,
        processes=processes,
        flops=flops,
        prices=prices,
        teacher=teacher,
        progress=progress_bar,
    )
    if as_json:
        print_json(planned.to_dict())
        return
    print_details(planned) if details else print_plan(planned)
