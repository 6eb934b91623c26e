"""Gather the values that a report shows from run folders and data, and write the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vistune.errors import DataError, RecipeError, VistuneError
from vistune.progress import Progress
from vistune.recipe import DataSource, Recipe, Stage, load_recipe
from vistune.report.comparison_pages import write_comparison, write_runs_report
from vistune.report.data_page import write_check_report, write_data_report
from vistune.report.diagrams import draw_diagrams
from vistune.report.rendering import spread
from vistune.report.run_page import RunDetails, moved_paths, write_run_report

if TYPE_CHECKING:
    from vistune.data import CheckReport
    from vistune.interop.load import ParentModel
    from vistune.processor import Processor
    from vistune.types import Sample

STAGE_SAMPLES = 4  # samples of each stage on the page of a run
CHECK_SAMPLES = 24  # samples on the page of a check


def write_report(
    path: Path, out: Path | None, images: Path | None, against: Sequence[Path], *, language: str, progress: Progress
) -> Path:
    """Write the page of a run folder, a comparison, or data; see `vistune.write_report`."""
    if path.is_dir() and not (path / "generate.json").is_file():
        is_run, is_comparison = ((path / name).is_file() for name in ("run.json", "comparison.json"))
        if not is_run and not is_comparison:
            raise DataError(
                f"{path}: neither a run, a comparison, nor generated data",
                "name a folder that `train`, `evaluate` of several models, or `generate` wrote",
            )
        if out or images or against:
            raise RecipeError(
                "--out, --images and --against are for reports on data; "
                f"{path} is the folder of a {'run' if is_run else 'comparison'}",
                "remove these options",
            )
        return report_run(path, language=language) if is_run else write_comparison(path, language=language)
    duplicates = near_duplicates(path, images, against, progress)
    return write_data_report(path, out=out, images=images, near_duplicates=duplicates, language=language)


def near_duplicates(path: Path, images: Path | None, against: Sequence[Path], progress: Progress) -> dict[str, Any]:
    """Return near-duplicate images of a data set, and images that it shares with evaluation sets."""
    from vistune.data import find_near_duplicates, image_files_of

    image_paths = image_files_of(DataSource(file=path, images=images))
    with progress("compare images", len(image_paths)) as advance:
        return asdict(find_near_duplicates(image_paths, against, advance=advance))


def draw(recipe: Recipe, parent: ParentModel | None, out: Path, *, language: str = "en") -> list[Path]:
    """Draw the model and the stages of a recipe into the folder `out`; return the files."""
    from vistune.planner.structure import model_facts, stage_facts, structure_of, without_weights

    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: is a file, not a folder", "name another folder")
    structure = structure_of(recipe, parent)
    model = without_weights(structure)
    stages = [stage_facts(stage, structure, model) for stage in recipe.stages]
    return draw_diagrams(recipe.name, model_facts(structure, model), stages, out, language=language)


def write_check_page(
    page: Path,
    report: CheckReport,
    sources: Sequence[DataSource],
    processor: Processor | None = None,
    *,
    images: bool = True,
) -> None:
    """Write the page of a check: faults by location, and samples from all over the data with their labels.

    Without a processor the samples are shown with the built-in tokenizer and the template v1.
    """
    from vistune.data.show import labelled_sample, text_processor

    reader = processor or text_processor()
    shown = [
        labelled_sample(sample, reader)
        for source in sources
        for sample in _spread_samples(source, CHECK_SAMPLES // len(sources) or 1, images=images)
    ]
    write_check_report(page, report.to_dict(), shown)


def _spread_samples(source: DataSource, count: int, *, images: bool) -> Iterator[Sample]:
    """Yield good samples from the first to the last, as far apart as possible."""
    import numpy as np

    from vistune.data import folders_of, index, open_source

    try:
        data = open_source(source.file)
        indexed = index(data, folders_of(data, source.images) if images else None, None)
    except DataError:  # the report names the fault
        return
    if len(indexed):
        yield from map(indexed.sample, np.unique(np.linspace(0, len(indexed) - 1, count).astype(int)).tolist())


def report_run(run: Path, *, language: str = "en") -> Path:
    """Write RUN/report.html. The page lists what is not available any more, such as data that were moved."""
    from vistune.runs.folder import find_model
    from vistune.runs.provenance import why

    missing: list[str] = []
    with TemporaryDirectory() as folder:
        details: dict[str, Any] = {}
        try:
            details["provenance"] = [entry.to_dict() for entry in why(run)]
            recipe = load_recipe(str(run / "recipe.yaml"))
            checkpoint = find_model(run)
        except VistuneError as error:
            missing.append(str(error))
        else:
            for name, gather in (
                ("diagrams", lambda: _diagrams(recipe, checkpoint, Path(folder), language)),
                ("samples", lambda: list(_samples(recipe, checkpoint, run))),
            ):
                try:
                    details[name] = gather()
                except (VistuneError, OSError) as error:
                    missing.append(f"{name}: {error}")
        return write_run_report(run, RunDetails(**details, missing=missing), language=language)


def report_runs(
    folders: Mapping[str, Path], comparison: dict[str, Any], *, out: Path | None = None, language: str = "en"
) -> Path:
    """Write one page that compares runs, to `out` or next to the first run's own page.

    Args:
        folders: Run folders by label.
        comparison: `vistune.evaluation.compare_stored` of their evaluations.
    """
    for pair in (pair for task in comparison["tasks"] for pair in task["pairs"]):
        for question in (*pair["wins"], *pair["losses"]):
            if question["image"] is not None and not Path(question["image"]).is_file():
                paths = moved_paths(Path(question["image"]), folders[pair["one"]])
                question["image"] = str(next((path for path in paths if path.is_file()), question["image"]))
    others = "-".join(list(folders)[1:])
    page = out or next(iter(folders.values())) / f"report-beside-{others}.html"
    return write_runs_report(page, folders, comparison, language=language)


def _diagrams(recipe: Recipe, checkpoint: Path, out: Path, language: str) -> list[Path]:
    """Draw the model and the stages; the backbones are those of the checkpoint if the run started `from` a model."""
    if recipe.origin is not None:
        from vistune.interop.load import model_section
        from vistune.processor import Processor
        from vistune.runs.checkpoint import backbones_of

        spec = Processor.load(checkpoint / "tokenizer").spec
        recipe = recipe.model_copy(update={"origin": None, "model": model_section(spec, *backbones_of(checkpoint))})
    return [path for path in draw(recipe, None, out, language=language) if path.suffix == ".svg"]


def _samples(recipe: Recipe, checkpoint: Path, run: Path) -> Iterator[dict[str, Any]]:
    """Yield some samples of each stage with their labels, from every source and kind in turn.

    Stages on shards have none, since a run deletes its shards.
    """
    from vistune.processor import Processor

    processor = Processor.load(checkpoint / "tokenizer")
    for stage in recipe.stages:
        fitted = processor.with_template(stage.template or processor.spec.template)
        fitted = fitted.with_image_mode(stage.image_mode or processor.spec.image_mode)
        if stage.shards is not None:
            continue
        sources = [_moved_source(source, run) for source in stage.data or recipe.data]
        yield from _of_stage(stage, sources, fitted, recipe.seed)


def _of_stage(stage: Stage, sources: list[DataSource], processor: Processor, seed: int) -> Iterator[dict[str, Any]]:
    from vistune.data import SelectionRules, select_records
    from vistune.data.show import labelled_sample

    rows = []
    for source in sources:
        choice = select_records(source, processor, SelectionRules.of(stage, seed))
        kinds = choice.index.columns["kind"][choice.records]
        rows += [(choice.index, row, int(kind)) for row, kind in zip(choice.records.tolist(), kinds, strict=True)]
    for file, row, _ in spread(rows, STAGE_SAMPLES, group=lambda row: (str(row[0].path), row[2]), seed=seed):
        shown = labelled_sample(file.sample(row), processor)
        yield {"stage": stage.name, "template": processor.spec.template, **shown}


def _moved_source(source: DataSource, run: Path) -> DataSource:
    """Return a source whose file is missing with its path under the run folder, which may have been moved."""
    if source.file.exists():
        return source
    file = next((path for path in moved_paths(source.file, run) if path.exists()), source.file)
    return source.model_copy(update={"file": file})
