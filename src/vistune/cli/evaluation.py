"""The commands that measure: evaluate, answer and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vistune import api
from vistune.cli import endpoint as endpoints
from vistune.cli.commands import refuse_given
from vistune.cli.console import (
    Device,
    Dtype,
    Json,
    OwnText,
    Quantize,
    count_of,
    is_first_process,
    print_json,
    print_lines,
    print_message,
    progress_bar,
    stdout,
)
from vistune.errors import RecipeError
from vistune.records import lines_of

if TYPE_CHECKING:
    from vistune.evaluation import Comparison, EvaluationResult, ScoreResult

ASKING = (  # parameters of `evaluate` that --list does not use
    "model", "task", "data", "limit", "blind", "letters", "out", "again", "match", "endpoint", "device", "dtype",
    "quantize",
)  # fmt: skip
JUDGES = (  # parameters of `score` that only matter with a judge
    "base_url", "api_key_file", "concurrency", "budget", "prices", "judgements", "max_tokens", "extra_body", "opinions",
)  # fmt: skip
Again = Annotated[bool, typer.Option("--again", help="Replace saved answers instead of reusing them.")]
Match = Annotated[
    str | None,
    typer.Option(
        help="Task file: how replies are compared: exact, normalised, contains, number, choice, rouge-l, anls or "
        "judge. KIND=MATCH sets it for one kind; separate several by commas. Default: exact.",
    ),
]
NO_FIGURE = "a judge (vistune score --judge) or the benchmark's server (--submission) gives it"


def evaluate(
    model: Annotated[
        list[Path] | None, typer.Argument(help="Run or model folders. Several models are compared.")
    ] = None,
    task: Annotated[str, typer.Option(help="Task names, separated by commas.")] = "scenes",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data folder of the task, or a folder with one subfolder per task. Default: world/ in the run folder."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Ask about N questions. An image is used with all its questions or not at all.", min=1),
    ] = None,
    blind: Annotated[
        int, typer.Option(help="Ask about N questions also without an image and with a wrong image. 0 = none.", min=0)
    ] = api.BLIND_QUESTIONS,
    letters: Annotated[
        bool,
        typer.Option("--letters", help="Multiple choice: answer with the most likely letter, from one forward pass."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the answers. Default: the run folder. With --limit, answers are stored only if --out is "
            "given."
        ),
    ] = None,
    again: Again = False,
    match: Match = None,
    endpoint: endpoints.Url = None,
    endpoint_model: endpoints.EndpointModel = None,
    api_key_file: endpoints.ApiKeyFile = None,
    concurrency: endpoints.Concurrency = 16,
    requests_per_minute: endpoints.RequestsPerMinute = None,
    tokens_per_minute: endpoints.TokensPerMinute = None,
    max_tokens: endpoints.MaxTokens = None,
    extra_body: endpoints.ExtraBody = None,
    budget: endpoints.Budget = None,
    prices: endpoints.Prices = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    as_json: Json = False,
    listing: Annotated[bool, typer.Option("--list", help="List all tasks, and where to download their data.")] = False,
) -> None:
    """Evaluate models on benchmarks. Questions are asked with the image, without it, and with a wrong image.

    Answers are saved as they come. To resume an interrupted evaluation, run the same command again. Under torchrun the
    processes share the questions.
    """
    if listing:
        refuse_given((*ASKING, *endpoints.ENDPOINT_OPTIONS), "not used by --list", "remove the option")
        print_tasks(as_json)
        return
    settings = {name: value for name, value in locals().items() if name in endpoints.ENDPOINT_OPTIONS}
    service = endpoints.read_endpoint(endpoint, settings)
    folders = model or []
    if not folders and service is None:
        raise RecipeError("evaluate needs a model", "name a run or model folder, or --list the tasks")
    from vistune.runs.folder import find_model, is_vistune_folder

    for folder in folders:
        if is_vistune_folder(folder):
            find_model(folder)
    comparison = api.evaluate_all(
        [*folders, *([service] if service is not None else [])],
        tasks_of(task, data, folders),
        out=out,
        limit=limit,
        blind=blind > 0,
        blind_limit=blind or None,
        letters=letters,
        again=again,
        match=match,
        progress=progress_bar,
        on_message=print_message,
        **api.LoadOptions(device=device, dtype=dtype, quantize=quantize),
    )
    if not is_first_process():
        return
    if as_json:
        trees = [result.to_dict() for result in comparison.results]
        print_json(trees if len(trees) > 1 else trees[0])
    else:
        print_comparison(comparison, out)


def print_comparison(comparison: Comparison, out: Path | None) -> None:
    """Print the figures of one evaluation, or the table of several."""
    from vistune.evaluation import figures_tables, remarks

    results = comparison.results
    if len(results) == 1:
        stdout.print(result_table(results[0]))
        print_breakdowns(results[0].score.tables)
        print_unparsed(results[0].score.unparsed, results[0].score.examples)
        if (groups := group_table(results[0])).row_count:
            stdout.print(groups)
    if len(results) > 1 or comparison.tasks[0].published:
        for figures in figures_tables(comparison):
            table = Table("", *figures.columns, title=f"{figures.task}, {count_of(figures.count, 'question')}")
            for name, values in figures.rows.items():
                table.add_row(OwnText(name), *values)
            stdout.print(table)
        for remark in remarks(comparison):
            stdout.print(f"- {remark}")
    if out is not None and len(results) > 1:
        print_lines(f"{out / 'comparison.html'}: all metrics, and the questions on which the models differ")


def tasks_of(task: str, data: Path | None, models: Sequence[Path]) -> dict[str, Path]:
    """Return the data folder of each named task. Without --data it is the folder world/ of the run.

    Raises RecipeError if it is not there, and for names that are missing or given twice.
    """
    if data is None and len(models) > 1:
        raise RecipeError("several models must be asked the same questions", "add --data DIR")
    world = models[0] / "world" if models else Path("world")
    if data is None and (not models or not world.is_dir()):
        raise RecipeError(
            "evaluate needs the task's data", "add --data DIR; `vistune evaluate --list` shows which files"
        )
    names = [name for name in task.split(",") if name]
    if len(set(names)) < len(names) or not names:
        raise RecipeError(f"--task {task}: is empty, or names a task twice", "name each task once, separated by commas")
    return {name: folder_of(data or world, name, many=len(names) > 1) for name in names}


def answer(
    model: Annotated[Path, typer.Argument(help="Run or model folder.")],
    questions: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Questions with question_id, text and image, in any data format."),
    ],
    out: Annotated[Path, typer.Option(help="Predictions file to write.")],
    images: Annotated[Path | None, typer.Option(help="Image folder. Default: the folder of the questions.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Maximum number of tokens per answer.", min=1)] = 256,
    again: Again = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Let a model answer your questions. Writes a predictions file. To resume, run the same command again."""
    loading = api.LoadOptions(device=device, dtype=dtype, quantize=quantize)
    answered = api.answer(
        model,
        questions,
        out,
        images=images,
        max_tokens=max_tokens,
        again=again,
        progress=progress_bar,
        on_message=print_message,
        **loading,
    )
    if not is_first_process():
        return
    if as_json:
        print_json(answered.to_dict())
    else:
        print_lines(f"{out}: {count_of(answered.count, 'answer')}")


