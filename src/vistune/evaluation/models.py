"""Evaluate model folders: load each model once and ask it every task, alone or with torchrun's other processes.

model folders + tasks with their data -> Measurements, their comparison · model folder + questions -> predictions file
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.evaluation.comparison import compare, labels_of
from vistune.evaluation.measurement import AnsweredFile, Measurement, Wanted, answer_file, measure
from vistune.evaluation.ranks import joined, own_device
from vistune.evaluation.runner import choose, plan
from vistune.evaluation.scoring import result_of
from vistune.evaluation.session import run
from vistune.evaluation.tasks import TASKS
from vistune.generation import Assistant
from vistune.interop.load import load
from vistune.model.devices import resolve_device
from vistune.progress import OnMessage, Progress, ignore_message, no_progress
from vistune.recipe import Recipe
from vistune.registry import lookup
from vistune.runs.folder import find_model, is_vistune_folder


def evaluate_models(
    models: Sequence[Path],
    tasks: Mapping[str, Path],
    out: Path | None,
    device: str,
    dtype: str,
    quantize: int | None,
    progress: Progress,
    on_message: OnMessage,
    **options: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """Evaluate several models on several tasks, as `vistune.evaluate_all`.

    Returns:
        The result of each model and task, their comparison, and whether this is the first process.
    """
    if len(tasks) > 1:
        for task, data in tasks.items():  # report missing data before the first question is asked
            benchmark = lookup(task, TASKS, "task")(data)
            benchmark.questions()
            benchmark.check_images()
    labels = dict(zip(models, labels_of(models), strict=True))

    def wanted(model: Path) -> list[Wanted]:
        place = kept_in(model, options.get("limit")) if out is None else out / labels[model] if len(models) > 1 else out
        return [Wanted(task, data, out=place, **options) for task, data in tasks.items()]

    with joined() as ranks:
        measured = measure_models(models, wanted, device, dtype, quantize, progress, on_message)
        comparison = compare(dict(zip(labels.values(), measured, strict=True)), seed=options.get("seed", 0))
        is_first = ranks.is_first
    return [row.result for of_model in measured for row in of_model], comparison, is_first


def kept_in(model: Path, limit: int | None) -> Path | None:
    """Return where a run keeps its own answers; None for a part of the questions, which is not the run's result."""
    return model / "evals" if (model / "run.json").is_file() and limit is None else None


def measure_models(
    models: Sequence[Path],
    wanted: Callable[[Path], Sequence[Wanted]],
    device: str,
    dtype: str,
    quantize: int | None,
    progress: Progress,
    on_message: OnMessage = ignore_message,
) -> list[list[Measurement]]:
    """Load each model once and run its tasks, with all processes of torchrun together.

    Messages are passed on for the first model only, because all models get the same questions.
    """
    measured = []
    labels = dict(zip(models, labels_of(models), strict=True))
    with joined() as ranks:
        for model in models:
            folder = find_model(model) if is_vistune_folder(model) else model
            own = own_device(resolve_device(device), ranks)
            assistant = load(model, device=own, dtype=dtype, quantize=quantize)
            shown = progress if ranks.is_first else no_progress
            listener = on_message if ranks.is_first and model == models[0] else ignore_message
            if len(models) > 1:
                shown = _labelled(labels[model], shown)
            measured.append(
                [
                    measure(
                        assistant, folder, each, told_as=str(model), progress=shown, on_message=listener, ranks=ranks
                    )
                    for each in wanted(model)
                ]
            )
    return measured


def _labelled(model: str, progress: Progress) -> Progress:
    return lambda label, total: progress(f"{model}: {label}", total)


def answer_questions(
    model: Path,
    questions: Path,
    out: Path,
    device: str,
    dtype: str,
    quantize: int | None,
    progress: Progress,
    on_message: OnMessage,
    *,
    images: Path | None = None,
    max_tokens: int = 256,
    again: bool = False,
) -> AnsweredFile:
    """Answer a user's own questions into a predictions file, as `vistune.answer`."""
    with joined() as ranks:
        folder = find_model(model) if is_vistune_folder(model) else model
        own = own_device(resolve_device(device), ranks)
        return answer_file(
            load(model, device=own, dtype=dtype, quantize=quantize),
            folder,
            questions,
            out,
            images=images,
            max_tokens=max_tokens,
            again=again,
            told_as=str(model),
            progress=progress if ranks.is_first else no_progress,
            on_message=on_message if ranks.is_first else ignore_message,
            ranks=ranks,
        )


def validation_tasks(recipe: Recipe) -> Callable[[Assistant, Progress], dict[str, float]] | None:
    """Return a function that asks a model in training the tasks of the recipe's `validation`; None if it has none.

    The function returns figures as TASK.METRIC.

    Raises:
        RecipeError, DataError: A task is unknown, or its data are missing.
    """
    if recipe.validation is None or not recipe.validation.tasks:
        return None
    tasks = {name: lookup(name, TASKS, "validation.tasks")(folder) for name, folder in recipe.validation.tasks.items()}
    questions = {name: choose(task.questions(), recipe.validation.task_limit, 0) for name, task in tasks.items()}
    for task in tasks.values():
        task.check_images()

    def evaluate(assistant: Assistant, progress: Progress) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, task in tasks.items():
            blocks = plan(questions[name], (), ("with_image",))
            answered = run(assistant, task, questions[name], blocks, label=f"ask {name}", progress=progress)
            metrics = result_of(name, task, {"with_image": answered})["metrics"]
            figures |= {f"{name}.{key}": float(value) for key, value in metrics.items() if value is not None}
        return figures

    return evaluate
