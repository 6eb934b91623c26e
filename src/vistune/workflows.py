"""Where rooms meet: one function a verb. They share nothing but folders, so any step reruns alone.

draw -> generate -> check -> train -> evaluate -> report; `mainjob.py` runs them in a row.
Rooms that need torch are imported inside the verbs that use them, so that `vistune --help` answers at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistune import models
from vistune.asking import evaluate as evaluate
from vistune.asking import tasks_of
from vistune.console import Watch, silent, watch_bytes
from vistune.errors import DataError, RecipeError
from vistune.files import read_json, scratch_folder, user_cache, write_json
from vistune.models import load, refuse_written
from vistune.recipe import DataSource, Recipe
from vistune.reporting import report_run, report_runs

if TYPE_CHECKING:
    from vistune.data import CheckReport
    from vistune.datagen import Chosen, Generated, Service, TableForm, Wishes
    from vistune.generation import Assistant
    from vistune.processor import Processor
    from vistune.scenes import DrawnFolder
    from vistune.serving.limits import Settings
    from vistune.training import Base, Planned


def draw_scenes(
    out: Path, *, count: int, seed: int = 0, tests: int | None = None, watch: Watch = silent
) -> DrawnFolder:
    """Draw the built-in world: a COCO folder and its question files."""
    from vistune.scenes import write_world

    tests = max(20, count // 10) if tests is None else tests
    refuse_written(out, "annotations")
    with watch("draw", count + 2 * tests) as advance:
        return write_world(out, count=count, seed=seed, tests=tests, advance=advance)


def generate_data(
    source: Path,
    out: Path,
    wishes: Wishes,
    *,
    service: Service | None = None,
    split: str | None = None,
    table: TableForm | None = None,
    limit: int | None = None,
    watch: Watch = silent,
    tell: Callable[[str], None] | None = None,
) -> Generated:
    """Have a teacher write instruction data about described pictures: the rule teacher, or a `service`.

    A stopped run of a service goes on where it was when it is called again with the same `out`.

    Args:
        tell: called with each message for the user, such as a parameter that the service refuses; default: the log
            of `vistune.remote`.

    Raises:
        NothingWritten: every sample was rejected; the files have been written.
    """
    from vistune import __version__
    from vistune.datagen import (
        NothingWritten,
        by_rule,
        by_service,
        described_source,
        is_asked,
        make_orders,
        write_generated,
    )
    from vistune.datagen.orders import refuse_untranslated
    from vistune.report import write_data_report

    if (service is None or not (out / "journal.jsonl").exists()) and not _wrote_nothing(out):
        refuse_written(out, "samples.json")
    seen = service is not None and service.see
    described = described_source(source, split, table, limit, seen=seen, unpack_to=out / "images")
    images = described.images
    if service is None:
        refuse_untranslated(images, wishes.languages, source)
    orders = make_orders(images, wishes)
    if not orders:
        raise RecipeError(f"{source}: nothing is asked for", "name --kinds, and images to write about")
    if service is None:
        with watch("generate", len(orders)) as advance:
            made = by_rule(images, wishes, advance)
    else:
        with watch("generate", sum(map(is_asked, orders))) as advance:
            made = by_service(images, wishes, service, out, advance, **({} if tell is None else {"report": tell}))
    made = replace(made, source=described)
    asked = {"source": source.name, "split": split, "limit": limit, **asdict(wishes), "vistune": __version__}
    write_generated(out, made, images, {"teacher": teacher_facts(service, wishes), **asked})
    write_data_report(out)
    if not made.rows:
        raise NothingWritten(made, out)
    return made


def _wrote_nothing(out: Path) -> bool:
    """Whether a folder holds a finished run of `generate` that wrote no sample."""
    if not (out / "generate.json").is_file():
        return False
    tree = read_json(out / "generate.json")
    return isinstance(tree, dict) and tree.get("rows") == 0


def teacher_facts(service: Service | None, wishes: Wishes) -> dict[str, Any]:
    """Who a teacher is: its name; of a remote one the model, its place, its parameters and a hash of its prompts."""
    if service is None:
        return {"name": "rule"}
    header = service.header(wishes.kinds, wishes.languages)
    prompts = json.dumps(header.pop("prompts"), ensure_ascii=False, sort_keys=True)
    return {"name": "openai", **header, "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest()}


def plan_generation(
    source: Path,
    wishes: Wishes,
    service: Service,
    *,
    split: str | None = None,
    table: TableForm | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """What a run of a service would ask, cost and take; nothing is sent."""
    from vistune.datagen import described_source, foresee, is_asked, make_orders

    described = described_source(source, split, table, limit, seen=service.see)
    orders = make_orders(described.images, wishes)
    return foresee([order for order in orders if is_asked(order)], service) | described.as_json()


def filter_captions(source: Path, out: Path, *, watch: Watch = silent, **choice: Any) -> Chosen:
    """The concept-balanced choice of stage-1 captions; see `vistune.datagen.filter_captions` for `choice`."""
    from vistune import datagen

    size = 2 * source.stat().st_size if source.is_file() else 0  # it is read twice
    with watch_bytes(watch, "filter", size) as advance:
        return datagen.filter_captions(source, out, advance=advance, **choice)


def check_data(
    sources: Sequence[DataSource], *, recipe: Recipe | None = None, pictures: bool = True, watch: Watch = silent
) -> CheckReport:
    """Prove every row: form, pictures, and with a recipe tokens and what is learnt."""
    from vistune.data import check

    if recipe is None:
        return check(sources, None, pictures=pictures, watch=watch)
    shortest = min(stage.tokens_per_row for stage in recipe.stages)
    cut = all(stage.too_long == "cut" for stage in recipe.stages)
    processor = refuse_untrainable(recipe)
    selected = [stage.kinds for stage in recipe.stages]
    kinds = sorted({kind for kinds in selected for kind in kinds or ()}) if all(selected) else None
    return check(sources, processor, pictures=pictures, tokens_per_row=shortest, cut=cut, kinds=kinds, watch=watch)


def make_processor(recipe: Recipe, base: Base | None = None) -> Processor:
    """The processor of a recipe's model, without weights. `base`: the model of its `from`, if already open."""
    from vistune.model import read_spec
    from vistune.processor import Processor, load_tokenizer
    from vistune.recipe import source_of

    if recipe.origin is not None:
        return (base or models.base_of(recipe.origin, Path("from"))).processor
    return Processor(load_tokenizer(source_of(recipe.model.language, "language")), read_spec(recipe.model))