def folder_of(data: Path, task: str, *, many: bool) -> Path:
    """Return the data folder of a task: `data`, or with `many` tasks the subfolder with the task's name if it exists.

    The folder of the synthetic scenes has an image folder called `scenes`, which is not the data of the task `scenes`.
    """
    is_scenes_folder = task in ("scenes", "combinations") and (data / "questions_heldout.jsonl").is_file()
    return data / task if many and not is_scenes_folder and (data / task).is_dir() else data


def result_table(result: EvaluationResult) -> Table:
    """Return the figures of a result as a table."""
    table = Table("", "", "", title=f"{result.task}, {result.count} questions")
    seen = result.intervals.get("with_image")
    for name, value in result.metrics.items():
        is_shown_below = seen is not None and name == "accuracy" and value in (seen.value, 100 * seen.value)
        if not is_shown_below:
            table.add_row(name, f"{value:.2f}", "")
    if not result.metrics:
        table.add_row("no figure here", "", NO_FIGURE)
    for condition, interval in result.intervals.items():
        shown = f"{100 * interval.low:.1f} – {100 * interval.high:.1f}" if interval.has_interval else "too few images"
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
    """Return the accuracy of each question type, language and source by condition; empty if there is one of each."""
    conditions = list(result.intervals)
    table = Table("right, per cent", *[condition.replace("_", " ") for condition in conditions], "majority")
    for groups in (result.by_type, result.by_language, result.by_source):
        for name, group in groups.items() if len(groups) > 1 else ():
            estimates = [group.accuracy[condition] for condition in conditions]
            shares = [estimate.value if estimate.count else None for estimate in estimates]
            cells = ["" if share is None else f"{100 * share:.1f}" for share in (*shares, group.majority)]
            table.add_row(name, *cells)
    return table


