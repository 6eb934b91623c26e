"""Make data and check it: scenes, generated samples, captions, checks and the model's view of a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from vistune.api.arguments import (
    DataLike,
    PathLike,
    RecipeLike,
    as_path,
    as_recipe,
    as_sources,
    is_in_memory,
    refuse_unknown,
)
from vistune.api.training import check_recipe
from vistune.errors import RecipeError
from vistune.files import read_json_if_there, refuse_overwrite, scratch_folder, user_cache
from vistune.notebook import notebook_progress
from vistune.progress import OnMessage, Progress, byte_progress, ignore_message
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
    from vistune.processor import Processor
    from vistune.scenes import DrawnFolder
    from vistune.types import AnnotatedImage, Reject


class SourceSelection(TypedDict, total=False):
    """Which images of a source are used, how a table is read, and the file with words for labels."""

    split: str | None
    table: TableForm | None
    limit: int | None
    labels: PathLike | None


class GenerationOptions(SourceSelection, total=False):
    """Keyword arguments of `vistune.generate_data`: the teacher, the fields of `GenerationConfig`, and the images."""

    teacher: str
    service: TeacherOptions | None
    kinds: Sequence[str]
    language: str | Sequence[str]
    mix: tuple[int, int, int] | None
    per_image: int
    seed: int
    held_out: float | None


def draw_scenes(
    out: PathLike, *, count: int, seed: int = 0, tests: int | None = None, progress: Progress = notebook_progress
) -> DrawnFolder:
    """Draw the built-in scenes: a COCO folder and its question files."""
    from vistune.scenes import write_world

    out = Path(out)
    tests = max(20, count // 10) if tests is None else tests
    refuse_overwrite(out, "annotations")
    with progress("draw", count + 2 * tests) as advance:
        return write_world(out, count=count, seed=seed, tests=tests, advance=advance)


def generate_data(
    source: PathLike,
    out: PathLike,
    config: GenerationConfig | None = None,
    *,
    progress: Progress = notebook_progress,
    on_message: OnMessage | None = None,
    **options: Unpack[GenerationOptions],
) -> GeneratedData:
    """Generate instruction data from annotated images, with the rule teacher or with the model of a `service`.

    A stopped run with a service resumes when the function is called again with the same `out`.

    Args:
        source: Folder of images with annotations, or a table.
        out: Output folder.
        config: Which samples to write. Its fields can also be given as keywords.
        progress: Shows progress bars; by default in notebooks only.
        on_message: Called with each message for the user, such as a parameter that the service refuses; by default
            messages go to the logger `vistune.llm_client`.
        options: `teacher` is `rule` (default) or `openai`, which needs a `service`. `kinds`, `language` (one or
            several), `mix`, `per_image`, `seed` and `held_out` are fields of `GenerationConfig`. `split`, `limit`,
            `table` and `labels` (a file with words for labels that are not in the lexicon) select and read the images.

    Raises:
        NothingWritten: Every sample was rejected. The files are written, with the rejects and their reasons.
    """
    refuse_unknown("generate_data", options, GenerationOptions)
    selection = _selection(options)
    chosen = _config(config, options)
    with _labels_of(selection):
        return _generate_data(Path(source), Path(out), chosen, _service(options), progress, on_message, selection)


def _selection(options: GenerationOptions) -> SourceSelection:
    """Return the arguments that select and read the images."""
    return SourceSelection(
        split=options.get("split"),
        table=options.get("table"),
        limit=options.get("limit"),
        labels=as_path(options.get("labels")),
    )


def _config(config: GenerationConfig | None, options: GenerationOptions) -> GenerationConfig:
    """Return the config, or the one that the keywords describe. Raises RecipeError if both are given."""
    from vistune.datagen import GenerationConfig

    names = ("kinds", "mix", "per_image", "seed", "held_out")
    given: Mapping[str, Any] = options
    fields = {name: given[name] for name in names if name in given}
    if "language" in options:
        language = options["language"]
        fields["languages"] = (language,) if isinstance(language, str) else tuple(language)
    if "kinds" in fields:
        fields["kinds"] = tuple(fields["kinds"])
    if config is not None and fields:
        raise RecipeError(f"{', '.join(fields)}: given next to a config", "set them in the GenerationConfig")
    return config or GenerationConfig(**fields)


def _service(options: GenerationOptions) -> TeacherOptions | None:
    """Return the service of the teacher. Raises RecipeError if teacher and service do not fit together."""
    from vistune.datagen import TEACHERS
    from vistune.registry import lookup

    service = options.get("service")
    teacher = options.get("teacher", "rule" if service is None else "openai")
    lookup(teacher, dict.fromkeys(TEACHERS), "teacher")
    if teacher == "openai" and service is None:
        raise RecipeError("teacher 'openai' needs a service", "give service=vistune.TeacherOptions(model=NAME)")
    if teacher == "rule" and service is not None:
        raise RecipeError("the rule teacher uses no service", "remove `service`, or set teacher='openai'")
    return service


def _labels_of(selection: SourceSelection) -> AbstractContextManager[None]:
    from vistune.grounding.labels import read_labels, using_labels

    path = selection.get("labels")
    return nullcontext() if path is None else using_labels(read_labels(Path(path)))


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
    generated = replace(generated, source=described, guessing=guessing, unknown_labels=unknown, path=out)
    teacher = {"teacher": datagen.teacher_record(service, config), "source": source.name}
    record = {**teacher, "split": split, "limit": limit, **asdict(config), "vistune": __version__}
    if labels := selection.get("labels"):
        record["labels"] = hashlib.sha256(Path(labels).read_bytes()).hexdigest()
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
    source: PathLike, config: GenerationConfig, service: TeacherOptions, **selection: Unpack[SourceSelection]
) -> GenerationPlan:
    """Estimate number, cost and time of the requests that `generate_data` would send; send nothing."""
    from vistune import datagen

    refuse_unknown("plan_generation", selection, SourceSelection)
    source = Path(source)
    split, table, limit = selection.get("split"), selection.get("table"), selection.get("limit")
    with _labels_of(selection):
        described = datagen.described_source(source, split, table, limit, seen=service.see)
        datagen.choose_held_out(described.images, config.held_out, config.seed)  # raises as `generate_data` does
        requests = filter(datagen.needs_request, _requests_of(described.images, config, source))
        return GenerationPlan(datagen.estimate(list(requests), service), described)


def filter_captions(
    source: PathLike, out: PathLike, options: FilterOptions | None = None, *, progress: Progress = notebook_progress
) -> FilteredCaptions:
    """Select stage-1 captions balanced by concept."""
    from vistune import datagen

    source = Path(source)
    size = 2 * source.stat().st_size if source.is_file() else 0  # it is read twice
    with byte_progress(progress, "filter", size) as advance:
        return datagen.filter_captions(source, Path(out), options or datagen.FilterOptions(), advance=advance)


def check(
    data: DataLike,
    *,
    recipe: RecipeLike | None = None,
    images: bool = True,
    page: PathLike | None = None,
    progress: Progress = notebook_progress,
) -> CheckReport:
    """Check every record: its form, its images, and with a recipe its tokens and labels.

    Args:
        data: Data as for `train`. Records and datasets are written to a temporary folder.
        recipe: Also encode the samples for the model of this recipe.
        images: Whether to look for the images and open them.
        page: Where to write an HTML page with the faults and some samples.
        progress: Shows progress bars; by default in notebooks only.
    """
    loaded = None if recipe is None else as_recipe(recipe)
    if not is_in_memory(data):
        return _check(as_sources(data, Path()), loaded, images, as_path(page), progress)
    with scratch_folder(user_cache() / "check") as scratch:
        sources = as_sources(data, scratch)
        report = _check(sources, loaded, images, as_path(page), progress)
        return _without_scratch(report, sources, scratch)


check_data = check  # the name of the first release


def _without_scratch(report: CheckReport, sources: Sequence[DataSource], scratch: Path) -> CheckReport:
    """Return a report in which the locations of records in memory are `data:N`, not files that no longer exist."""

    def named(reject: Reject) -> Reject:
        texts = {"origin": reject.origin, "detail": reject.detail}
        for file in (str(source.file) for source in sources if scratch in source.file.parents):
            texts = {name: text.replace(file, "data") for name, text in texts.items()}
        return replace(reject, **texts)

    return replace(report, faults=[*map(named, report.faults)], notes=[*map(named, report.notes)])


def _check(
    sources: Sequence[DataSource], recipe: Recipe | None, images: bool, page: Path | None, progress: Progress
) -> CheckReport:
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
    source: PathLike | DataSource,
    *,
    template: str | None = None,
    tokenizer: str = "builtin",
    index: int | None = None,
    on_message: OnMessage = ignore_message,
) -> list[ShownSample]:
    """Return the token ids and labels of each sample, or of the one at `index`; no image is opened."""
    from vistune.data.show import show

    if not isinstance(source, DataSource):
        source = DataSource(file=Path(source))
    return show(source, template=template, tokenizer=tokenizer, index=index, on_message=on_message)
