"""The verbs that measure: ask a model a benchmark's questions, or score answers that are there already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vistune import api
from vistune.cli.console import print_message, progress_bar
from vistune.cli.model import Device, Dtype, Quantize
from vistune.cli.options import refuse_given
from vistune.cli.output import Json, count_of, print_json, stdout
from vistune.errors import RecipeError
from vistune.progress import no_progress
from vistune.records import lines_of

if TYPE_CHECKING:
    from vistune.evaluation import EvaluationResult, ScoreResult

JUDGES = (  # parameters of `score` that only matter with a judge
    "base_url", "api_key_file", "concurrency", "budget", "prices", "judgements", "max_tokens", "extra_body", "opinions",
)  # fmt: skip
NO_FIGURE = "a judge (vistune score --judge) or the benchmark's server (--submission) gives it"


def evaluate(
    model: Annotated[list[Path] | None, typer.Argument(help="Run or model folders; several are compared.")] = None,
    task: Annotated[str, typer.Option(help="Comma-separated task names.")] = "scenes",
    data: Annotated[
        Path | None,
        typer.Option(help="The task's data folder, or one that holds a folder a task; without it the run's world/."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="About N questions, whole pictures.", min=1)] = None,
    blind: Annotated[
        int, typer.Option(help="About N of them are also asked without and with a wrong picture; 0 = none.", min=0)
    ] = api.BLIND_QUESTIONS,
    letters: Annotated[
        bool, typer.Option("--letters", help="Multiple choice: take the likeliest letter, from one forward pass.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Where answers are kept; without it in the run, if all are asked."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Answer anew, in place of the answers kept there.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    as_json: Json = False,
    listing: Annotated[bool, typer.Option("--list", help="Name every task, and what to download from where.")] = False,
) -> None:
    """Ask a task's questions with the picture, without it and with a wrong one; compare models.

    Every answer is kept as it comes: the same command goes on where a killed one was. Under torchrun the processes
    share the questions.
    """
    if listing:
        others = ("model", "task", "data", "limit", "blind", "letters", "out", "again", "device", "dtype", "quantize")
        refuse_given(others, "not used by --list", "leave them out")
        print_tasks(as_json)
        return
    if not model:
        raise RecipeError("evaluate needs a model", "name a run or model folder, or --list the tasks")
    from vistune.runs.folder import find_model, is_vistune_folder

    for folder in model:
        if is_vistune_folder(folder):
            find_model(folder)
    comparison = api.evaluate_all(
        model,
        tasks_of(task, data, model),
        out=out,
        limit=limit,
        blind=blind > 0,
        blind_limit=blind or None,
        letters=letters,
        again=again,
        device=device,
        dtype=dtype,
        quantize=quantize,
        progress=no_progress if as_json else progress_bar,
        on_message=print_message,
    )
    if not is_first_process():
        return
    results = comparison.results
    if as_json:
        trees = [result.to_dict() for result in results]
        print_json(trees if len(trees) > 1 else trees[0])
        return
    from vistune.evaluation import markdown

    if len(results) == 1:
        stdout.print(result_table(results[0]))
        print_unparsed(results[0].score.unparsed, results[0].score.examples)
        if (groups := group_table(results[0])).row_count:
            stdout.print(groups)
    if len(results) > 1 or comparison.tasks[0].published:
        stdout.print(markdown(comparison), soft_wrap=True)
    if out is not None and len(results) > 1:
        stdout.print(f"{out / 'comparison.html'}: every figure, and who answers what better", soft_wrap=True)


def tasks_of(task: str, data: Path | None, models: Sequence[Path]) -> dict[str, Path]:
    """Each named task with its data folder: without --data it is the one run's own world."""
    if data is None and len(models) > 1:
        raise RecipeError("several models are asked the same questions", "add --data DIR")
    world = models[0] / "world"
    if data is None and not world.is_dir():
        raise RecipeError(
            "evaluate needs the task's data", "add --data DIR; `vistune evaluate --list` says which files"
        )
    names = [name for name in task.split(",") if name]
    if len(set(names)) < len(names) or not names:
        raise RecipeError(f"--task {task}: names a task twice, or none", "name each once, with commas between")
    return {name: folder_of(data or world, name, many=len(names) > 1) for name in names}


def is_first_process() -> bool:
    """Whether this is torchrun's first process, which speaks for all, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def answer(
    model: Annotated[Path, typer.Argument(help="A run or model folder.")],
    questions: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Records of question_id, text and image, in any data format."),
    ],
    out: Annotated[Path, typer.Option(help="The predictions file to write.")],
    images: Annotated[
        Path | None, typer.Option(help="Where the pictures lie, if not beside the questions' file.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Of an answer, at most.", min=1)] = 256,
    again: Annotated[bool, typer.Option("--again", help="Answer anew, in place of the answers kept there.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Answer your own questions into a predictions file; the same command goes on where a killed one was."""
    found = api.answer(
        model,
        questions,
        out,
        images=images,
        max_tokens=max_tokens,
        again=again,
        device=device,
        dtype=dtype,
        quantize=quantize,
        progress=no_progress if as_json else progress_bar,
        on_message=print_message,
    )
    if not is_first_process():
        return
    if as_json:
        print_json(found.to_dict())
    else:
        stdout.print(f"{out}: {count_of(found.count, 'answer')}", soft_wrap=True)


def folder_of(data: Path, task: str, *, many: bool) -> Path:
    """Where a task's data is: of several tasks each has its own folder in `data`, if it is there.

    The drawn world is the data of its own tasks, one of which bears the name of a folder of pictures in it.
    """
    drawn = task in ("scenes", "combinations") and (data / "questions_heldout.jsonl").is_file()
    return data / task if many and not drawn and (data / task).is_dir() else data


