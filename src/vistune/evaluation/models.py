"""Evaluate models: load each folder once and ask it every task, alone or with torchrun's other processes.

model folders and endpoints + requests -> EvaluationResult per model and task
model folder + the user's questions -> predictions file
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from vistune.errors import DataError, RecipeError
from vistune.evaluation.answers import AnswerFile, Ranks, device_of_rank, drop_drafts, open_ranks
from vistune.evaluation.comparison import Comparison, compare, file_name
from vistune.evaluation.conditions import choose_questions, conditions_for, plan_blocks
from vistune.evaluation.endpoint import endpoint_model, labels_with_endpoints
from vistune.evaluation.request import EvaluationOptions, EvaluationRequest, ModelOptions, split_options
from vistune.evaluation.results import AnsweredQuestion, EvaluationResult, evaluation_result, score_answers
from vistune.evaluation.runner import Answerer, LocalModel, TaskRun
from vistune.evaluation.task import Benchmark, Reply, questions_of
from vistune.evaluation.tasks import open_task
from vistune.evaluation.tasks.file import File
from vistune.files import write_json
from vistune.generation import Assistant
from vistune.interop.load import load
from vistune.llm_client import Endpoint
from vistune.model.precision import resolve_device
from vistune.progress import OnMessage, Progress, ignore_message, no_progress
from vistune.recipe import Recipe
from vistune.records import UnreadField, lines_of
from vistune.runs.folder import find_model, is_vistune_folder


@dataclass(frozen=True, slots=True)
class AnsweredFile:
    """A written predictions file: its path, the number of answers, and unread fields and warnings of its questions."""

    path: Path
    count: int
    unread_fields: tuple[UnreadField, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return what `answer --json` prints."""
        fields = [field.to_dict() for field in self.unread_fields]
        return {"out": str(self.path), "count": self.count, "unread_fields": fields}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, the path by which the user named it, and the folder of its weights."""

    path: Path
    folder: Path
    assistant: Assistant


def load_model(path: Path, options: ModelOptions, ranks: Ranks) -> LoadedModel:
    """Load a model onto this process's device."""
    folder = find_model(path) if is_vistune_folder(path) else path
    device = device_of_rank(resolve_device(options.device), ranks)
    return LoadedModel(path, folder, load(path, device=device, dtype=options.dtype, quantize=options.quantize))


def evaluate_all(
    models: Sequence[Path | Endpoint],
    tasks: Mapping[str, Path],
    *,
    progress: Progress,
    on_message: OnMessage,
    options: EvaluationOptions,
) -> tuple[Comparison, bool]:
    """Evaluate several models on several tasks; also return whether this is the first process."""
    if len(tasks) > 1:
        for task, data in tasks.items():  # report missing data before the first question is asked
            benchmark = open_task(task, data, match=options.get("match"))
            questions_of(benchmark)
            benchmark.check_images()
    labels = labels_with_endpoints(models)
    model_options, fields = split_options(options)
    out = fields.pop("out", None)

    def requests_of(model: Path | Endpoint) -> list[EvaluationRequest]:
        if out is not None:
            folder = out / labels[models.index(model)] if len(models) > 1 else out
        elif isinstance(model, Endpoint):
            folder = None
        else:  # a run keeps its own answers, unless they are to a part of the questions
            is_whole_run = (model / "run.json").is_file() and fields.get("limit") is None
            folder = model / "evals" if is_whole_run else None
        return [EvaluationRequest(task, data, out=folder, **fields) for task, data in tasks.items()]

    with open_ranks() as ranks:
        results = evaluate_models(models, requests_of, model_options, progress, on_message)
        comparison = compare(dict(zip(labels, results, strict=True)), seed=fields.get("seed", 0))
        return comparison, ranks.is_first


def evaluate_models(
    models: Sequence[Path | Endpoint],
    requests_of: Callable[[Path | Endpoint], Sequence[EvaluationRequest]],
    options: ModelOptions,
    progress: Progress,
    on_message: OnMessage = ignore_message,
) -> list[list[EvaluationResult]]:
    """Load each model once and run its requests, together with all processes of torchrun.

    Messages are passed on for the first model only, because all models get the same questions.
    """
    results = []
    with open_ranks() as ranks:
        for label, each in zip(labels_with_endpoints(models), models, strict=True):
            model = each if isinstance(each, Endpoint) else load_model(each, options, ranks)
            shown = progress if ranks.is_first else no_progress
            is_listening = ranks.is_first and (each == models[0] or isinstance(each, Endpoint))
            listener = on_message if is_listening else ignore_message
            if len(models) > 1:
                shown = _labelled(label, shown)
            results.append(
                [
                    measure(model, request, progress=shown, on_message=listener, ranks=ranks)
                    for request in requests_of(each)
                ]
            )
    return results


def _labelled(model: str, progress: Progress) -> Progress:
    return lambda label, total: progress(f"{model}: {label}", total)


def _answerer(
    model: LoadedModel | Endpoint, request: EvaluationRequest, on_message: OnMessage, ranks: Ranks
) -> Answerer:
    """Return the object that answers a request's questions. Raises RecipeError if an endpoint cannot be used here."""
    if isinstance(model, LoadedModel):
        return LocalModel(model.assistant, model.folder)
    if request.out is None:
        raise RecipeError("--endpoint: needs a folder for the replies", "add --out DIR")
    if ranks.count > 1:
        raise RecipeError(
            "--endpoint: cannot be used with torchrun",
            "start the command without torchrun; --concurrency sets the number of concurrent requests",
        )
    return endpoint_model(model, _answer_path(request, request.out), again=request.again, on_message=on_message)


