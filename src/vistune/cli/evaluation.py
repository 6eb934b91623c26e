"""The commands that measure: evaluate, answer and score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vistune import api
from vistune.cli import endpoint as endpoints
from vistune.cli.commands import refuse_given
from vistune.cli.console import (
    Device,
    Dtype,
    Json,
    Quantize,
    is_first_process,
    print_json,
    print_lines,
    print_message,
    progress_bar,
    say,
)
from vistune.cli.evaluation_tables import print_comparison, print_score, print_tasks
from vistune.errors import RecipeError
from vistune.records import lines_of

LOADING = ("device", "dtype", "quantize")  # parameters of `evaluate` that an endpoint does not use
ASKING = (  # parameters of `evaluate` that --list does not use
    "model", "task", "data", "limit", "blind", "letters", "out", "again", "match", "endpoint", *LOADING,
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
    if not folders:
        refuse_given(LOADING, "only used with a model folder", "name a model folder too, or remove the option")
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
        print_lines(
            say(
                "{out}: {count} answers" if answered.count != 1 else "{out}: 1 answer",
                out=out,
                count=f"{answered.count:,}",
            )
        )


def folder_of(data: Path, task: str, *, many: bool) -> Path:
    """Return the data folder of a task: `data`, or with `many` tasks the subfolder with the task's name if it exists.

    The folder of the synthetic scenes has an image folder called `scenes`, which is not the data of the task `scenes`.
    """
    is_scenes_folder = task in ("scenes", "combinations") and (data / "questions_heldout.jsonl").is_file()
    return data / task if many and not is_scenes_folder and (data / task).is_dir() else data


def score(
    task: Annotated[str, typer.Argument(help="Task name. `vistune evaluate --list` shows all.")],
    data: Annotated[Path, typer.Option(help="Folder with the official files of the benchmark.")],
    predictions: Annotated[Path, typer.Option(help="Predictions file, in any format that is common for the task.")],
    parse: Annotated[
        str,
        typer.Option(help="Rule for parsing answers: official (the published rule), or lenient if the task has it."),
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
    api_key_file: Annotated[Path | None, endpoints.service_option("judge", "api_key_file")] = None,
    concurrency: Annotated[int, endpoints.service_option("judge", "concurrency")] = 16,
    budget: Annotated[float | None, endpoints.service_option("judge", "budget")] = None,
    prices: Annotated[Path | None, endpoints.service_option("judge", "prices")] = None,
    judgements: Annotated[
        Path | None, typer.Option(help="judge: folder for its replies. Default: next to the predictions.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="judge: maximum tokens per reply, for judges that reason first.", min=1)
    ] = None,
    extra_body: Annotated[str | None, endpoints.service_option("judge", "extra_body")] = None,
    opinions: Annotated[
        int, typer.Option(help="judge: number of grades per answer, which are averaged (mmvet).", min=1)
    ] = 1,
    match: Match = None,
    as_json: Json = False,
) -> None:
    """Score predictions by a benchmark's published rules. They may come from any model."""
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
        print_lines(say("{file}: upload this file to the benchmark's server", file=submission))
