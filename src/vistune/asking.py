"""Asking models: a benchmark's questions or a user's own, one model or several, one process or torchrun's.

model folders + tasks with their data -> Measurements -> results, comparison.json, comparison.html
model folder + questions -> answers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistune.console import Watch, silent, tell
from vistune.files import write_json
from vistune.measuring import BLIND_QUESTIONS
from vistune.models import chosen_device, find_model, is_ours, load

if TYPE_CHECKING:
    from vistune.evaluation import AnsweredFile, Measurement, Wanted
    from vistune.generation import Assistant


def evaluate(
    model: Path,
    *,
    task: str,
    data: Path,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    watch: Watch = silent,
    **wanted: Any,
) -> dict[str, Any]:
    """Ask a task's questions with the picture, without it and with a wrong one; keeps answers in `out`.

    `wanted`: as `vistune.evaluation.Wanted` has it · `device`, `dtype`, `quantize`: as `load` has them. Under torchrun
    the processes share the questions, and each returns the whole result.
    """
    from vistune.evaluation import Wanted

    asked = Wanted(task, data, **{"blind_limit": BLIND_QUESTIONS, **wanted})
    [[measured]] = measure([model], lambda model: [asked], device, dtype, quantize, watch)
    return measured.result


def evaluate_all(
    models: Sequence[Path],
    tasks: Mapping[str, Path],
    *,
    out: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    watch: Watch = silent,
    tell: Callable[[str], None] = lambda words: None,
    **wanted: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Several models on several tasks: (a result for each model and task, their comparison).

    `tell`: called with a message for each unread field of the user's questions. `tasks`: each with its data folder.
    `out`: has a folder per model if there are several, and comparison.json and comparison.html unless one model is
    asked one task. Without `out`, each run folder keeps its own answers if all questions are asked.
    """
    from vistune.evaluation import TASKS, Wanted, compare, joined, labels_of
    from vistune.registry import lookup
    from vistune.report import write_comparison

    if len(tasks) > 1:
        for task, data in tasks.items():  # what is missing is said before the first is asked
            made = lookup(task, TASKS, "task")(data)
            made.questions()
            made.check_images()
    labels = dict(zip(models, labels_of(models), strict=True))

    def all_of(model: Path) -> list[Wanted]:
        place = kept_in(model, wanted.get("limit")) if out is None else out / labels[model] if len(models) > 1 else out
        return [Wanted(task, data, out=place, **wanted) for task, data in tasks.items()]

    with joined() as ranks:
        found = measure(models, all_of, device, dtype, quantize, watch, tell)
        comparison = compare(dict(zip(labels.values(), found, strict=True)), seed=wanted.get("seed", 0))
        if out is not None and ranks.is_first and len(models) * len(tasks) > 1:
            write_json(out / "comparison.json", comparison)
            write_comparison(out)
    return [measured.result for of_model in found for measured in of_model], comparison


def kept_in(model: Path, limit: int | None) -> Path | None:
    """Where a run keeps answers of its own: a look at a few questions is not the run's result, and is not kept."""
    return model / "evals" if (model / "run.json").is_file() and limit is None else None


def measure(
    models: Sequence[Path],
    wanted: Callable[[Path], Sequence[Wanted]],
    device: str,
    dtype: str,
    quantize: int | None,
    watch: Watch,
    tell: Callable[[str], None] = lambda words: None,
) -> list[list[Measurement]]:
    """Load each model once and run its requested tasks, with all processes of torchrun together.

    `tell`: see `evaluate_all`; called for the first model only, because all models get the same questions.
    """
    from vistune.evaluation import joined, labels_of, measure, own_device

    found = []
    labels = dict(zip(models, labels_of(models), strict=True))
    with joined() as ranks:
        for model in models:
            folder = find_model(model) if is_ours(model) else model
            place = own_device(chosen_device(device), ranks)
            assistant = load(model, device=place, dtype=dtype, quantize=quantize)
            shown = watch if ranks.is_first else silent
            said = tell if ranks.is_first and model == models[0] else lambda words: None
            if len(models) > 1:
                shown = _named(labels[model], shown)
            found.append(
                [
                    measure(assistant, folder, each, told_as=str(model), watch=shown, tell=said, ranks=ranks)
                    for each in wanted(model)
                ]
            )
    return found


def _named(model: str, watch: Watch) -> Watch:
    return lambda label, total: watch(f"{model}: {label}", total)


def answer(
    model: Path,
    questions: Path,
    out: Path,
    *,
    images: Path | None = None,
    max_tokens: int = 256,
    again: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    watch: Watch = silent,
    tell: Callable[[str], None] = tell,
) -> AnsweredFile:
    """Answer a user's own questions into a predictions file. A killed call resumes.

    `tell`: called with a message for each unread field of the questions; by default it prints on stderr.
    """
    from vistune.evaluation import answer_file, joined, own_device

    with joined() as ranks:
        folder = find_model(model) if is_ours(model) else model
        assistant = load(model, device=own_device(chosen_device(device), ranks), dtype=dtype, quantize=quantize)
        shown = watch if ranks.is_first else silent
        return answer_file(
            assistant,
            folder,
            questions,
            out,
            images=images,
            max_tokens=max_tokens,
            again=again,
            told_as=str(model),
            watch=shown,
            tell=tell if ranks.is_first else lambda words: None,
            ranks=ranks,
        )


def tasks_of(tasks: Mapping[str, Path], limit: int | None) -> Callable[[Assistant, Watch], dict[str, float]]:
    """Asks a model that is still learning; its figures as TASK.METRIC. `limit`: questions of each, by a seeded choice.

    Raises RecipeError or DataError at once where a task is unknown or its data are not there.
    """
    from vistune.evaluation import TASKS, choose, plan, result_of
    from vistune.evaluation.session import run
    from vistune.registry import lookup

    made = {name: lookup(name, TASKS, "validation.tasks")(folder) for name, folder in tasks.items()}
    asked = {name: choose(task.questions(), limit, 0) for name, task in made.items()}
    for task in made.values():
        task.check_images()

    def evaluate(assistant: Assistant, watch: Watch) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, task in made.items():
            blocks = plan(asked[name], (), ("with_image",))
            answered = run(assistant, task, asked[name], blocks, label=f"ask {name}", watch=watch)
            metrics = result_of(name, task, {"with_image": answered})["metrics"]
            found |= {f"{name}.{key}": float(value) for key, value in metrics.items() if value is not None}
        return found

    return evaluate
