"""Plan and train: forecasts, dry runs, the self-test and training itself."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vistune.api.arguments import (
    DataLike,
    Overrides,
    PathLike,
    RecipeLike,
    as_path,
    as_recipe,
    as_sources,
    data_override,
)
from vistune.api.run import Run
from vistune.errors import RecipeError
from vistune.files import scratch_folder, user_cache
from vistune.notebook import notebook_progress
from vistune.planner.plan import PROCESSES
from vistune.progress import OnMessage, Progress, no_progress
from vistune.recipe import Recipe

if TYPE_CHECKING:
    from vistune.interop.load import ParentModel
    from vistune.planner.plan import Plan
    from vistune.processor import Processor
    from vistune.training import DryRunStage, GradientComparison


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
    recipe: RecipeLike,
    *,
    samples: int | None = None,
    processes: int = PROCESSES,
    flops: float | None = None,
    prices: PathLike | None = None,
    teacher: str | None = None,
    progress: Progress = notebook_progress,
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

    recipe = as_recipe(recipe)
    parent = parent_of(recipe)
    if parent is not None or backbones_are_there(recipe):
        check_recipe(recipe, parent)
    options = PlanOptions(samples=samples, processes=processes, flops=flops, prices=as_path(prices), teacher=teacher)
    return plan(recipe, options, parent=parent, progress=progress)


def train(
    recipe: RecipeLike,
    out: PathLike,
    *,
    data: DataLike | None = None,
    overrides: Overrides = (),
    resume: bool = False,
    progress: Progress = notebook_progress,
    on_message: OnMessage | None = None,
) -> Run:
    """Run a recipe's stages, in one process or in all that torchrun started; return the run folder.

    Args:
        recipe: Name of a shipped recipe, a YAML file, or a `Recipe`.
        out: Run folder.
        data: Training data, instead of the recipe's `data`: a path, a `DataSource`, a `datasets.Dataset`, a list of
            these, or a list of records (dicts as in a data file; images may be paths or PIL images). Records and
            datasets are written into the run folder first.
        overrides: Changes to the recipe: `{"stages.tune.steps": 100}`, or a list of `key.path=value`.
        resume: Continue from the newest checkpoint.
        progress: Shows progress bars; by default in notebooks only. `vistune.show_progress` shows them everywhere.
        on_message: Called with each message for the user, such as the parameter table and warnings about the loss; by
            default messages go to the logger `vistune.training`.

    Raises:
        Stopped: The run was asked to stop and saved its state.
    """
    from vistune.evaluation.models import validation_tasks
    from vistune.training import Hooks, open_world
    from vistune.training import Run as TrainingRun

    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder}: is a file, expected a folder", "give another folder")
    loaded = as_recipe(recipe, overrides)
    if data is not None:
        loaded = as_recipe(loaded, [data_override(as_sources(data, folder / "records"))])
    evaluate = validation_tasks(loaded)
    hooks = Hooks(evaluate=evaluate) if on_message is None else Hooks(on_message, evaluate)
    with open_world() as world:
        shown = progress if world.is_first else no_progress
        parent = parent_of(loaded, folder)
        run = TrainingRun(loaded, folder, progress=shown, parent=parent, world=world, hooks=hooks)
        run.start(resume=resume)
    return Run(folder)


def dry_run(recipe: RecipeLike, *, progress: Progress = notebook_progress) -> list[DryRunStage]:
    """Read, encode and plan like `train`, and raise the same errors; train nothing."""
    from vistune.evaluation.models import validation_tasks
    from vistune.training.preflight import dry_run

    recipe = as_recipe(recipe)
    validation_tasks(recipe)
    return dry_run(recipe, parent_of(recipe), progress=progress)


def selftest(recipe: RecipeLike, *, progress: Progress = notebook_progress) -> list[GradientComparison]:
    """Compare the losses and gradients of each stage's first step, computed in several ways.

    The step's samples are packed, computed with one sample per row, in two accumulated halves, and by all processes.
    """
    from vistune.training import Run as TrainingRun
    from vistune.training import open_world, selftest

    recipe = as_recipe(recipe)
    # A model of another layout is converted there, and shards are unpacked: both may be large, and /tmp is often small.
    writes = recipe.origin is not None or any(stage.shards is not None for stage in recipe.stages)
    scratch = scratch_folder(user_cache() / "selftest") if writes else nullcontext(Path("selftest"))
    with open_world() as world, scratch as folder:
        shown = progress if world.is_first else no_progress
        run = TrainingRun(recipe, folder, progress=shown, parent=parent_of(recipe, folder), world=world)
        return selftest(run)