def print_tasks(as_json: bool) -> None:
    """Print every task with its files, source, licence and size."""
    listed = api.tasks()
    if as_json:
        print_json([{"task": name, **asdict(entry)} for name, entry in listed.items()])
        return
    for name, entry in listed.items():
        print_lines(Text.assemble((name, "bold"), f"  {entry.about}"), *(f"    {file}" for file in entry.files))
        print_lines(f"    from {entry.source} · {entry.licence} · {entry.size}")


def score(
    task: Annotated[str, typer.Argument(help="Task name. `vistune evaluate --list` shows all.")],
    data: Annotated[Path, typer.Option(help="Folder with the official files of the benchmark.")],
    predictions: Annotated[Path, typer.Option(help="Predictions file, in any format that is common for the task.")],
    parse: Annotated[
        str, typer.Option(help="Rule for parsing answers: official, or lenient if the task has it.")
    ] = "official",
    submission: Annotated[
        Path | None, typer.Option(help="Also write the file to upload to the benchmark's server.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Judge model that grades free-form answers, for tasks that need one.")
    ] = None,
    base_url: Annotated[
        str, typer.Option(help="judge: URL of an OpenAI-compatible endpoint.")
    ] = "https://api.openai.com/v1",
    api_key_file: Annotated[
        Path | None, typer.Option(help="judge: file with the API key. Default: the variable OPENAI_API_KEY.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="judge: maximum number of concurrent requests.", min=1)] = 16,
    budget: Annotated[
        float | None,
        typer.Option(help="judge: maximum cost in dollars. No request is sent that could exceed it.", min=0),
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="judge: price table to use instead of the built-in one.")] = None,
    judgements: Annotated[
        Path | None, typer.Option(help="judge: folder for its replies. Default: next to the predictions.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="judge: maximum tokens per reply, for judges that reason first.", min=1)
    ] = None,
    extra_body: Annotated[
        str | None,
        typer.Option(
            help='judge: JSON object with extra fields for every request, for example {"enable_thinking": false}.'
        ),
    ] = None,
    opinions: Annotated[
        int, typer.Option(help="judge: number of grades per answer, which are averaged (mmvet).", min=1)
    ] = 1,
    match: Match = None,
    as_json: Json = False,
) -> None:
    """Score predictions with a benchmark's official rules. They may come from any model."""
    endpoint = None
    if judge is None:
        refuse_given(JUDGES, "only used with --judge", "add --judge MODEL, or remove the option")
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
    result = api.score(
        task,
        data,
        predictions,
        parse=parse,
        submission=submission,
        judge=endpoint,
        judgements=judgements,
        opinions=opinions,
        match=match,
        progress=progress_bar,
    )
    for message in (*lines_of(result.unread_fields), *result.warnings):
        print_message(message)
    if as_json:
        print_json(result.to_dict())
        return
    print_score(result)
    if submission is not None:
        print_lines(f"{submission}: upload this file to the benchmark's server")


def print_score(result: ScoreResult) -> None:
    """Print the figures, by both parse rules if they differ, and examples of missing and unparsed replies."""
    scored, other = result.scored, result.other
    titles = [result.rule, *(["lenient" if result.rule == "official" else "official"] if other is not None else [])]
    table = Table("", *titles, title=f"{result.task}, {scored.count} questions")
    for name, value in scored.metrics.items():
        table.add_row(name, f"{value:.4f}", *([f"{other.get(name, value):.4f}"] if other is not None else []))
    if scored.metrics:
        stdout.print(table)
    else:
        print_lines(f"{result.task}, {scored.count} questions: no figure here, {NO_FIGURE}")
    print_breakdowns(scored.tables)
    for count, words in (
        (scored.missing, "questions without a prediction: counted as wrong"),
        (result.repeated, "predictions for a question that has a later one: the last counts"),
    ):
        if count:
            print_lines(f"{count} {words}")
    print_unparsed(scored.unparsed, scored.examples)


def print_breakdowns(tables: Mapping[str, Mapping[str, tuple[float, int]]]) -> None:
    """Print a task's own tables."""
    for title, groups in tables.items():
        if not groups:  # the data do not have this breakdown
            continue
        breakdown = Table(title, "value", "questions")
        for group, (value, count) in groups.items():
            breakdown.add_row(group, f"{value:.2f}", str(count))
        stdout.print(breakdown)


def print_unparsed(count: int, examples: Sequence[tuple[str, str]]) -> None:
    """Print how many answers could not be parsed, with examples."""
    if count:
        print_lines(f"{count} answers cannot be parsed; the benchmark's rules decide how they count. Examples:")
    for name, text in examples:
        print_lines(f"    {name}: {text[:200]!r}")
