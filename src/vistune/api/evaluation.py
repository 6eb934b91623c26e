"""Evaluate models, answer one's own questions, and score predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from vistune.api.arguments import PathLike
from vistune.api.models import load
from vistune.errors import RecipeError
from vistune.files import write_json
from vistune.notebook import notebook_progress
from vistune.progress import OnMessage, Progress, ignore_message

if TYPE_CHECKING:
    from vistune.evaluation import (
        AnsweredFile,
        AnswerOptions,
        Comparison,
        DescriptionScore,
        EvaluationOptions,
        EvaluationResult,
        Facts,
        ScoreOptions,
        ScoreResult,
    )
    from vistune.llm_client import Endpoint

BLIND_QUESTIONS = 600  # questions that are also asked without an image and with a wrong one, chosen by a seed
Options = TypeVar("Options", bound=Mapping[str, Any])


def _with_paths(options: Options, *names: str) -> Options:
    """Return keyword arguments in which these are path objects."""
    paths = {name: Path(options[name]) for name in names if options.get(name) is not None}
    return cast("Options", {**options, **paths})


@overload
def evaluate(
    model: PathLike | Endpoint,
    *,
    task: str,
    data: PathLike,
    progress: Progress = ...,
    **options: Unpack[EvaluationOptions],
) -> EvaluationResult: ...
@overload
def evaluate(
    model: PathLike | Endpoint,
    *,
    tasks: Sequence[str],
    data: PathLike | Mapping[str, PathLike],
    progress: Progress = ...,
    **options: Unpack[EvaluationOptions],
) -> list[EvaluationResult]: ...
def evaluate(
    model: PathLike | Endpoint,
    *,
    task: str | None = None,
    tasks: Sequence[str] | None = None,
    data: PathLike | Mapping[str, PathLike],
    progress: Progress = notebook_progress,
    **options: Unpack[EvaluationOptions],
) -> EvaluationResult | list[EvaluationResult]:
    """Ask a task's questions with the image, without it and with a wrong one; keep the answers in `out`.

    With `task` there is one result; with `tasks` there is a list, and the model is loaded once. Under torchrun the
    processes share the questions, and each returns the whole result.

    Args:
        model: Run folder, model folder, a folder of a layout that `import` reads, or a model behind an
            OpenAI-compatible endpoint, which needs `out`.
        task: Name of a task, such as `pope`.
        tasks: Names of several tasks.
        data: Data folder of the tasks; a mapping gives each task its own.
        progress: Shows progress bars; by default in notebooks only.
        options: Fields of `vistune.evaluation.EvaluationRequest`, such as `out`, `limit` and `blind`, and `device`,
            `dtype` and `quantize` of the model.
    """
    from vistune.evaluation.models import evaluate_models
    from vistune.evaluation.request import EvaluationRequest, split_options

    if (task is None) == (tasks is None):
        raise RecipeError("evaluate needs `task` or `tasks`", "give one of them")
    names = _task_names(tasks) if task is None else [task]
    folders = _task_folders(names, data)
    model_options, fields = split_options({"blind_limit": BLIND_QUESTIONS, **_with_paths(options, "out")})
    requests = [EvaluationRequest(name, folder, **fields) for name, folder in folders.items()]
    [results] = evaluate_models([_as_model(model)], lambda _: requests, model_options, progress)
    return results if task is None else results[0]


def _as_model(model: PathLike | Endpoint) -> Path | Endpoint:
    from vistune.llm_client import Endpoint

    return model if isinstance(model, Endpoint) else Path(model)


def _task_names(tasks: Sequence[str] | None) -> list[str]:
    """Return the names of tasks; a string is one name, not a list of letters."""
    names = [tasks] if isinstance(tasks, str) else list(tasks or ())
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"tasks: {', '.join(names) or 'none given'}", "name at least one task, and each once")
    return names


def _task_folders(names: Sequence[str], data: PathLike | Mapping[str, PathLike]) -> dict[str, Path]:
    """Return the data folder of each task."""
    if not isinstance(data, Mapping):
        return dict.fromkeys(names, Path(data))
    if set(names) != set(data):
        raise RecipeError(
            f"data: has folders for {', '.join(data)}, the tasks are {', '.join(names)}", "give each task one folder"
        )
    return {name: Path(data[name]) for name in names}


def evaluate_all(
    models: Sequence[PathLike | Endpoint],
    tasks: Mapping[str, PathLike],
    *,
    progress: Progress = notebook_progress,
    on_message: OnMessage = ignore_message,
    **options: Unpack[EvaluationOptions],
) -> Comparison:
    """Evaluate several models on several tasks; return their comparison, with a result per model and task.

    Args:
        tasks: Task names with their data folders.
        on_message: Called with a message for each unread field of the user's questions.
        options: As for `evaluate`. `out` is the folder for the answers; with several models, each has a subfolder.
            comparison.json and comparison.html are written there too, unless there is only one model and one task.
            Without `out`, answers are stored in each run folder, but only if all questions are asked (no `limit`).
    """
    from vistune.evaluation import models as evaluation
    from vistune.report import write_comparison

    options = _with_paths(options, "out")
    paths = {task: Path(folder) for task, folder in tasks.items()}
    comparison, is_first = evaluation.evaluate_all(
        [_as_model(model) for model in models], paths, progress=progress, on_message=on_message, options=options
    )
    out = options.get("out")
    if out is not None and is_first and len(models) * len(tasks) > 1:
        out = Path(out)
        write_json(out / "comparison.json", comparison.to_dict())
        write_comparison(out)
    return comparison


def answer(
    model: PathLike,
    questions: PathLike,
    out: PathLike,
    *,
    progress: Progress = notebook_progress,
    on_message: OnMessage = ignore_message,
    **options: Unpack[AnswerOptions],
) -> AnsweredFile:
    """Let a model answer a user's questions, and write a predictions file. After a kill, the same call resumes.

    Args:
        on_message: Called with a message for each unread field of the questions.
        options: Fields of `vistune.evaluation.AnswerRequest`: `images`, `max_tokens` and `again`; and `device`, `dtype`
            and `quantize` of the model.
    """
    from vistune.evaluation.models import AnswerRequest, answer_questions
    from vistune.evaluation.request import split_options

    model_options, fields = split_options(_with_paths(options, "images"))
    request = AnswerRequest(Path(questions), Path(out), **fields)
    return answer_questions(Path(model), request, model_options, progress=progress, on_message=on_message)


def score(
    task: str,
    data: PathLike,
    predictions: PathLike,
    *,
    progress: Progress = notebook_progress,
    **options: Unpack[ScoreOptions],
) -> ScoreResult:
    """Score anybody's predictions by the benchmark's own protocol; no model is loaded and torch is not imported.

    Args:
        options: Fields of `vistune.evaluation.ScoreRequest`. `submission` is where to write the file that the
            benchmark's server takes. `judge` grades free-form answers; its replies are kept in `judgements` (default:
            next to the predictions), so that the same call sends no request twice. `opinions` is the number of gradings
            of each answer, for tasks that use the mean of several gradings.
    """
    from vistune.evaluation.scorer import ScoreRequest, score_file

    paths: Mapping[str, Any] = _with_paths(options, "submission", "judgements")
    return score_file(ScoreRequest(task, Path(data), Path(predictions), **paths), progress)


def tasks() -> dict[str, Facts]:
    """Return every task by name, with its files, their source and their licence."""
    from vistune.evaluation import TASKS

    return {name: task.facts for name, task in TASKS.items()}


def describe(
    model: PathLike, data: PathLike, split: str, *, out: PathLike, limit: int, progress: Progress = notebook_progress
) -> DescriptionScore:
    """Have the model describe images freely; measure recall and precision of the objects it names."""
    from vistune.datagen import read_source
    from vistune.evaluation import describe

    images = read_source(Path(data), split).images[:limit]
    assistant = load(model)
    with progress("describe", 2 * len(images)) as advance:
        result = describe(assistant.model, assistant.processor, images, advance=advance)
    write_json(Path(out) / "descriptions.json", result.to_dict())
    return result