def refuse_untrainable(recipe: Recipe, base: Base | None = None) -> Processor:
    """The processor of a recipe, after checking that some machine could train it; the data are not checked.

    `base`: the model of its `from`, if already open. Raises the errors of `train` about model, templates and stages. No
    weights are loaded.
    """
    from vistune.training.plan import processor_for
    from vistune.training.refusals import refuse_adapted, refuse_untrainable

    if recipe.origin is not None and base is None:
        base = models.base_of(recipe.origin, Path("from"))
    refuse_adapted(recipe, base)
    processor = make_processor(recipe, base)
    for stage in recipe.stages:
        processor_for(stage, processor)
    refuse_untrainable(recipe, processor.spec, base, None)
    return processor


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    watch: Watch = silent,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Run a recipe's stages, in one process or in all that torchrun started; returns the run folder.

    `tell`: takes words for a person, such as what learns and what is doubtful; absent = the log of `vistune.training`.
    Raises Stopped when asked to stop, state saved.
    """
    from vistune.training import Hooks, Run, opened

    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: is a file, a folder is wanted", "give another folder")
    evaluate = benchmarks_of(recipe)
    hooks = Hooks(evaluate=evaluate) if tell is None else Hooks(tell, evaluate)
    with opened() as world:
        base = None if recipe.origin is None else models.base_of(recipe.origin, out)
        shown = watch if world.is_first else silent
        Run(recipe, out, watch=shown, base=base, world=world, hooks=hooks).start(resume=resume)
    return out


def benchmarks_of(recipe: Recipe) -> Callable[[Assistant, Watch], dict[str, float]] | None:
    """What the recipe's validation asks beyond held rows. Raises RecipeError or DataError where it cannot be asked."""
    wanted = recipe.validation
    return tasks_of(wanted.tasks, wanted.task_limit) if wanted is not None and wanted.tasks else None


def dry_run(recipe: Recipe, *, watch: Watch = silent) -> list[dict[str, Any]]:
    """Read, encode and plan like a run, with only the first shard, and raise the same errors; train nothing.

    A stage's `remarks` report where its sources deviate from the recipe.
    """
    from vistune.training import World, plan_run
    from vistune.training.refusals import refuse_adapted, refuse_untrainable
    from vistune.training.tracking import refuse_missing

    benchmarks_of(recipe)
    base = None if recipe.origin is None else models.base_of(recipe.origin, Path("from"))
    refuse_adapted(recipe, base)
    processor = make_processor(recipe, base)
    refuse_missing(recipe.track)
    planned, _ = plan_run(recipe, processor, watch)
    refuse_untrainable(recipe, processor.spec, base, World(device=models.chosen_device("auto")))
    return [
        {
            "stage": item.stage.name,
            **_counts(item),
            **({"held": len(item.held.samples)} if item.held is not None else {}),
            "learn": dict(item.stage.learn),
            **({"remarks": list(item.remarks)} if item.remarks else {}),
        }
        for item in planned
    ]


