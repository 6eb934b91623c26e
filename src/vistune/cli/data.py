"""Verbs on data: scenes, generate, filter, check and show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from vistune import api
from vistune.cli.console import Json, count_of, print_json, print_message, progress_bar, stdout
from vistune.cli.options import refuse_given
from vistune.errors import RecipeError
from vistune.progress import no_progress
from vistune.recipe import DataSource, Recipe, load_recipe, source_of
from vistune.records import UnreadField, lines_of, refuse_unread
from vistune.registry import lookup

if TYPE_CHECKING:
    from vistune.data import CheckReport
    from vistune.datagen import GeneratedData


def scenes(
    out: Annotated[Path, typer.Argument(help="Output folder.")],
    count: Annotated[int, typer.Option(help="Number of training scenes.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Draw synthetic scenes. Writes a COCO folder with exact captions and boxes, and question files."""
    drawn = api.draw_scenes(out, count=count, seed=seed, progress=progress_bar)
    stdout.print(f"{drawn.path}: " + ", ".join(f"{n} {split}" for split, n in drawn.counts.items()), soft_wrap=True)


TEACHER_OPTIONS = (  # parameters of `generate` that only a remote teacher uses
    "base_url", "api_key_file", "see", "concurrency", "requests_per_minute", "tokens_per_minute", "max_tokens",
    "temperature", "extra_body", "tries", "batch", "budget", "prices", "allow_drift", "dry_run",
)  # fmt: skip