def result_table(result: EvaluationResult) -> Table:
    """Return the figures of a result as a table."""
    table = Table("", "", "", title=f"{result.task}, {result.count} questions")
    for name, value in result.metrics.items() if set(result.metrics) != {"accuracy"} else ():
        table.add_row(name, f"{value:.2f}", "")
    if not result.metrics:
        table.add_row("no figure here", "", NO_FIGURE)
    for condition, interval in result.intervals.items():
        shown = f"{100 * interval.low:.1f} – {100 * interval.high:.1f}"
        table.add_row(f"accuracy {condition.replace('_', ' ')}", f"{100 * interval.value:.1f} %", shown)
    if result.majority is not None:
        table.add_row("majority answer", f"{100 * result.majority:.1f} %", "")
    if result.gap is not None:
        table.add_row("gap", f"{100 * result.gap.difference.value:.1f} points", result.gap.words)
    for condition, change in result.changed.items():
        name = f"replies changed {condition.replace('_', ' ')}"
        table.add_row(name, f"{100 * change.share.value:.1f} %", change.words)
    for condition, reason in result.left_out.items():
        table.add_row(condition.replace("_", " "), "left out", reason)
    return table


def group_table(result: EvaluationResult) -> Table:
    """Return the accuracy of each question type and language by condition; empty if there is only one of each."""
    conditions = list(result.intervals)
    table = Table("right, per cent", *[condition.replace("_", " ") for condition in conditions], "majority")
    for groups in (result.by_type, result.by_language):
        for name, group in groups.items() if len(groups) > 1 else ():
            estimates = [group.accuracy[condition] for condition in conditions]
            shares = [estimate.value if estimate.count else None for estimate in estimates]
            cells = ["" if share is None else f"{100 * share:.1f}" for share in (*shares, group.majority)]
            table.add_row(name, *cells)
    return table


def print_tasks(as_json: bool) -> None:
    """Every task with what it needs, for a person or as JSON."""
    listed = api.tasks()
    if as_json:
        print_json([{"task": name, **asdict(facts)} for name, facts in listed.items()])
        return
    for name, facts in listed.items():
        stdout.print(Text.assemble((name, "bold"), f"  {facts.about}"), soft_wrap=True)
        for file in facts.files:
            stdout.print(f"    {file}", soft_wrap=True)
        stdout.print(f"    from {facts.source} · {facts.licence} · {facts.size}", soft_wrap=True)


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
    max_tokens: Annotated[
        int | None, typer.Option(help="judge: tokens of a reply at most, for a judge that thinks.", min=1)
    ] = None,
    extra_body: Annotated[
        str | None,
        typer.Option(help='judge: a JSON object added to every request, such as {"enable_thinking": false}.'),
    ] = None,
    opinions: Annotated[int, typer.Option(help="judge: grades of each answer, averaged (mmvet).", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Score anybody's predictions as the benchmark itself does."""
    endpoint = None
    if judge is None:
        refuse_given(JUDGES, "for a judge, and none is asked", "add --judge MODEL, or leave them out")
    else:
        from vistune.llm_client import Endpoint, read_extra_body

        endpoint = Endpoint(
            judge,
            base_url=base_url,
            key_file=api_key_file,
            concurrency=concurrency,
            budget=budget,
            prices=prices,
            extra_body=read_extra_body(extra_body),
            max_tokens=max_tokens,
        )
    found = api.score(
        task,
        data,
        predictions,
        parse=parse,
        submission=submission,
        judge=endpoint,
        judgements=judgements,
        opinions=opinions,
        progress=no_progress if as_json else progress_bar,
    )
    for words in (*lines_of(found.unread_fields), *found.warnings):
        print_message(words)
    if as_json:
        print_json(found.to_dict())
        return
    print_score(found)
    if submission is not None:
        stdout.print(f"{submission}: to upload", soft_wrap=True)


def print_score(found: ScoreResult) -> None:
    """Figures, by both parse rules where they differ; then what was missing or not understood, with examples."""
    scored, other = found.scored, found.other
    titles = [found.rule, *(["lenient" if found.rule == "official" else "official"] if other is not None else [])]
    table = Table("", *titles, title=f"{found.task}, {scored.count} questions")
    for name, value in scored.metrics.items():
        table.add_row(name, f"{value:.4f}", *([f"{other.get(name, value):.4f}"] if other is not None else []))
    if scored.metrics:
        stdout.print(table)
    else:
        stdout.print(f"{found.task}, {scored.count} questions: no figure here, {NO_FIGURE}", soft_wrap=True)
    for title, groups in scored.tables.items():
        if not groups:  # the data lack what it is told by
            continue
        breakdown = Table(title, "figure", "questions")
        for group, (value, count) in groups.items():
            breakdown.add_row(group, f"{value:.2f}", str(count))
        stdout.print(breakdown)
    for count, words in (
        (scored.missing, "questions without a prediction: counted as wrong"),
        (found.repeated, "predictions for a question that has a later one: the last counts"),
    ):
        if count:
            stdout.print(f"{count} {words}", soft_wrap=True)
    print_unparsed(scored.unparsed, scored.examples)


def print_unparsed(count: int, examples: Sequence[tuple[str, str]]) -> None:
    """How many replies the rule could not read, and some of them; nothing where it read all."""
    if count:
        stdout.print(f"{count} replies that cannot be parsed: scored as the protocol says, such as", soft_wrap=True)
    for name, text in examples:
        stdout.print(f"    {name}: {text[:200]!r}", soft_wrap=True)
