"""The command line: one verb = parse, call one workflow, print.

Results go to stdout, progress to stderr. A VistuneError is one line and its exit code; anything else is our bug.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vistune import mainjob, models, workflows
from vistune.console import silent, stderr, watch
from vistune.errors import RecipeError, VistuneError
from vistune.recipe import DataSource, load_recipe
from vistune.registry import lookup

app = typer.Typer(
    name="vistune",
    help="Visual instruction tuning, whole: write the data, align, tune, measure, talk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
stdout = Console(highlight=False, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value on top of the recipe, such as data=FILE.")]


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Decides everything.")] = 0,
) -> None:
    """The whole loop on the built-in world, offline: draw, generate, check, align, tune, evaluate, report."""
    summary = mainjob.quickstart(out, overrides=[f"seed={seed}"], watch=watch)
    stdout.print(summary_table(summary))
    stdout.print(type_table(summary))
    stdout.print(
        f"The gap to the better blind condition: {100 * summary['gap']['value']:.1f} points "
        f"({summary['gap']['words']})."
    )
    took = " · ".join(f"{step} {seconds:.0f} s" for step, seconds in summary["seconds"].items())
    stdout.print(f"{took} · peak memory {summary['peak_memory_mb']} MB")
    picture = next(iter(sorted((out / "world" / "heldout").glob("*.jpg"))))
    stdout.print(f"Report: {out / 'report.html'}")
    stdout.print(f"Talk to it:  vistune chat {out} --image {picture}", soft_wrap=True)


def summary_table(summary: dict[str, Any]) -> Table:
    rows = {
        "majority": "always the most frequent answer",
        "align": "after stage 1 (projector aligned)",
        "tune": "after stage 2 (tuned on instructions)",
        "without_image": "stage 2, without its picture",
        "wrong_image": "stage 2, with a wrong picture",
        "heldout_combinations": "stage 2, held-out colour-shape pairs",
    }
    table = Table("held-out scenes, exact match", "accuracy", "95 % interval", title="What the model sees")
    for key, label in rows.items():
        interval = summary["intervals"].get(key)
        shown = f"{100 * interval['low']:.1f} – {100 * interval['high']:.1f}" if interval else ""
        table.add_row(label, f"{100 * summary['accuracy'][key]:.1f} %", shown)
    described = summary["descriptions"]
    right = f"{described['recall']:.2f} / {described['precision']:.2f}"
    table.add_row("things right in descriptions (recall / precision)", right, "")
    return table


def type_table(summary: dict[str, Any]) -> Table:
    table = Table("question", "with picture", "without", "wrong", "majority")
    for group, entry in {**summary["by_type"], **summary["by_language"]}.items():
        cells = [f"{100 * entry[key]:.1f}" for key in ("tune", "without_image", "wrong_image", "majority")]
        table.add_row(group, *cells)
    return table


@app.command()
def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to draw into.")],
    count: Annotated[int, typer.Option(help="Training scenes.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Decides every picture.")] = 0,
) -> None:
    """Draw the built-in world: a COCO folder with exact captions and boxes, and its question files."""
    drawn = workflows.draw_scenes(out, count=count, seed=seed, watch=watch)
    stdout.print(f"{drawn.path}: " + ", ".join(f"{n} {split}" for split, n in drawn.counts.items()))


@app.command()
def generate(
    source: Annotated[
        Path,
        typer.Argument(help="A COCO folder, a table (.jsonl .json .csv .tsv .parquet), or with --see bare pictures."),
    ],
    out: Annotated[Path, typer.Option(help="Where the data goes.")],
    teacher: Annotated[str, typer.Option(help="Who writes: rule (offline) or openai (any such endpoint).")] = "rule",
    split: Annotated[str | None, typer.Option(help="Which split of the folder.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Table: which column is which, such as image=file,captions=text,boxes=objects,id=key."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Table: the folder its pictures lie in; else its own.")] = None,
    boxes_as: Annotated[
        str | None, typer.Option(help="Table: relative (corners 0-1), pixels (corners) or coco.")
    ] = None,
    kinds: Annotated[str, typer.Option(help="Comma-separated.")] = "caption,conversation,detail,reasoning",
    mix: Annotated[str | None, typer.Option(help="conversation:detail:reasoning, such as 58:23:77.")] = None,
    per_image: Annotated[int, typer.Option(help="With --mix: instructions a picture and language gets.", min=1)] = 1,
    language: Annotated[str, typer.Option(help="Comma-separated: en,ko; openai writes any other too.")] = "en",
    limit: Annotated[int | None, typer.Option(help="The first N pictures.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Decides every choice.")] = 0,
    model: Annotated[str | None, typer.Option(help="openai: the model's name at the endpoint.")] = None,
    base_url: Annotated[str, typer.Option(help="openai: the endpoint.")] = "https://api.openai.com/v1",
    api_key_file: Annotated[Path | None, typer.Option(help="openai: the key; else OPENAI_API_KEY is read.")] = None,
    see: Annotated[bool, typer.Option("--see", help="openai: send the picture itself too.")] = False,
    concurrency: Annotated[int, typer.Option(help="openai: requests under way at most.", min=1)] = 16,
    requests_per_minute: Annotated[float | None, typer.Option(help="openai: limit.", min=0.1)] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="openai: limit.", min=1)] = None,
    tries: Annotated[int, typer.Option(help="openai: asked again when the checks reject a reply.", min=1)] = 3,
    batch: Annotated[bool, typer.Option("--batch", help="openai: by the Batch API, within a day, cheaper.")] = False,
    budget: Annotated[float | None, typer.Option(help="openai: dollars that are never exceeded.", min=0)] = None,
    prices: Annotated[Path | None, typer.Option(help="openai: a price table in place of the shipped one.")] = None,
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="openai: go on with another prompt.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="openai: count and price it all, ask nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Have a teacher write instruction data about described pictures."""
    from vistune.datagen import TEACHERS, Service, TableForm, Wishes

    lookup(teacher, dict.fromkeys(TEACHERS), "teacher")
    if mix is None and per_image != 1:
        raise RecipeError(f"--per-image {per_image} goes with --mix", "add --mix 58:23:77, or leave it out")
    if mix is not None and not {"conversation", "detail", "reasoning"} <= set(kinds.split(",")):
        raise RecipeError("--mix deals conversation, detail and reasoning", "leave --kinds out, or leave --mix out")
    if (model is None) != (teacher == "rule"):
        raise RecipeError(f"--teacher {teacher} and --model {model}", "openai needs --model, rule takes none")
    if dry_run and model is None:
        raise RecipeError("--dry-run: the rule teacher costs nothing", "leave it out")
    wishes = Wishes(
        kinds=tuple(kinds.split(",")),
        languages=tuple(language.split(",")),
        mix=_mix(mix),
        per_image=per_image,
        seed=seed,
    )
    service = None
    if model is not None:
        service = Service(
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
        )
    table = None
    if columns is not None or images is not None or boxes_as is not None:
        table = TableForm(columns=_columns(columns), images=images, boxes=boxes_as or "relative")  # type: ignore[arg-type]
    if dry_run and service is not None:
        plan = workflows.plan_generation(source, wishes, service, split=split, table=table, limit=limit)
        print_json(plan) if as_json else print_plan(plan)
        return
    made = workflows.generate_data(
        source, out, wishes, service=service, split=split, table=table, limit=limit, watch=silent if as_json else watch
    )
    counts = {"samples": len(made.rows), "rejected": len(made.rejects), "spent": dict(made.spent)}
    if as_json:
        print_json(counts)
        return
    stdout.print(f"{out}: {len(made.rows)} samples, {len(made.rejects)} rejected; report: {out / 'report.html'}")