def generate(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of images with annotations (COCO, YOLO, VOC, CVAT, Label Studio, labelme, VIA …), or a "
            "table. With --see also images without annotations."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    teacher: Annotated[
        str, typer.Option(help="Teacher: rule (offline rules) or openai (any OpenAI-compatible endpoint).")
    ] = "rule",
    split: Annotated[str | None, typer.Option(help="Split of the source, for example train.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Tables: names of the columns, for example image=file,captions=text. Also boxes, id, label, "
            "xmin, ymin, xmax, ymax."
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Tables: image folder. Default: the folder of the table.")] = None,
    boxes_as: Annotated[
        str | None, typer.Option(help="Tables: format of boxes: relative (corners 0-1), pixels (corners) or coco.")
    ] = None,
    kinds: Annotated[
        str, typer.Option(help="Kinds of samples, separated by commas.")
    ] = "caption,conversation,detail,reasoning",
    mix: Annotated[str | None, typer.Option(help="Ratio conversation:detail:reasoning, for example 58:23:77.")] = None,
    per_image: Annotated[int, typer.Option(help="With --mix: samples per image and language.", min=1)] = 1,
    language: Annotated[
        str, typer.Option(help="Languages, separated by commas: en,ko. The openai teacher also writes other languages.")
    ] = "en",
    limit: Annotated[int | None, typer.Option(help="Use only the first N images.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    model: Annotated[str | None, typer.Option(help="openai: name of the model at the endpoint.")] = None,
    base_url: Annotated[str, typer.Option(help="openai: URL of the endpoint.")] = "https://api.openai.com/v1",
    api_key_file: Annotated[
        Path | None, typer.Option(help="openai: file with the API key. Default: the variable OPENAI_API_KEY.")
    ] = None,
    see: Annotated[bool, typer.Option("--see", help="openai: also send the image to the model.")] = False,
    concurrency: Annotated[int, typer.Option(help="openai: maximum number of concurrent requests.", min=1)] = 16,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="openai: maximum requests per minute.", min=0.1)
    ] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="openai: maximum tokens per minute.", min=1)] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="openai: maximum tokens per reply, including reasoning. Default: 96 to 1024, by kind.", min=1
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="openai: sampling temperature. Default: 0.7.", min=0)
    ] = None,
    extra_body: Annotated[
        str | None,
        typer.Option(
            help="openai: JSON object with extra fields for every request, for example '{\"enable_thinking\": false}'."
        ),
    ] = None,
    tries: Annotated[int, typer.Option(help="openai: attempts per sample if the checks reject a reply.", min=1)] = 3,
    batch: Annotated[
        bool, typer.Option("--batch", help="openai: use the Batch API (cheaper, takes up to a day).")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(help="openai: maximum cost in dollars. No request is sent that could exceed it.", min=0),
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="openai: price table to use instead of the built-in one.")] = None,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="openai: resume although the prompt has changed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="openai: estimate requests and cost, send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Generate instruction data from annotated images."""
    from vistune.datagen import TEACHERS, TEMPERATURE, GenerationConfig, NothingWritten, TableForm, TeacherOptions
    from vistune.llm_client import read_extra_body

    lookup(teacher, dict.fromkeys(TEACHERS), "teacher")
    kind_names, languages = _names(kinds), _names(language)
    if mix is None and per_image != 1:
        raise RecipeError(f"--per-image {per_image} needs --mix", "add --mix 58:23:77, or remove --per-image")
    if mix is not None and not {"conversation", "detail", "reasoning"} <= set(kind_names):
        raise RecipeError("--mix needs the kinds conversation, detail and reasoning", "remove --kinds or --mix")
    if model is None and teacher == "openai":
        raise RecipeError("--teacher openai needs a model", "add --model with its name at the endpoint")
    if model is not None and teacher == "rule":
        raise RecipeError(f"--model {model}: the rule teacher uses no model", "add --teacher openai, or remove --model")
    if model is None:
        refuse_given(
            TEACHER_OPTIONS,
            "only used with --teacher openai",
            "add --teacher openai and --model NAME, or remove the option",
        )
    wishes = GenerationConfig(
        kinds=kind_names,
        languages=languages,
        mix=_mix(mix),
        per_image=per_image,
        seed=seed,
    )
    service = None
    if model is not None:
        service = TeacherOptions(
            model=model,
            base_url=base_url,
            key_file=api_key_file,
            see=see,
            tries=tries,
            batch=batch,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            budget=budget,
            prices=prices,
            allow_drift=allow_drift,
            extra_body=read_extra_body(extra_body),
            max_tokens=max_tokens,
            temperature=TEMPERATURE if temperature is None else temperature,
        )
    table = None
    if columns is not None or images is not None or boxes_as is not None:
        table = TableForm(columns=_columns(columns), images=images, boxes=boxes_as)  # type: ignore[arg-type]
    if dry_run and service is not None:
        plan = api.plan_generation(source, wishes, service, split=split, table=table, limit=limit)
        print_json(plan) if as_json else print_plan(plan)
        return
    bar = no_progress if as_json else progress_bar
    try:
        generated = api.generate_data(
            source,
            out,
            wishes,
            service=service,
            split=split,
            table=table,
            limit=limit,
            progress=bar,
            on_message=print_message,
        )
    except NothingWritten as error:
        if as_json:
            print_json(counts_of(error.generated))
        raise
    if as_json:
        print_json(counts_of(generated))
        return
    for line in summary(out, generated):
        stdout.print(line, soft_wrap=True)


def counts_of(generated: GeneratedData) -> dict[str, Any]:
    """Return the counts and the cost of a run as JSON values."""
    reasons = Counter(reject.reason for reject in generated.rejects)
    return {
        "samples": len(generated.rows),
        "rejected": len(generated.rejects),
        "reasons": dict(reasons.most_common()),
        "spent": generated.spent_dict,
        **(generated.source.to_dict() if generated.source else {}),
    }


def _columns(text: str | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    if not all(name and column for name, _, column in pairs):
        raise RecipeError(
            f"--columns {text}: must be NAME=COLUMN pairs", "write for example image=file_name,captions=text"
        )
    return {name.strip(): column.strip() for name, _, column in pairs}


def _names(text: str) -> tuple[str, ...]:
    """Split a list at its commas; each name once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def summary(out: Path, generated: GeneratedData) -> list[str]:
    """Describe a finished run in a few lines: samples, rejects by reason, tokens and cost."""
    rejects, spent = generated.rejects, generated.spent
    reasons = Counter(reject.reason for reject in rejects).most_common()
    listed = f" ({', '.join(f'{count} {reason}' for reason, count in reasons)}; see rejects.jsonl)" if reasons else ""
    lines = [f"{out}: {count_of(len(generated.rows), 'sample')}, {len(rejects)} rejected{listed}"]
    if rejects:
        from vistune.datagen import describe_top_reject

        lines.append(f"most rejected: {describe_top_reject(rejects)}")
    if spent:
        cost = f"${spent.dollars:.2f}" if spent.priced else "cost unknown (add the model's price with --prices)"
        if spent.priced and spent.maybe_billed:
            cost += f", and at most ${spent.maybe_dollars:.2f} for requests without an answer"
        lines.append(
            f"{spent.model}: {spent.prompt_tokens:,} prompt tokens, {spent.completion_tokens:,} completion "
            f"tokens; {cost}"
        )
    lines += generated.source.lines() if generated.source else []
    return [*lines, f"report: {out / 'report.html'}"]


def print_plan(plan: dict[str, Any]) -> None:
    """Print how many requests a run would send, what they cost and how long they take."""
    kinds = plan["kinds"]
    listed = f" ({', '.join(f'{count:,} {kind}' for kind, count in kinds.items())})" if kinds else ""
    lines = [
        f"{count_of(plan['requests'], 'request')}{listed}",
        f"{plan['prompt_tokens']:,} prompt and {plan['completion_tokens']:,} completion tokens ({plan['tokens_by']})",
    ]
    if plan["dollars"] is None:
        lines.append(f"cost unknown: {plan['how_to_price']}")
    else:
        lines.append(f"${plan['dollars']:.2f} expected, ${plan['dollars_at_most']:.2f} at most")
    if plan["budget"] is not None:
        lines.append(f"--budget ${plan['budget']:.2f}: {_fit(plan)}")
    lines.append(f"{plan['minutes']:.1f} minutes ({plan['minutes_by']})")
    if "caption" in kinds:
        lines.append("captions are requested only for images without one; to skip them, remove caption from --kinds")
    if skipped := plan.get("skipped_images"):
        lines.append(f"images skipped: {', '.join(f'{count:,} {reason}' for reason, count in skipped.items())}")
    lines += lines_of(UnreadField(**unread) for unread in plan.get("unread_fields", ()))
    lines.append("no request was sent; --json shows three complete requests")
    for line in lines:
        stdout.print(line, soft_wrap=True)


