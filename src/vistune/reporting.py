"""The verb `report`: what the page of a run wants beyond the run folder, gathered as plain values.

run folder -> checkpoint's processor and backbones -> pictures of model and stages, samples as learnt, lineage -> page
run folders -> what each kept of its evaluations, compared -> one page on all
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vistune.drawing import draw
from vistune.errors import DataError, VistuneError
from vistune.lineage import why
from vistune.models import find_model, model_of
from vistune.recipe import DataSource, Recipe, Stage, load_recipe
from vistune.showing import as_learnt

if TYPE_CHECKING:
    from vistune.processor import Processor

SHOWN = 4  # samples of each stage


def report_run(run: Path, *, language: str = "en") -> Path:
    """Write RUN/report.html. What cannot be found any more, such as data that were moved, is said on the page."""
    from vistune.report import Gathered, write_run_report

    missing: list[str] = []
    with TemporaryDirectory() as folder:
        found: dict[str, Any] = {}
        try:
            found["lineage"] = why(run)
            recipe = load_recipe(str(run / "recipe.yaml"))
            checkpoint = find_model(run)
        except VistuneError as error:
            missing.append(str(error))
        else:
            for name, gather in (
                ("pictures", lambda: _pictures(recipe, checkpoint, Path(folder), language)),
                ("samples", lambda: list(_samples(recipe, checkpoint, run))),
            ):
                try:
                    found[name] = gather()
                except (VistuneError, OSError) as error:
                    missing.append(f"{name}: {error}")
        return write_run_report(run, Gathered(**found, missing=missing), language=language)


def report_runs(runs: Sequence[Path], *, out: Path | None = None, language: str = "en") -> Path:
    """Runs beside each other, as one page: `out`, or beside the first run's own. Nothing is asked of any model."""
    from vistune.evaluation import compare_kept, labels_of
    from vistune.report import write_runs_report
    from vistune.report.evaluation_sections import moved

    for run in runs:
        if not (run / "run.json").is_file():
            raise DataError(f"{run}: is no run; several folders are compared where all are runs", "name runs alone")
    folders = dict(zip(labels_of(runs), runs, strict=True))
    comparison = compare_kept({label: run / "evals" for label, run in folders.items()})
    for pair in (pair for task in comparison["tasks"] for pair in task["pairs"]):
        for question in (*pair["wins"], *pair["losses"]):
            if question["image"] is not None and not Path(question["image"]).is_file():
                places = moved(Path(question["image"]), folders[pair["one"]])
                question["image"] = str(next((path for path in places if path.is_file()), question["image"]))
    others = "-".join(list(folders)[1:])
    page = out or runs[0] / f"report-beside-{others}.html"
    return write_runs_report(page, folders, comparison, language=language)


def _pictures(recipe: Recipe, checkpoint: Path, out: Path, language: str) -> list[Path]:
    """Model and stages as drawings; of a run that went on `from` a model, with the backbones that this one has."""
    if recipe.origin is not None:
        from vistune.checkpoint import backbone_of
        from vistune.processor import Processor

        spec = Processor.load(checkpoint / "tokenizer").spec
        backbones = [backbone_of(checkpoint, part)[0] for part in ("vision", "language")]
        recipe = recipe.model_copy(update={"origin": None, "model": model_of(spec, *backbones)})
    return [path for path in draw(recipe, out, language=language) if path.suffix == ".svg"]


def _samples(recipe: Recipe, checkpoint: Path, run: Path) -> Iterator[dict[str, Any]]:
    """Of each stage some rows as it learnt them, from every source and kind in turn; of shards, which a run deletes
    behind it, none.
    """
    from vistune.processor import Processor

    processor = Processor.load(checkpoint / "tokenizer")
    for stage in recipe.stages:
        fitted = processor.with_template(stage.template or recipe.model.template)
        fitted = fitted.with_image_mode(stage.image_mode or processor.spec.image_mode)
        if stage.shards is not None:
            continue
        sources = [_where_it_is(source, run) for source in stage.data or recipe.data]
        yield from _of_stage(stage, sources, fitted, recipe.seed)


def _of_stage(stage: Stage, sources: list[DataSource], processor: Processor, seed: int) -> Iterator[dict[str, Any]]:
    from vistune.console import silent
    from vistune.data import choose_rows
    from vistune.report.pictures import spread

    rows = []
    for source in sources:
        choice = choose_rows(source, processor, stage.kinds, stage.tokens_per_row, watch=silent, label="", seed=seed,
                             cut=stage.too_long == "cut")  # fmt: skip
        kinds = choice.index.columns["kind"][choice.rows]
        rows += [(choice.index, row, int(kind)) for row, kind in zip(choice.rows.tolist(), kinds, strict=True)]
    for file, row, _ in spread(rows, SHOWN, group=lambda row: (str(row[0].path), row[2]), seed=seed):
        shown = as_learnt(file.sample(row), processor)
        yield {"stage": stage.name, "template": processor.spec.template, **shown}


def _where_it_is(source: DataSource, run: Path) -> DataSource:
    """A source whose file is no longer there, looked for under the run folder, which may have moved."""
    from vistune.report.evaluation_sections import moved

    if source.file.exists():
        return source
    found = next((path for path in moved(source.file, run) if path.exists()), source.file)
    return source.model_copy(update={"file": found})