def _columns(text: str | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    if not all(name and column for name, _, column in pairs):
        raise RecipeError(f"--columns {text}: pairs are wanted", "write for example image=file_name,captions=text")
    return {name.strip(): column.strip() for name, _, column in pairs}


def print_plan(plan: dict[str, Any]) -> None:
    """What a run would ask, cost and take, and three requests as they would be sent."""
    for number, example in enumerate(plan["examples"], start=1):
        stdout.print(f"--- request {number} of {plan['requests']} ---", markup=False)
        stdout.print(json.dumps(example, ensure_ascii=False, indent=1), markup=False, soft_wrap=True)
    money = (
        "no price known"
        if plan["dollars"] is None
        else f"${plan['dollars']:.2f}, at most ${plan['dollars_at_most']:.2f}"
    )
    stdout.print(
        f"{plan['requests']} requests · {plan['prompt_tokens']} prompt and {plan['completion_tokens']} completion "
        f"tokens ({plan['tokens_by']}) · {money} · {plan['minutes']:.1f} minutes ({plan['minutes_by']})",
        markup=False,
    )


def _mix(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        conversation, detail, reasoning = (int(share) for share in text.split(":"))
    except ValueError:
        raise RecipeError(f"--mix {text}: three whole numbers are wanted", "write for example 58:23:77") from None
    return conversation, detail, reasoning


@app.command(name="filter")
def filter_(
    captions: Annotated[Path, typer.Argument(help="Captions: .jsonl, .json (LLaVA form), .tsv (CC3M's) or .csv.")],
    out: Annotated[Path, typer.Option(help="The chosen rows, in the same form.")],
    column: Annotated[str | None, typer.Option(help="The caption's field; else caption, blip_caption or text.")] = None,
    least: Annotated[int, typer.Option(help="A noun phrase in fewer captions chooses none.", min=1)] = 3,
    most: Annotated[int, typer.Option(help="A noun phrase chooses at most so many.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Decides which captions a frequent phrase chooses.", min=0)] = 0,
    finder: Annotated[str, typer.Option(help="Noun phrases: rules (no download), or spacy.")] = "rules",
    as_json: Json = False,
) -> None:
    """Choose stage-1 captions so that rare concepts stay and frequent ones do not drown them (CC3M -> 595K)."""
    chosen = workflows.filter_captions(
        captions,
        out,
        column=column,
        least=least,
        most=most,
        seed=seed,
        finder=finder,
        watch=silent if as_json else watch,
    )
    if as_json:
        print_json(asdict(chosen))
        return
    aside = ", ".join(f"{count} {reason}" for reason, count in chosen.rejects.items())
    stdout.print(
        f"{out}: {chosen.chosen:,} of {chosen.captions:,} captions; {chosen.frequent_enough:,} of {chosen.phrases:,} "
        f"noun phrases are in {least} captions or more; {chosen.without_phrase:,} captions name nothing"
        + (f"; set aside: {aside} ({out.name}.rejects.jsonl)" if aside else ""),
        markup=False,
        soft_wrap=True,
    )


@app.command()
def check(
    data: Annotated[list[Path], typer.Argument(help="Data files, or folders that generate wrote.")],
    images: Annotated[list[Path] | None, typer.Option(help="Picture folder(s).")] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Do not look for or open pictures.")] = False,
    recipe: Annotated[str | None, typer.Option(help="Also encode with this recipe's model.")] = None,
    as_json: Json = False,
) -> None:
    """Prove every sample before anything is trained; each fault with file, line and field."""
    sources = [DataSource(file=path, images=folder) for path, folder in zip(data, _folders(images, data), strict=True)]
    loaded = load_recipe(recipe) if recipe else None
    bar = silent if as_json else watch
    found = workflows.check_data(sources, recipe=loaded, pictures=not no_images, watch=bar)
    if as_json:
        print_json(found.as_json())
    else:
        for fault in found.faults[:50]:
            stdout.print(fault.detail, soft_wrap=True, markup=False)
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
        stdout.print(f"{found.rows} rows, {found.pictures} pictures ({kinds or 'none'}); {len(found.faults)} faults")
        if loaded is not None:
            low, middle, high = (found.tokens[key] for key in ("min", "median", "max"))
            learnt = f"{found.learnt_tokens:,} learnt"
            stdout.print(f"tokens a sample: {low} to {high}, median {middle}; {learnt} in all")
        for what, count in found.warnings.items():
            stdout.print(f"warning: {count} × {what}")
    if found.faults:
        raise typer.Exit(2)


def _folders(images: list[Path] | None, data: list[Path]) -> list[Path | None]:
    """One picture folder for all files, one for each, or none."""
    if not images:
        return [None] * len(data)
    if len(images) not in (1, len(data)):
        raise RecipeError(f"{len(images)} --images for {len(data)} data files", "give one for all, or one for each")
    return list(images) if len(images) == len(data) else [images[0]] * len(data)


@app.command()
def show(
    data: Annotated[Path, typer.Argument(help="A data file.")],
    index: Annotated[int | None, typer.Option(help="One sample only.", min=0)] = None,
    template: Annotated[str, typer.Option(help="Prompt template.")] = "v1",
    tokenizer: Annotated[str, typer.Option(help="A tokenizer folder, or builtin.")] = "builtin",
    as_json: Json = False,
) -> None:
    """What the model sees of a sample, and which tokens it learns."""
    rows = workflows.show(DataSource(file=data), template=template, tokenizer=tokenizer, index=index)
    if as_json:
        print_json(rows)
        return
    for row, pieces in zip(rows, workflows.coloured(rows, tokenizer), strict=True):
        stdout.print(f"[bold]{row['id']}[/bold]  {len(row['input_ids'])} tokens, learnt in green")
        stdout.print(pieces)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (needed).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and plan everything, learn nothing.")] = False,
) -> None:
    """Run a recipe's stages; each is checkpointed and resumable."""
    loaded = load_recipe(recipe, overrides or [])
    if dry_run:
        print_json(workflows.dry_run(loaded, watch=watch))
        return
    if out is None:
        raise RecipeError("train needs a run folder", "add --out RUN")
    if resume and not (out / "run.json").is_file():
        raise RecipeError(f"{out}: no run to resume", "check the path, or leave --resume out")
    workflows.train(loaded, out, resume=resume, watch=watch)
    stdout.print(f"{out}: finished; talk to it with  vistune chat {out} --image FILE", soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run or model folder.")],
    task: Annotated[str, typer.Option(help="Comma-separated task names.")] = "scenes",
    data: Annotated[Path | None, typer.Option(help="The task's data folder; without it the run's own world/.")] = None,
    limit: Annotated[int | None, typer.Option(help="About N questions, whole pictures.", min=1)] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where answers are kept; without it in the run, if all are asked."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a task's questions with the picture, without it and with a wrong one."""
    if models.is_ours(model):
        models.find_model(model)
    world = model / "world"
    if data is None and not world.is_dir():
        raise RecipeError("evaluate needs the task's data", "add --data DIR")
    bar = silent if as_json else watch
    # A look at a few questions is not the run's result: only the whole task is kept in the run unless told so.
    kept = out or (model / "evals" if (model / "run.json").is_file() and limit is None else None)
    names = task.split(",")
    results = [
        workflows.evaluate(model, task=name, data=data or world, out=kept, limit=limit, watch=bar) for name in names
    ]
    if as_json:
        print_json(results if len(results) > 1 else results[0])
        return
    for result in results:
        stdout.print(result_table(result))


def result_table(result: dict[str, Any]) -> Table:
    table = Table("condition", "accuracy", "95 % interval", title=f"{result['task']}, {result['count']} questions")
    for condition, interval in result["intervals"].items():
        shown = f"{100 * interval['low']:.1f} – {100 * interval['high']:.1f}"
        table.add_row(condition.replace("_", " "), f"{100 * interval['value']:.1f} %", shown)
    table.add_row("majority answer", f"{100 * result['majority']:.1f} %", "")
    if "gap" in result:
        table.add_row("gap", f"{100 * result['gap']['value']:.1f} points", result["gap"]["words"])
    return table


@app.command()
def chat(
    model: Annotated[Path, typer.Argument(help="A run or model folder.")],
    image: Annotated[Path | None, typer.Option(help="A picture to talk about.")] = None,
) -> None:
    """Talk to a model in the terminal, English or Korean."""
    from vistune.serving import chat as talk

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    talk(models.load(model), picture=image, read=lambda: input("> "), write=write)


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="A llava-hf, original LLaVA, LoRA, stage-1 or PEFT folder.")],
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
    base: Annotated[str | None, typer.Option(help="The language model under a LoRA or stage-1 folder.")] = None,
    vision: Annotated[
        str | None, typer.Option(help="The vision tower, where the folder's own name of it fails.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="The chat template it was trained with.")] = None,
    as_json: Json = False,
) -> None:
    """Bring a model of another layout into a folder of ours; which layout, its content tells."""
    found = models.import_model(source, out, base=base, vision=vision, template=template)
    if as_json:
        print_json(found)
        return
    spec = found["spec"]
    spec = found["spec"]
    settings = f"projector {spec['projector']}, pictures {spec['image_mode']}, template {spec['template']}"
    kept = ", adapters kept" if found["adapter"] else ""
    stdout.print(f"{out}: from the layout {found['layout']}; {settings}{kept}", soft_wrap=True)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A run, a model folder, or any layout that import reads.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    layout: Annotated[str, typer.Option(help="llava-hf, llava-original or peft.")],
    merge: Annotated[bool, typer.Option(help="Add the adapters into the weights.")] = False,
    base: Annotated[str | None, typer.Option(help="peft: the llava-hf model that lies under the adapters.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    as_json: Json = False,
) -> None:
    """Write a model as transformers, vLLM, PEFT or the original LLaVA load it; ends by loading and comparing it."""
    rows = models.export(model, out, layout=layout, merge=merge, base=base, dtype=dtype)
    if as_json:
        print_json(rows)
        return
    table = Table(title=f"{out}: what was written beside the model")
    for name in ("probe", "tokens", "same ids", "largest logit difference", "same greedy tokens"):
        table.add_column(name)
    for row in rows:
        same = ["yes" if row[key] else "no" for key in ("same_ids", "same_tokens")]
        table.add_row(row["probe"], str(row["tokens"]), same[0], f"{row['largest_difference']:.2g}", same[1])
    stdout.print(table)


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="A run, a folder that generate wrote, or any file of samples.")],
    out: Annotated[Path | None, typer.Option(help="Data: the page's file; else beside the data.")] = None,
    images: Annotated[Path | None, typer.Option(help="Data: the folder its pictures lie in.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Data: an evaluation set (a folder of pictures, or its files) whose pictures are looked for."
        ),
    ] = None,
    language: Annotated[str, typer.Option("--lang", help="en or ko.")] = "en",
) -> None:
    """Write a page that opens offline: what a run learnt, or what a data set holds."""
    page = workflows.write_report(path, out=out, images=images, against=against or (), language=language, watch=watch)
    stdout.print(str(page), soft_wrap=True)


def main() -> None:
    """The entry point: errors of ours become one line and an exit code."""
    # This process is ours: one progress bar a step is shown, and no library's beside it.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except VistuneError as error:
        stderr.print(f"vistune: {error}", style="red", soft_wrap=True, markup=False, emoji=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