def _fit(plan: dict[str, Any]) -> str:
    """Describe whether the requests fit into the budget."""
    if plan["dollars_at_most"] <= plan["budget"]:
        return "the maximum cost fits"
    if plan["dollars"] <= plan["budget"]:
        return "the expected cost fits; if the cost exceeds it, the run stops and keeps all answers"
    return "too low: the run would stop early and keep all answers"


def _mix(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        conversation, detail, reasoning = (int(share) for share in text.split(":"))
    except ValueError:
        raise RecipeError(f"--mix {text}: must be three whole numbers", "write for example 58:23:77") from None
    return conversation, detail, reasoning


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
    chosen = api.filter_captions(
        captions,
        out,
        column=column,
        least=least,
        most=most,
        seed=seed,
        finder=finder,
        progress=no_progress if as_json else progress_bar,
    )
    if as_json:
        print_json(asdict(chosen))
        return
    rejected = ", ".join(f"{count} {reason}" for reason, count in chosen.rejects.items())
    stdout.print(
        f"{out}: {chosen.chosen:,} of {chosen.captions:,} captions; {chosen.frequent_enough:,} of {chosen.phrases:,} "
        f"noun phrases are in {least} captions or more; {chosen.without_phrase:,} captions have no noun phrase"
        + (f"; rejected: {rejected} ({out.name}.rejects.jsonl)" if rejected else ""),
        soft_wrap=True,
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
    bar = no_progress if as_json else progress_bar
    found = api.check_data(sources, recipe=loaded, images=not no_images, page=page, progress=bar)
    if as_json:
        print_json(found.to_dict())
    else:
        for line in check_lines(found, tokens=loaded is not None):
            stdout.print(line, soft_wrap=True)
        if page is not None:
            stdout.print(f"page: {page}", soft_wrap=True)
    if strict:
        refuse_unread(found.unread_fields)
    if found.faults:
        raise typer.Exit(2)


def check_lines(found: CheckReport, *, tokens: bool) -> list[str]:
    """Describe the result of a check: the first faults and notes, then the counts."""
    lines = [fault.detail for fault in found.faults[:50]]
    lines += [f"note: {note.detail}" for note in found.notes[:20]]
    kinds = ", ".join(f"{count} {'without kind' if kind == 'none' else kind}" for kind, count in found.kinds.items())
    lines.append(
        f"{count_of(found.rows, 'row')}, {count_of(found.images, 'image')} ({kinds or 'none'}); "
        f"{count_of(len(found.faults), 'fault')}"
    )
    if tokens:
        low, middle, high = (found.tokens[key] for key in ("min", "median", "max"))
        lines.append(
            f"tokens per sample: {low} to {high}, median {middle}; {found.learnt_tokens:,} supervised in total"
        )
    lines += [f"warning: {count} × {what}" for what, count in found.warnings.items()]
    lines += lines_of(found.unread_fields)
    if found.missing:
        folders = ", ".join(f"{folder} ({count})" for folder, count in found.missing.items())
        lines.append(f"missing images by folder: {folders}")
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
        raise RecipeError(f"check: the recipe {recipe.name} names no data files", "name them before --recipe")
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
    template: Annotated[str, typer.Option(help="Prompt template.")] = "v1",
    tokenizer: Annotated[str, typer.Option(help="Tokenizer folder, or builtin.")] = "builtin",
    as_json: Json = False,
) -> None:
    """Show samples as the model reads them. Supervised tokens are marked."""
    rows = api.show(
        DataSource(file=data), template=template, tokenizer=tokenizer, index=index, on_message=print_message
    )
    if as_json:
        print_json(rows)
        return
    marking = "green" if stdout.color_system else "between ⟦ and ⟧"
    for row, label_runs in zip(rows, marked(rows, tokenizer, colour=bool(stdout.color_system)), strict=True):
        stdout.print(
            Text.assemble((row["id"], "bold"), f"  {len(row['input_ids'])} tokens; supervised tokens are {marking}"),
            soft_wrap=True,
        )
        stdout.print(label_runs, soft_wrap=True)


def marked(rows: Sequence[dict[str, Any]], tokenizer: str = "builtin", *, colour: bool = True) -> list[Text]:
    """Return each sample's text; supervised tokens are green, or in ⟦brackets⟧ without `colour`."""
    from vistune.data.show import label_runs
    from vistune.processor import load_tokenizer

    loaded = load_tokenizer(source_of(tokenizer, "language"))
    texts = []
    for row in rows:
        text = Text()
        for supervised, piece in label_runs(row, loaded):
            bare = colour or not supervised
            text.append(piece if bare else f"⟦{piece}⟧", style="green" if supervised else "")
        texts.append(text)
    return texts
