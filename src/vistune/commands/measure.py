"""The verbs that measure: ask a model a benchmark's questions, or score answers that are there already."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vistune import measuring, models, workflows
from vistune.commands.model import Device, Dtype, Quantize
from vistune.commands.output import Json, print_json, stdout
from vistune.console import silent, watch
from vistune.errors import RecipeError

if TYPE_CHECKING:
    from vistune.evaluation import Measured


def evaluate(
    model: Annotated[Path | None, typer.Argument(help="A run or model folder.")] = None,
    task: Annotated[str, typer.Option(help="Comma-separated task names.")] = "scenes",
    data: Annotated[
        Path | None,
        typer.Option(help="The task's data folder, or one that holds a folder a task; without it the run's world/."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="About N questions, whole pictures.", min=1)] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where answers are kept; without it in the run, if all are asked."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    as_json: Json = False,
    listing: Annotated[bool, typer.Option("--list", help="Name every task, and what to download from where.")] = False,
) -> None:
    """Ask a task's questions with the picture, without it and with a wrong one."""
    if listing:
        print_tasks(as_json)
        return
    if model is None:
        raise RecipeError("evaluate needs a model", "name a run or model folder, or --list the tasks")
    if models.is_ours(model):
        models.find_model(model)
    world = model / "world"
    if data is None and not world.is_dir():
        raise RecipeError("evaluate needs the task's data", "add --data DIR")
    bar = silent if as_json else watch
    # A look at a few questions is not the run's result: only the whole task is kept in the run unless told so.
    kept = out or (model / "evals" if (model / "run.json").is_file() and limit is None else None)
    results = [
        workflows.evaluate(
            model,
            task=name,
            data=folder_of(data or world, name, many="," in task),
            out=kept,
            limit=limit,
            device=device,
            dtype=dtype,
            quantize=quantize,
            watch=bar,
        )
        for name in task.split(",")
    ]
    if as_json:
        print_json(results if len(results) > 1 else results[0])
        return
    for result in results:
        stdout.print(result_table(result))


def folder_of(data: Path, task: str, *, many: bool) -> Path:
    """Where a task's data is: of several tasks each has its own folder in `data`, if it is there."""
    return data / task if many and (data / task).is_dir() else data


def result_table(result: dict[str, Any]) -> Table:
    table = Table("", "", "", title=f"{result['task']}, {result['count']} questions")
    for name, value in result["metrics"].items() if set(result["metrics"]) != {"accuracy"} else ():
        table.add_row(name, f"{value:.2f}", "")
    if not result["metrics"]:
        table.add_row("answers are kept", "", "no figure without the benchmark's server or a judge: vistune score")
    for condition, interval in result.get("intervals", {}).items():
        shown = f"{100 * interval['low']:.1f} – {100 * interval['high']:.1f}"
        table.add_row(f"accuracy {condition.replace('_', ' ')}", f"{100 * interval['value']:.1f} %", shown)
    if "majority" in result:
        table.add_row("majority answer", f"{100 * result['majority']:.1f} %", "")
    if "gap" in result:
        table.add_row("gap", f"{100 * result['gap']['value']:.1f} points", result["gap"]["words"])
    for condition, reason in result.get("left_out", {}).items():
        table.add_row(condition.replace("_", " "), "left out", reason)
    return table


def print_tasks(as_json: bool) -> None:
    """Every task with what it needs, for a person or as JSON."""
    listed = measuring.tasks()
    if as_json:
        print_json([{"task": name, **asdict(facts)} for name, facts in listed.items()])
        return
    for name, facts in listed.items():
        stdout.print(f"[bold]{name}[/bold]  {escape(facts.about)}", soft_wrap=True)
        for file in facts.files:
            stdout.print(f"    {escape(file)}", soft_wrap=True)
        stdout.print(
            f"    from {escape(facts.source)} · {escape(facts.licence)} · {escape(facts.size)}", soft_wrap=True
        )


def score(
    task: Annotated[str, typer.Argument(help="A task's name: `vistune evaluate --list`.")],
    data: Annotated[Path, typer.Option(help="The folder of the benchmark's official files.")],
    predictions: Annotated[Path, typer.Option(help="What a model answered, in any form that is in use for the task.")],
    parse: Annotated[str, typer.Option(help="official, or lenient where the task has such a rule.")] = "official",
    submission: Annotated[Path | None, typer.Option(help="Also write the upload for the benchmark's server.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="The model that grades free answers, for tasks that ask one.")
    ] = None,
    base_url: Annotated[str, typer.Option(help="judge: an OpenAI-compatible endpoint.")] = "https://api.openai.com/v1",
    api_key_file: Annotated[Path | None, typer.Option(help="judge: the key; else OPENAI_API_KEY.")] = None,
    concurrency: Annotated[int, typer.Option(help="judge: requests under way at most.", min=1)] = 16,
    budget: Annotated[float | None, typer.Option(help="judge: dollars that are never exceeded.", min=0)] = None,
    prices: Annotated[Path | None, typer.Option(help="judge: a price table in place of the shipped one.")] = None,
    judgements: Annotated[
        Path | None, typer.Option(help="judge: where its replies are kept; by default beside the predictions.")
    ] = None,
    opinions: Annotated[int, typer.Option(help="judge: grades of each answer, averaged (mmvet).", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Score anybody's predictions as the benchmark itself does."""
    endpoint = None
    if judge is not None:
        from vistune.remote import Endpoint

        endpoint = Endpoint(
            judge, base_url=base_url, key_file=api_key_file, concurrency=concurrency, budget=budget, prices=prices
        )
    found = measuring.score(
        task,
        data,
        predictions,
        parse=parse,
        submission=submission,
        judge=endpoint,
        judgements=judgements,
        opinions=opinions,
        watch=silent if as_json else watch,
    )
    if as_json:
        print_json(found.as_json())
        return
    print_score(found)
    if submission is not None:
        stdout.print(f"{submission}: to upload", soft_wrap=True)


def print_score(found: Measured) -> None:
    """Figures, by both parse rules where they differ; then what was missing or not understood, with examples."""
    scored, other = found.scored, found.other
    titles = [found.rule, *(["lenient" if found.rule == "official" else "official"] if other is not None else [])]
    table = Table("", *titles, title=f"{found.task}, {scored.count} questions")
    for name, value in scored.metrics.items():
        table.add_row(name, f"{value:.4f}", *([f"{other.get(name, value):.4f}"] if other is not None else []))
    stdout.print(table)
    for title, groups in scored.tables.items():
        breakdown = Table(title, "figure", "questions")
        for group, (value, count) in groups.items():
            breakdown.add_row(escape(group), f"{value:.2f}", str(count))
        stdout.print(breakdown)
    for count, words in (
        (scored.missing, "questions without a prediction: counted as wrong"),
        (found.repeated, "predictions for a question that has a later one: the last counts"),
        (scored.unparsed, "replies that cannot be parsed: scored as the protocol says, such as"),
    ):
        if count:
            stdout.print(f"{count} {words}", soft_wrap=True)
    for name, text in scored.examples:
        stdout.print(f"    {escape(name)}: {escape(repr(text[:200]))}", soft_wrap=True)
