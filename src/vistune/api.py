"""The Python API: one function per command. The functions put the packages together.

The usual order is draw_scenes, generate_data, check_data, train, evaluate, write_report; `quickstart` runs all of them.
The functions share only folders, so each step can be repeated by itself. Packages that need torch are imported
inside the functions, so that `vistune --help` answers at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from vistune.errors import DataError, RecipeError
from vistune.files import read_json_if_there, refuse_overwrite, scratch_folder, user_cache, write_json
from vistune.planner.plan import PROCESSES
from vistune.progress import OnMessage, Progress, byte_progress, ignore_message, no_progress
from vistune.recipe import DataSource, Recipe

if TYPE_CHECKING:
    from vistune.data import CheckReport
    from vistune.data.show import ShownSample
    from vistune.datagen import (
        AnnotatedSource,
        FilteredCaptions,
        FilterOptions,
        GeneratedData,
        GenerationConfig,
        Request,
        TableForm,
        TeacherOptions,
    )
    from vistune.datagen.teachers.options import CostEstimate
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
    from vistune.generation import Assistant
    from vistune.interop.export import ImportResult
    from vistune.interop.gguf import GgufExport
    from vistune.interop.load import ParentModel
    from vistune.interop.parity import ParityRow
    from vistune.interop.push import PushResult
    from vistune.interop.verify import VerifyResult
    from vistune.llm_client import Endpoint
    from vistune.planner.plan import Plan
    from vistune.processor import Processor
    from vistune.runs.provenance import Provenance
    from vistune.scenes import DrawnFolder
    from vistune.serving.api import Settings
    from vistune.training import DryRunStage, GradientComparison
    from vistune.types import AnnotatedImage


class SourceSelection(TypedDict, total=False):
    """Which images of a source are used, how a table is read, and the file with words for labels."""

    split: str | None
    table: TableForm | None
    limit: int | None
    labels: Path | None


class LoadOptions(TypedDict, total=False):
    """How a model is loaded; `quantize` is 4 or 8 bits."""

    device: str
    dtype: str
    quantize: int | None


BLIND_QUESTIONS = 600  # questions that are also asked without an image and with a wrong one, chosen by a seed


def draw_scenes(
    out: Path, *, count: int, seed: int = 0, tests: int | None = None, progress: Progress = no_progress
) -> DrawnFolder:
    """Draw the built-in scenes: a COCO folder and its question files."""
    from vistune.scenes import write_world

    tests = max(20, count // 10) if tests is None else tests
    refuse_overwrite(out, "annotations")
    with progress("draw", count + 2 * tests) as advance:
        return write_world(out, count=count, seed=seed, tests=tests, advance=advance)


def generate_data(
    source: Path,
    out: Path,
    config: GenerationConfig,
    *,
    service: TeacherOptions | None = None,
    progress: Progress = no_progress,
    on_message: OnMessage | None = None,
    **selection: Unpack[SourceSelection],
) -> GeneratedData:
    """Generate instruction data from annotated images, with the rule teacher or with the model of a `service`.

    A stopped run with a service resumes when the function is called again with the same `out`.

    Args:
        on_message: Called with each message for the user, such as a parameter that the service refuses; by default
            messages go to the logger `vistune.llm_client`.
        selection: Which images to use (`split`, `limit`), for a table how its columns are read (`table`), and
            `labels`, a file with words for labels that are not in the lexicon.

    Raises:
        NothingWritten: Every sample was rejected. The files are written, with the rejects and their reasons.
    """
    with _labels_of(selection):
        return _generate_data(source, out, config, service, progress, on_message, selection)


def _labels_of(selection: SourceSelection) -> AbstractContextManager[None]:
    from vistune.grounding.labels import read_labels, using_labels

    path = selection.get("labels")
    return nullcontext() if path is None else using_labels(read_labels(path))


def _generate_data(
    source: Path,
    out: Path,
    config: GenerationConfig,
    service: TeacherOptions | None,
    progress: Progress,
    on_message: OnMessage | None,
    selection: SourceSelection,
) -> GeneratedData:
    from vistune import __version__, datagen
    from vistune.datagen.teachers import refuse_untranslated
    from vistune.grounding.guessing import (
        answer_pairs_of,
        conversations_of,
        measure_guessing,
        measure_pair_guessing,
    )
    from vistune.grounding.labels import unknown_labels, write_template
    from vistune.report import write_data_report

    if (service is None or not (out / "journal.jsonl").exists()) and not _wrote_nothing(out):
        refuse_overwrite(out, "samples.json")
    seen = service is not None and service.see
    split, limit = selection.get("split"), selection.get("limit")
    described = datagen.described_source(
        source, split, selection.get("table"), limit, seen=seen, unpack_to=out / "images"
    )
    images = described.images
    if service is None:
        refuse_untranslated(images, config, source)
    held_out = datagen.choose_held_out(images, config.held_out, config.seed)
    requests = _requests_of(images, config, source)
    if service is None:
        with progress("generate", len(requests)) as advance:
            generated = datagen.generate_by_rule(images, config, advance)
    else:
        report = {} if on_message is None else {"report": on_message}
        with progress("generate", sum(map(datagen.needs_request, requests))) as advance:
            generated = datagen.generate_by_model(images, config, service, out, advance, **report)
    generated = datagen.separate_held_out(generated, images, held_out, config)
    guessing = measure_guessing(conversations_of(generated.rows))
    guessing += measure_pair_guessing(answer_pairs_of(generated.rows))
    unknown = unknown_labels(images)
    generated = replace(generated, source=described, guessing=guessing, unknown_labels=unknown)
    teacher = {"teacher": datagen.teacher_record(service, config), "source": source.name}
    record = {**teacher, "split": split, "limit": limit, **asdict(config), "vistune": __version__}
    if labels := selection.get("labels"):
        record["labels"] = hashlib.sha256(labels.read_bytes()).hexdigest()
    if unknown:
        write_template(out / "labels.yaml", unknown)
    datagen.write_generated(out, generated, images, record)
    write_data_report(out)
    if not generated.rows:
        raise datagen.NothingWritten(generated, out)
    return generated


def _requests_of(images: Sequence[AnnotatedImage], config: GenerationConfig, source: Path) -> list[Request]:
    """Return the requests for all images. Raises RecipeError if there are none."""
    from vistune.datagen import make_requests

    if requests := make_requests(images, config):
        return requests
    hint = "select other --kinds, or a source whose images have the captions or boxes that these kinds need"
    raise RecipeError(f"{source}: nothing to generate", hint)


def _wrote_nothing(out: Path) -> bool:
    """Return whether a folder has the result of a finished `generate` that wrote no sample."""
    tree = read_json_if_there(out / "generate.json")
    return isinstance(tree, dict) and tree.get("rows") == 0


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """The requests that `generate_data` would send, and the images that it would read."""

    cost: CostEstimate
    source: AnnotatedSource

    def to_dict(self) -> dict[str, object]:
        """Return the plan as JSON values, without the images."""
        return self.cost.to_dict() | self.source.to_dict()


def plan_generation(
    source: Path, config: GenerationConfig, service: TeacherOptions, **selection: Unpack[SourceSelection]
) -> GenerationPlan:
    """Estimate number, cost and time of the requests that `generate_data` would send; send nothing."""
    from vistune import datagen

    split, table, limit = selection.get("split"), selection.get("table"), selection.get("limit")
    with _labels_of(selection):
        described = datagen.described_source(source, split, table, limit, seen=service.see)
        datagen.choose_held_out(described.images, config.held_out, config.seed)  # raises as `generate_data` does
        requests = filter(datagen.needs_request, _requests_of(described.images, config, source))
        return GenerationPlan(datagen.estimate(list(requests), service), described)


def filter_captions(
    source: Path, out: Path, options: FilterOptions | None = None, *, progress: Progress = no_progress
) -> FilteredCaptions:
    """Select stage-1 captions balanced by concept."""
    from vistune import datagen

    size = 2 * source.stat().st_size if source.is_file() else 0  # it is read twice
    with byte_progress(progress, "filter", size) as advance:
        return datagen.filter_captions(source, out, options or datagen.FilterOptions(), advance=advance)


def check_data(
    sources: Sequence[DataSource],
    *,
    recipe: Recipe | None = None,
    images: bool = True,
    page: Path | None = None,
    progress: Progress = no_progress,
) -> CheckReport:
    """Check every record: its form, its images, and with a recipe its tokens and labels.

    Args:
        images: Whether to look for the images and open them.
        page: Where to write an HTML page with the faults and some samples.
    """
    from vistune.data import check, rules_for

    processor: Processor | None = None
    if recipe is None:
        report = check(sources, None, images=images, progress=progress)
    else:
        processor = check_recipe(recipe)
        report = check(sources, processor, partial(rules_for, recipe), images=images, progress=progress)
    if page is not None:
        from vistune.report.gather import write_check_page

        write_check_page(page, report, sources, processor, images=images)
    return report


def show(
    source: DataSource,
    *,
    template: str | None = None,
    tokenizer: str = "builtin",
    index: int | None = None,
    on_message: OnMessage = ignore_message,
) -> list[ShownSample]:
    """Return the token ids and labels of each sample, or of the one at `index`; no image is opened."""
    from vistune.data.show import show

    return show(source, template=template, tokenizer=tokenizer, index=index, on_message=on_message)


def parent_of(recipe: Recipe, out: Path = Path("from")) -> ParentModel | None:
    """Inspect the model that a recipe's `from` names; None if it has none."""
    if recipe.origin is None:
        return None
    from vistune.interop.load import inspect_parent

    return inspect_parent(recipe.origin, out)