def _answer_path(request: EvaluationRequest, out: Path) -> Path:
    return out / f"{file_name(request.name or request.task)}.predictions.jsonl"


def measure(
    model: LoadedModel | Endpoint,
    request: EvaluationRequest,
    *,
    progress: Progress,
    on_message: OnMessage = ignore_message,
    ranks: Ranks | None = None,
) -> EvaluationResult:
    """Ask a task's questions, store the answers, and score them."""
    ranks = ranks or Ranks()
    name = file_name(request.name or request.task)
    task = open_task(request.task, request.data, match=request.match)
    questions = choose_questions(questions_of(task), request.limit, request.seed)
    if not questions:
        raise DataError(f"{request.data}: has no question of {request.task}", "check --data")
    task.check_images()
    _report_unread(task, on_message)
    if request.out is None and not score_answers(task, [Reply(questions[0], None)]).metrics:
        raise RecipeError(
            f"{request.task} is scored by a judge or by the benchmark's server, and without --out the answers would "
            "be lost",
            "add --out DIR, then run `vistune score` on the saved answers",
        )
    blind = choose_questions(questions, request.blind_limit, request.seed)
    possible, left_out = conditions_for(blind)
    blocks = plan_blocks(questions, blind, possible if request.blind else possible[:1], seed=request.seed)
    run = TaskRun(request.task, task, questions, blocks, request.letters)
    answerer = _answerer(model, request, on_message, ranks)
    settings = run.settings(answerer)
    with ExitStack() as stack:
        file = None
        if request.out is not None:
            path = _answer_path(request, request.out)
            file = stack.enter_context(AnswerFile(path, settings, again=request.again, ranks=ranks))
        answered = run.answer(answerer, label=f"ask {name}", progress=progress, file=file, ranks=ranks)
    answers: dict[str, list[AnsweredQuestion]] = defaultdict(list)
    for answer in answered:
        answers[answer.condition].append(answer)
    result = replace(
        evaluation_result(request.task, task, dict(answers), seed=request.seed),
        model=str(model.path) if isinstance(model, LoadedModel) else model.model,
        asked_with=settings,
        unread_fields=tuple(task.unread_fields),
        left_out=left_out if request.blind else {},
        benchmark=task,
    )
    if request.out is not None and ranks.is_first:
        drop_drafts(request.out / f"{name}.json")
        write_json(request.out / f"{name}.json", result.to_dict())
    return result


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A user's own questions, in the format of the task `file` with or without right answers, and the output file.

    Attributes:
        out: The predictions file: LLaVA's answer lines, in the order of the questions when the file is complete.
        images: The folder of the images, if it is not the questions' own.
        again: Whether to replace the answers that are in `out`.
    """

    questions: Path
    out: Path
    images: Path | None = None
    max_tokens: int = 256
    again: bool = False


def answer_questions(
    path: Path,
    request: AnswerRequest,
    options: ModelOptions,
    *,
    progress: Progress,
    on_message: OnMessage = ignore_message,
) -> AnsweredFile:
    """Let a model answer a user's questions, and write the predictions file of `vistune.answer`."""
    with open_ranks() as ranks:
        model = load_model(path, options, ranks)
        task = File(request.questions, images=request.images, gold=False)
        task.max_tokens = request.max_tokens
        questions = task.questions()
        if not questions:
            hint = 'each line is {"question_id": …, "text": …, "image": …}'
            raise DataError(f"{request.questions}: has no question", hint)
        task.check_images()
        _report_unread(task, on_message if ranks.is_first else ignore_message)

        def line_of(answer: AnsweredQuestion) -> dict[str, object]:
            return {
                "question_id": answer.question.id,
                "prompt": answer.question.sample.messages[-1].text,
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "model_id": str(path),
                "metadata": {},
            }

        run = TaskRun("file", task, questions, plan_blocks(questions, (), ("with_image",)), line_of=line_of)
        shown = progress if ranks.is_first else no_progress
        answerer = LocalModel(model.assistant, model.folder)
        settings = run.settings(answerer)
        with AnswerFile(request.out, settings, again=request.again, ranks=ranks) as file:
            answers = run.answer(answerer, label="answer", progress=shown, file=file, ranks=ranks)
    return AnsweredFile(request.out, len(answers), tuple(task.unread_fields), tuple(task.warnings))


def _report_unread(task: Benchmark, on_message: OnMessage) -> None:
    """Report each unread field of the user's questions, and each warning."""
    for message in (*lines_of(task.unread_fields), *task.warnings):
        on_message(message)


def validation_tasks(recipe: Recipe) -> Callable[[Assistant, Progress], dict[str, float]] | None:
    """Return a function that asks a model in training the tasks of the recipe's `validation`; None if it has none.

    The function returns figures as TASK.METRIC.

    Raises:
        RecipeError, DataError: A task is unknown, or its data are missing.
    """
    if recipe.validation is None or not recipe.validation.tasks:
        return None
    runs = []
    for name, folder in recipe.validation.tasks.items():
        task = open_task(name, folder, "validation.tasks")
        questions = choose_questions(questions_of(task), recipe.validation.task_limit, 0)
        runs.append(TaskRun(name, task, questions, plan_blocks(questions, (), ("with_image",))))
    for run in runs:
        run.task.check_images()

    def evaluate(assistant: Assistant, progress: Progress) -> dict[str, float]:
        figures: dict[str, float] = {}
        for run in runs:
            answers = run.answer(LocalModel(assistant), label=f"ask {run.name}", progress=progress)
            metrics = evaluation_result(run.name, run.task, {"with_image": answers}).metrics
            figures |= {f"{run.name}.{key}": float(value) for key, value in metrics.items() if value is not None}
        return figures

    return evaluate