def _counts(item: Planned) -> dict[str, Any]:
    """Samples, steps and rows of a planned stage."""
    from vistune.training import sampled

    if (stream := item.stream) is None:
        steps = item.plan.steps
        return {"samples": len(item.samples), "steps": len(steps), "rows": sum(map(len, steps))}
    with scratch_folder(user_cache() / "shards") as folder:
        first = sampled(item, folder)
    return {
        "shards": len(stream.shards),
        "samples_of_first_shard": len(first.samples),
        "steps": stream.steps,
        "rows": stream.steps * stream.lanes,
    }


def selftest(recipe: Recipe, *, watch: Watch = silent) -> list[dict[str, Any]]:
    """Each stage's first step packed, one by one, in halves, and under torchrun dealt over all processes: losses and
    gradients must be the same.
    """
    from vistune.training import Run, opened
    from vistune.training import selftest as compare

    # Where a model of another layout is brought in, and shards: both may be large, and /tmp is often small.
    brings = recipe.origin is not None or any(stage.shards is not None for stage in recipe.stages)
    place = scratch_folder(user_cache() / "selftest") if brings else nullcontext(Path("selftest"))
    with opened() as world, place as folder:
        base = None if recipe.origin is None else models.base_of(recipe.origin, folder)
        found = compare(Run(recipe, folder, watch=watch if world.is_first else silent, base=base, world=world))
    return [{**asdict(row), "equal": row.equal} for row in found]


def describe(model: Path, data: Path, split: str, *, out: Path, limit: int, watch: Watch = silent) -> dict[str, Any]:
    """Have the model describe pictures freely; recall and precision of the things it names."""
    from vistune.datagen import read_source
    from vistune.evaluation import describe as run

    images = read_source(data, split).images[:limit]
    assistant = load(model)
    with watch("describe", 2 * len(images)) as advance:
        result = run(assistant.model, assistant.processor, images, advance=advance)
    write_json(out / "descriptions.json", result)
    return result


def write_report(
    path: Path,
    *beside: Path,
    out: Path | None = None,
    images: Path | None = None,
    against: Sequence[Path] = (),
    language: str = "en",
    watch: Watch = silent,
) -> Path:
    """The page of a run folder, a comparison of models, a folder that `generate` wrote, or any file of samples.

    `beside`: further runs, for one page on all of them ·
    `images`: where the pictures of a file lie · `against`: evaluation sets whose pictures are looked for in the data.
    """
    from vistune.report import write_comparison, write_data_report

    if beside:
        if images or against:
            raise RecipeError("--images and --against are for data, not for runs beside each other", "leave them out")
        return report_runs([path, *beside], out=out, language=language)
    if path.is_dir() and not (path / "generate.json").is_file():
        if out or images or against:
            raise RecipeError(f"{path}: is no data; --out, --images and --against are for data", "leave them out")
        if (path / "run.json").is_file():
            return report_run(path, language=language)
        if (path / "comparison.json").is_file():
            return write_comparison(path, language=language)
        raise DataError(
            f"{path}: neither a run, a comparison, nor generated data",
            "name a folder that `train`, `evaluate` of several models, or `generate` wrote",
        )
    found = picture_likeness(path, images, against, watch)
    return write_data_report(path, out=out, images=images, likeness=found, language=language)


def picture_likeness(path: Path, images: Path | None, against: Sequence[Path], watch: Watch) -> dict[str, Any]:
    """Near-duplicate pictures of a data set and what it shares with evaluation sets, as plain values."""
    from vistune.data import compare_pictures, pictures_of

    pictures = pictures_of(DataSource(file=path, images=images))
    with watch("compare pictures", len(pictures)) as advance:
        return asdict(compare_pictures(pictures, against, advance=advance))


def serve(
    model: Path,
    settings: Settings,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer OpenAI-style requests until the process is told to stop. Raises RecipeError where it may not listen."""
    try:
        from vistune.serving.memory import use_one_arena
        from vistune.serving.server import check, serve
    except ImportError as error:
        raise RecipeError(f"vistune serve needs {error.name}", "pip install 'vistune[serve]'") from None
    check(settings)  # before the weights are waited for
    use_one_arena()
    serve(load(model, device=device, dtype=dtype, quantize=quantize), settings, announce=announce)