def check_recipe(recipe: Recipe) -> Processor:
    """Check model, templates and stages as `train` does, and raise the same errors; return the processor."""
    from vistune.training.preflight import check_recipe

    return check_recipe(recipe, parent_of(recipe))


def plan(
    recipe: Recipe,
    *,
    samples: int | None = None,
    processes: int = PROCESSES,
    flops: float | None = None,
    prices: Path | None = None,
    teacher: str | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Forecast memory, steps, time, disk and cost of every stage before anything runs; see `vistune.planner.plan`.

    Args:
        samples: Number of samples to assume for a stage whose data are not on this machine.
        processes: Number of FSDP processes. Each keeps a share of the model.
        flops: FLOP/s that a device reaches, instead of the measured or assumed number.
        prices: YAML file with `gpus: {NAME: dollars per hour}`, and `models` for a teacher.
        teacher: A teacher's model whose price is added.
    """
    from vistune.planner.plan import PlanOptions, backbones_are_there, plan
    from vistune.training.preflight import check_recipe

    parent = parent_of(recipe)
    if parent is not None or backbones_are_there(recipe):
        check_recipe(recipe, parent)
    options = PlanOptions(samples=samples, processes=processes, flops=flops, prices=prices, teacher=teacher)
    return plan(recipe, options, parent=parent, progress=progress)


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress = no_progress,
    on_message: OnMessage | None = None,
) -> Path:
    """Run a recipe's stages, in one process or in all that torchrun started; return the run folder.

    Args:
        on_message: Called with each message for the user, such as the parameter table and warnings about the loss; by
            default messages go to the logger `vistune.training`.

    Raises:
        Stopped: The run was asked to stop and saved its state.
    """
    from vistune.evaluation.models import validation_tasks
    from vistune.training import Hooks, Run, open_world

    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: is a file, expected a folder", "give another folder")
    evaluate = validation_tasks(recipe)
    hooks = Hooks(evaluate=evaluate) if on_message is None else Hooks(on_message, evaluate)
    with open_world() as world:
        shown = progress if world.is_first else no_progress
        run = Run(recipe, out, progress=shown, parent=parent_of(recipe, out), world=world, hooks=hooks)
        run.start(resume=resume)
    return out


def dry_run(recipe: Recipe, *, progress: Progress = no_progress) -> list[DryRunStage]:
    """Read, encode and plan like `train`, and raise the same errors; train nothing."""
    from vistune.evaluation.models import validation_tasks
    from vistune.training.preflight import dry_run

    validation_tasks(recipe)
    return dry_run(recipe, parent_of(recipe), progress=progress)


def selftest(recipe: Recipe, *, progress: Progress = no_progress) -> list[GradientComparison]:
    """Compare the losses and gradients of each stage's first step, computed in several ways.

    The step's samples are packed, computed with one sample per row, in two accumulated halves, and by all processes.
    """
    from vistune.training import Run, open_world, selftest

    # A model of another layout is converted there, and shards are unpacked: both may be large, and /tmp is often small.
    writes = recipe.origin is not None or any(stage.shards is not None for stage in recipe.stages)
    scratch = scratch_folder(user_cache() / "selftest") if writes else nullcontext(Path("selftest"))
    with open_world() as world, scratch as folder:
        shown = progress if world.is_first else no_progress
        run = Run(recipe, folder, progress=shown, parent=parent_of(recipe, folder), world=world)
        return selftest(run)


def evaluate(
    model: Path | Endpoint,
    *,
    task: str,
    data: Path,
    progress: Progress = no_progress,
    **options: Unpack[EvaluationOptions],
) -> EvaluationResult:
    """Ask a task's questions with the image, without it and with a wrong one; keep the answers in `out`.

    Under torchrun the processes share the questions, and each returns the whole result.

    Args:
        model: A run or model folder, or a model behind an OpenAI-compatible endpoint, which needs `out`.
        options: Fields of `vistune.evaluation.EvaluationRequest`, such as `out`, `limit` and `blind`, and `device`,
            `dtype` and `quantize` of the model.
    """
    from vistune.evaluation.models import evaluate_models
    from vistune.evaluation.request import EvaluationRequest, split_options

    model_options, fields = split_options({"blind_limit": BLIND_QUESTIONS, **options})
    request = EvaluationRequest(task, data, **fields)
    [[result]] = evaluate_models([model], lambda _: [request], model_options, progress)
    return result


def evaluate_all(
    models: Sequence[Path | Endpoint],
    tasks: Mapping[str, Path],
    *,
    progress: Progress = no_progress,
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

    comparison, is_first = evaluation.evaluate_all(
        models, tasks, progress=progress, on_message=on_message, options=options
    )
    out = options.get("out")
    if out is not None and is_first and len(models) * len(tasks) > 1:
        write_json(out / "comparison.json", comparison.to_dict())
        write_comparison(out)
    return comparison


def answer(
    model: Path,
    questions: Path,
    out: Path,
    *,
    progress: Progress = no_progress,
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

    model_options, fields = split_options(options)
    request = AnswerRequest(questions, out, **fields)
    return answer_questions(model, request, model_options, progress=progress, on_message=on_message)


def score(
    task: str,
    data: Path,
    predictions: Path,
    *,
    progress: Progress = no_progress,
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

    return score_file(ScoreRequest(task, data, predictions, **options), progress)


def tasks() -> dict[str, Facts]:
    """Return every task by name, with its files, their source and their licence."""
    from vistune.evaluation import TASKS

    return {name: task.facts for name, task in TASKS.items()}


def describe(
    model: Path, data: Path, split: str, *, out: Path, limit: int, progress: Progress = no_progress
) -> DescriptionScore:
    """Have the model describe images freely; measure recall and precision of the objects it names."""
    from vistune.datagen import read_source
    from vistune.evaluation import describe

    images = read_source(data, split).images[:limit]
    assistant = load(model)
    with progress("describe", 2 * len(images)) as advance:
        result = describe(assistant.model, assistant.processor, images, advance=advance)
    write_json(out / "descriptions.json", result.to_dict())
    return result


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    template: str | None = None,
) -> Assistant:
    """Load a run folder, a model folder, or a folder of a layout that `import` reads; see `vistune.interop.load`."""
    from vistune.interop.load import load

    return load(model, device=device, dtype=dtype, quantize=quantize, template=template)


def import_model(
    source: Path, out: Path, *, base: str | None = None, template: str | None = None, vision: str | None = None
) -> ImportResult:
    """Convert a model of another layout into a vistune model folder."""
    from vistune.interop.export import import_model

    refuse_overwrite(out, "parts.json")
    return import_model(source, out, base=base, template=template, vision=vision)


def export(
    model: Path,
    out: Path,
    *,
    layout: str,
    merge: bool = False,
    base: str | None = None,
    **options: Unpack[LoadOptions],
) -> list[ParityRow]:
    """Write a model in a layout of other tools, load the result, and compare both; return the parity table.

    Args:
        options: `dtype` is by default the precision in which the language model is stored. `quantize` raises an error
            that says what to do instead, because no layout stores 4 or 8 bits.
    """
    from vistune.interop.export import export_model, refuse_quantised
    from vistune.model.precision import named_dtype, resolve_device
    from vistune.runs.folder import find_model, is_vistune_folder

    dtype = named_dtype(options.get("dtype", "auto"))
    if (bits := options.get("quantize")) is not None:
        refuse_quantised(layout, bits)
    folder = find_model(model) if is_vistune_folder(model) else model
    device = resolve_device(options.get("device", "auto"))
    return export_model(folder, out, layout=layout, merge=merge, base=base, dtype=dtype, device=device)


def push(model: Path, repo: str, **options: Unpack[PushSettings]) -> PushResult:
    """Upload a model to a hub: a run or a model folder, which is exported first, or an exported folder.

    The model card is made from the run, and only safetensors and GGUF weights are uploaded.
    """
    from vistune.interop.push import PushOptions, push_model

    return push_model(Path(model), repo, PushOptions(**options))


class PushSettings(TypedDict, total=False):
    """Options of `push`.

    Attributes:
        layout: Layout in which a run or a model folder of vistune is exported: `llava-hf` (default) or
            `llava-original`.
        merge: Merge adapters into the weights.
        license_name: The licence's name on the hub, such as `apache-2.0`.
        results: Evaluations for the hub's leaderboards: `EVALUATION=OWNER/DATASET[:TASK][@METRIC]`.
        private: Create the repository as private.
        revision: Branch to upload to.
        dry_run: Only list the files.
        endpoint: Address of the hub. Default: the one that huggingface_hub uses.
        token: Access token. Default: the one that huggingface_hub has stored.
    """

    layout: str | None
    merge: bool
    license_name: str | None
    results: tuple[str, ...]
    private: bool
    revision: str | None
    dry_run: bool
    endpoint: str | None
    token: str | None


class GgufOptions(TypedDict, total=False):
    """Options of `export_gguf`.

    Attributes:
        kind: Type of the weights: `f16` (default), `f32`, `bf16`, `q8_0`, or a smaller type that llama.cpp's
            `llama-quantize` writes, such as `q4_k_m`.
        merge: Merge adapters, which GGUF does not store.
        class_position: Where the build of llama.cpp puts a tower's class token: `last` (default; builds with issue
            25814) or `first`.
        device: Where the model is loaded: `auto` (default), `cpu` or `cuda`.
    """

    kind: str
    merge: bool
    class_position: str
    device: str


def export_gguf(model: Path, out: Path, **options: Unpack[GgufOptions]) -> GgufExport:
    """Write a model as two GGUF files for llama.cpp and Ollama, with a Modelfile and a README.

    Returns the files, and the known differences between llama.cpp and the model.
    """
    from vistune.interop.gguf import export_gguf as write_gguf
    from vistune.model.precision import resolve_device
    from vistune.runs.folder import find_model, is_vistune_folder

    folder = find_model(model) if is_vistune_folder(model) else model
    return write_gguf(
        folder,
        out,
        kind=options.get("kind", "f16"),
        merge=options.get("merge", False),
        class_position=options.get("class_position", "last"),
        device=resolve_device(options.get("device", "auto")),
    )


def verify(model: Path, program: str | None = None, *, device: str = "auto") -> VerifyResult:
    """Run the certificate of an export in a program, and compare every stage; see `vistune.interop.verify`.

    Args:
        program: `transformers`, `llama.cpp` or the URL of an OpenAI-compatible server; by default vistune's own engine.
    """
    from vistune.interop.verify import verify

    return verify(model, program, device=device)


def draw(recipe: Recipe, out: Path, *, language: str = "en") -> list[Path]:
    """Draw the model and the stages of a recipe into the folder `out`, with labels in `language` (en or ko)."""
    from vistune.report.gather import draw

    return draw(recipe, parent_of(recipe), out, language=language)


def write_report(
    path: Path,
    *others: Path,
    out: Path | None = None,
    images: Path | None = None,
    against: Sequence[Path] = (),
    language: str = "en",
    progress: Progress = no_progress,
) -> Path:
    """Write the page of a run folder, of several runs, of a comparison, or of a data set; return its path.

    Args:
        others: Further runs to compare with the first.
        images: The image folder of a data file.
        against: Evaluation sets whose images are looked for in the data.
    """
    from vistune.report import gather

    if not others:
        return gather.write_report(path, out, images, against, language=language, progress=progress)
    if images or against:
        raise RecipeError("--images and --against need data, not several runs", "remove these options")
    from vistune.evaluation import compare_stored, labels_of

    runs = [path, *others]
    for run in runs:
        if not (run / "run.json").is_file():
            raise DataError(
                f"{run}: not a run folder; several folders can only be compared if all are runs",
                "name only run folders",
            )
    folders = dict(zip(labels_of(runs), runs, strict=True))
    comparison = compare_stored({label: run / "evals" for label, run in folders.items()}).to_dict()
    return gather.report_runs(folders, comparison, out=out, language=language)


def why(model: Path) -> list[Provenance]:
    """Return the provenance of a model and then of each of its parents: recipe, data, teacher and versions."""
    from vistune.runs.provenance import why

    return why(model)


def chat(
    model: Path,
    *,
    images: Sequence[Path] = (),
    language: str = "en",
    **options: Unpack[LoadOptions],
) -> None:
    """Chat with a model in the terminal."""
    from vistune.serving.chat import chat, describe_image

    for path in images:
        describe_image(path)  # refuse a file that is not an image before the weights are loaded
    chat(load(model, **options), images=images, language=language)


def serve(
    model: Path,
    settings: Settings,
    *,
    announce: Callable[[str], None] = ignore_message,
    **options: Unpack[LoadOptions],
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API until the process is asked to stop.

    Args:
        announce: Called with the URL of the server when it listens.

    Raises:
        RecipeError: The address needs API keys, the port is in use, or a package is missing.
    """
    try:
        from vistune.serving.api.server import check, serve, use_one_arena
    except ImportError as error:
        raise RecipeError(f"vistune serve needs {error.name}", "pip install 'vistune[serve]'") from None
    from vistune.serving.api.run_samples import samples_of_run

    check(settings)  # before the weights are loaded
    if settings.samples is None:
        settings = replace(settings, samples=samples_of_run(model))
    use_one_arena()
    serve(load(model, **options), settings, announce=announce)
